package backend

// Window is what a convolution slides over the rows of a segment, which are the pixels of
// a picture, row by row, or the moments of a sequence. Pairs are {down, across}.
type Window struct {
	Width  int    // pixels in a row of the picture; 1 for a sequence
	Kernel [2]int // pixels that the window sees
	Stride [2]int // from one window to the next
	Pad    [2]int // pixels around the segment, zeros
}

// Along is a window over a sequence.
func Along(kernel, stride, pad int) Window {
	return Window{Width: 1, Kernel: [2]int{kernel, 1}, Stride: [2]int{stride, 1}, Pad: [2]int{pad, 0}}
}

// Taps is how many rows a window sees, those of the padding included.
func (w Window) Taps() int { return w.Kernel[0] * w.Kernel[1] }

// Grid is how many windows there are in a segment of so many rows, down and across. A
// window that does not fit is none.
func (w Window) Grid(rows int) (down, across int) {
	return w.fit(rows/w.Width, 0), w.fit(w.Width, 1)
}

// fit is how many windows there are along an axis of n pixels.
func (w Window) fit(n, axis int) int {
	room := n + 2*w.Pad[axis] - w.Kernel[axis]
	if room < 0 {
		return 0
	}
	return room/w.Stride[axis] + 1
}

// Outputs is how many windows there are in all segments of a layout.
func (w Window) Outputs(l *Layout) int {
	n := 0
	for i := range l.Segments {
		down, across := w.Grid(l.Segments[i].Rows)
		n += down * across
	}
	return n
}

// check panics where the window is none, or the segments are no pictures of its width.
func (w Window) check(l *Layout, name string) {
	for i := range 2 {
		if w.Width <= 0 || w.Kernel[i] <= 0 || w.Stride[i] <= 0 || w.Pad[i] < 0 {
			panic(shapeErr(name, "window %+v", w))
		}
	}
	for i := range l.Segments {
		if n := l.Segments[i].Rows; n%w.Width != 0 {
			panic(shapeErr(name, "segment %d of %d rows is no picture of width %d", i, n, w.Width))
		}
	}
}

func checkUnfold(a *Args, name string) { checkWindow(a, name, &a.In[0], &a.Out[0]) }
func checkFold(a *Args, name string)   { checkWindow(a, name, &a.Out[0], &a.In[0]) }

// checkWindow checks the rows x of a layout and what windows see of them, y.
func checkWindow(a *Args, name string, x, y *View) {
	r, c := x.Rows(), x.Cols()
	matrix(name, "x", x, F32, r, c)
	a.Layout.attends(name, r)
	a.Window.check(a.Layout, name)
	matrix(name, "what the windows see", y, F32, a.Window.Outputs(a.Layout), a.Window.Taps()*c)
}
