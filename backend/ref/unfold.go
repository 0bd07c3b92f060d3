package ref

// eachTap calls f for every row that a window sees: out is the window, tap where the row
// is in it, in the row.
func eachTap(x *Values, f func(out, tap, in int)) {
	w, out := x.Args.Window, 0
	for _, s := range x.Args.Layout.Segments {
		height := s.Rows / w.Width
		for top := -w.Pad[0]; top+w.Kernel[0] <= height+w.Pad[0]; top += w.Stride[0] {
			for left := -w.Pad[1]; left+w.Kernel[1] <= w.Width+w.Pad[1]; left += w.Stride[1] {
				for a := range w.Kernel[0] {
					for b := range w.Kernel[1] {
						i, j := top+a, left+b
						if i >= 0 && i < height && j >= 0 && j < w.Width {
							f(out, a*w.Kernel[1]+b, s.Row+i*w.Width+j)
						}
					}
				}
				out++
			}
		}
	}
}

func unfold(x *Values) {
	c, wide := x.Args.In[0].Cols(), x.Args.Out[0].Cols()
	clear(x.Out[0])
	eachTap(x, func(out, tap, in int) { copy(x.Out[0][out*wide+tap*c:][:c], x.In[0][in*c:]) })
}

func fold(x *Values) {
	c, wide := x.Args.Out[0].Cols(), x.Args.In[0].Cols()
	clear(x.Out[0])
	eachTap(x, func(out, tap, in int) { axpy(x.Out[0][in*c:][:c], 1, x.In[0][out*wide+tap*c:][:c]) })
}
