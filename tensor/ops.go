package tensor

import "github.com/herd-ml/herd/backend"

// The functions below run one operation each; formulas and sources are with
// the operation of the same name in package backend, and so is the gradient.

// MatMul returns x W^T [R,N] for x [R,K] and a matrix W [N,K].
func MatMul(c *Context, x *Tensor, w *Param) *Tensor {
	return MatMuls(c, x, [backend.MaxWeights]*Param{w})[0]
}

// MatMuls multiplies one input with up to three matrices (q, k, v or gate, up)
// in one dispatch. Absent weights give absent results.
func MatMuls(c *Context, x *Tensor, w [backend.MaxWeights]*Param) [backend.MaxWeights]*Tensor {
	if c.watch != nil {
		c.watch(x, w)
	}
	var y [backend.MaxWeights]*Tensor
	r := x.Rows()
	for i, p := range w {
		if p != nil {
			y[i] = c.New(backend.F32, backend.Dims(r, p.Shape.Dim[0]))
		}
	}
	// Weights of one call may want different rounding: a dispatch for each.
	var done [backend.MaxWeights]bool
	for i := range w {
		if w[i] == nil || done[i] {
			continue
		}
		round := c.rounding(w[i])
		a := c.begin()
		a.In[0], a.Round = c.use(x), round
		n := 0
		for j := i; j < len(w); j++ {
			if w[j] != nil && c.rounding(w[j]) == round {
				a.W[n], a.Out[n] = w[j].multiplied(round), c.use(y[j])
				done[j] = true
				n++
			}
		}
		c.exec.Run(backend.MatMul, a)
	}
	if c.tape != nil {
		c.recordMatMuls(x, w, y)
	}
	return y
}

// MatMulAdd returns y + x W^T for y [R,N], x [R,K] and a matrix W [N,K]. The sum is in the
// memory of y, which must not be used afterwards. Where a tape needs the numbers of y, the
// sum has memory of its own.
func MatMulAdd(c *Context, y, x *Tensor, w *Param) *Tensor {
	if c.watch != nil {
		c.watch(x, [backend.MaxWeights]*Param{w})
	}
	z, round := c.place(y, x), c.rounding(w)
	a := c.begin()
	a.In[0], a.In[1], a.Out[0] = c.use(x), c.use(y), c.use(z)
	a.W[0], a.Round = w.multiplied(round), round
	c.exec.Run(backend.MatMulAdd, a)
	if c.tape != nil {
		c.recordMatMulAdd(z, y, x, w)
	}
	return z
}

// MatMulSwiGLU returns silu(x Gate^T) * x Up^T [R,N] for x [R,K] and two matrices
// [N,K].
func MatMulSwiGLU(c *Context, x *Tensor, gate, up *Param) *Tensor {
	round := c.rounding(gate)
	if c.rounding(up) != round || c.Recording() { // backward wants the products
		y := MatMuls(c, x, [backend.MaxWeights]*Param{gate, up})
		return SwiGLU(c, y[0], y[1])
	}
	if c.watch != nil {
		c.watch(x, [backend.MaxWeights]*Param{gate, up})
	}
	y := c.New(backend.F32, backend.Dims(x.Rows(), gate.Shape.Dim[0]))
	a := c.begin()
	a.In[0], a.Out[0], a.Round = c.use(x), c.use(y), round
	a.W[0], a.W[1] = gate.multiplied(round), up.multiplied(round)
	c.exec.Run(backend.MatMulSwiGLU, a)
	if c.tape != nil {
		y.wantsGrad = c.differentiable(x) || gate.grad.Present() || up.grad.Present()
	}
	return y
}

// rounding is how the input of a product with p is rounded.
func (c *Context) rounding(p *Param) backend.Rounding {
	w := p.bound("MatMul")
	switch c.opts.Precision {
	case backend.PrecisionF32:
		return backend.RoundNone
	case backend.PrecisionBF16:
		if w.Type().Float() || p.Round16 {
			return backend.RoundBothBF16
		}
	}
	r := c.exec.Backend().Rounding(w.Type())
	if g := r.Group(); g > 0 && w.Cols()%g != 0 {
		return backend.RoundNone
	}
	if p.Round16 {
		return r.To16()
	}
	return r
}

// roundingBack is how the operands of backward products are rounded, and those of
// attention and, forward too, of the loss.
func (c *Context) roundingBack() backend.Rounding {
	if c.opts.Precision == backend.PrecisionBF16 {
		return backend.RoundBothBF16
	}
	return backend.RoundNone
}

// Embedding returns the rows ids [R] of a matrix [V,D].
func Embedding(c *Context, ids *Tensor, w *Param) *Tensor {
	y := c.New(backend.F32, backend.Dims(ids.Cols(), w.Shape.Dim[1]))
	a := c.begin()
	a.In[0], a.W[0], a.Out[0] = c.use(ids), w.bound("Embedding"), c.use(y)
	c.exec.Run(backend.Embedding, a)
	if c.tape != nil {
		c.recordEmbedding(y, ids, w)
	}
	return y
}

// RMSNorm normalises the rows of x [R,D] and multiplies with w [D].
func RMSNorm(c *Context, x *Tensor, w *Param, eps float32) *Tensor {
	y := c.New(backend.F32, x.Shape())
	c.rmsNorm(y, x, w, eps)
	if c.tape != nil {
		c.recordRMSNorm(y, x, w, eps)
	}
	return y
}

// rmsNorm writes the normalised rows of x to y.
func (c *Context) rmsNorm(y, x *Tensor, w *Param, eps float32) {
	a := c.begin()
	a.In[0], a.In[1], a.Out[0], a.Eps = c.use(x), c.use(w.Value()), c.use(y), eps
	c.exec.Run(backend.RMSNorm, a)
}

// LayerNorm subtracts the mean of each row of x [R,D], divides by the row's standard
// deviation, multiplies with w [D] and adds b [D].
func LayerNorm(c *Context, x *Tensor, w, b *Param, eps float32) *Tensor {
	y := c.New(backend.F32, x.Shape())
	c.layerNorm(y, x, w, b, eps)
	if c.tape != nil {
		c.recordLayerNorm(y, x, w, b, eps)
	}
	return y
}

func (c *Context) layerNorm(y, x *Tensor, w, b *Param, eps float32) {
	a := c.begin()
	a.In[0], a.In[1], a.In[2], a.Out[0], a.Eps = c.use(x), c.use(w.Value()), c.use(b.Value()), c.use(y), eps
	c.exec.Run(backend.LayerNorm, a)
}

// Unfold returns what a window sees of x [R,C], a row for each of its places in the
// segments of a layout, nil for the step's: [S,T*C] for T taps, S what Window.Outputs says.
func Unfold(c *Context, x *Tensor, w backend.Window, l *backend.Layout) *Tensor {
	l = c.layoutOr(l)
	y := c.New(backend.F32, backend.Dims(w.Outputs(l), w.Taps()*x.Cols()))
	c.slide(backend.Unfold, y, x, w, l)
	if c.tape != nil {
		c.recordUnfold(y, x, w, l)
	}
	return y
}

// slide runs Unfold or Fold.
func (c *Context) slide(op backend.Op, y, x *Tensor, w backend.Window, l *backend.Layout) {
	a := c.begin()
	a.In[0], a.Out[0], a.Window, a.Layout = c.use(x), c.use(y), w, l
	c.exec.Run(op, a)
}

// RoPETable returns the rotations [R,hd] of the positions of a layout, nil for the step's,
// for the frequencies freqs [hd/2].
func RoPETable(c *Context, freqs *Param, l *backend.Layout) *Tensor {
	l = c.layoutOr(l)
	y := c.New(backend.F32, backend.Dims(l.Rows(), 2*freqs.Shape.Dim[0]))
	a := c.begin()
	a.In[0], a.Layout, a.Out[0] = c.use(freqs.Value()), l, c.use(y)
	c.exec.Run(backend.RoPETable, a)
	return y
}

// RoPE rotates the heads of x [R,H*hd] by a table [R,hd].
func RoPE(c *Context, x, table *Tensor) *Tensor {
	return rotate(c, c.New(backend.F32, x.Shape()), x, table)
}

// RoPETo is RoPE with the result in the memory of x, which must not be used afterwards.
// Where a tape needs the numbers of x, the result has memory of its own.
func RoPETo(c *Context, x, table *Tensor) *Tensor { return rotate(c, c.place(x, table), x, table) }

// rotate writes the rotated heads of x to y.
func rotate(c *Context, y, x, table *Tensor) *Tensor {
	c.run2(backend.RoPE, y, x, table)
	if c.tape != nil {
		c.recordRoPE(y, x, table)
	}
	return y
}

// run1 runs an operation of one input and one output.
func (c *Context) run1(op backend.Op, y, x *Tensor) {
	a := c.begin()
	a.In[0], a.Out[0] = c.use(x), c.use(y)
	c.exec.Run(op, a)
}

// run2 runs an operation of two inputs and one output.
func (c *Context) run2(op backend.Op, z, x, y *Tensor) {
	a := c.begin()
	a.In[0], a.In[1], a.Out[0] = c.use(x), c.use(y), c.use(z)
	c.exec.Run(op, a)
}

// SwiGLU returns silu(gate) * up.
func SwiGLU(c *Context, gate, up *Tensor) *Tensor {
	y := c.New(backend.F32, gate.Shape())
	c.run2(backend.SwiGLU, y, gate, up)
	if c.tape != nil {
		c.recordSwiGLU(y, gate, up)
	}
	return y
}

// Gather returns rows idx of x.
func Gather(c *Context, x *Tensor, idx []int32) *Tensor {
	y := c.New(backend.F32, backend.Dims(len(idx), x.Cols()))
	ids := c.IDs(idx)
	c.run2(backend.Gather, y, x, ids)
	if c.tape != nil {
		c.recordGather(y, x, ids)
	}
	return y
}

// ScatterAdd returns a matrix [n,D] whose row idx[r] is the sum of those rows r of x
// [R,D].
func ScatterAdd(c *Context, x *Tensor, idx []int32, n int) *Tensor {
	y := c.New(backend.F32, backend.Dims(n, x.Cols()))
	c.fill(y.view, 0)
	ids := c.IDs(idx)
	c.run2(backend.ScatterAdd, y, x, ids)
	if c.tape != nil {
		c.recordScatterAdd(y, x, ids)
	}
	return y
}

// SliceRows returns rows [from, from+n) of a matrix, in the same memory.
func SliceRows(c *Context, x *Tensor, from, n int) *Tensor {
	y := c.tensor()
	y.view, y.ofParam = c.use(x).Slice(0, from, n), x.param || x.ofParam
	if c.Recording() { // the two share memory: no result may take it, nor may it be dropped
		x.readBack, x.hasWindow = true, true
	}
	y.readBack = x.readBack
	if c.tape != nil {
		c.recordSlice("SliceRows", y, x, 0, from)
	}
	return y
}
