package tensor

import "github.com/herd-ml/herd/backend"

// The general operations. Operands of other shapes are repeated as NumPy does: axes
// are matched from the last, and one of extent 1, or one that is not there, is repeated.
// Only the second operand is.

// Add returns x + y. y is repeated to the shape of x.
func Add(c *Context, x, y *Tensor) *Tensor { return add(c, c.New(backend.F32, x.Shape()), x, y) }

// AddTo is Add with the sum in the memory of x, which must not be used afterwards. Where a
// tape needs the numbers of x, the sum has memory of its own.
func AddTo(c *Context, x, y *Tensor) *Tensor { return add(c, c.place(x, y), x, y) }

// add writes x + y to z.
func add(c *Context, z, x, y *Tensor) *Tensor {
	c.repeated(backend.Add, z, x, y)
	if c.tape != nil {
		c.recordAdd(z, x, y)
	}
	return z
}

// repeated runs an operation of x and y, repeated to the shape of x.
func (c *Context) repeated(op backend.Op, z, x, y *Tensor) {
	a := c.begin()
	a.In[0], a.In[1], a.Out[0] = c.use(x), broadcast(op, c.use(y), x.Shape()), c.use(z)
	c.exec.Run(op, a)
}

// Mul returns x * y, element by element. y is repeated to the shape of x.
func Mul(c *Context, x, y *Tensor) *Tensor {
	z := c.New(backend.F32, x.Shape())
	c.repeated(backend.Mul, z, x, y)
	if c.tape != nil {
		c.recordMul(z, x, y)
	}
	return z
}

// Scale returns s x.
func Scale(c *Context, x *Tensor, s float32) *Tensor { return Mul(c, x, c.Const(s)) }

// Const returns a tensor [1] of the step.
func (c *Context) Const(s float32) *Tensor {
	y := c.New(backend.F32, backend.Dims(1))
	one := [1]float32{s}
	c.exec.Write(y.view, one[:])
	return y
}

// fillWidth is how many numbers fill copies at once: few enough for the first cache.
const fillWidth = 1 << 12

// fill sets all numbers of x, a view without gaps, to s.
func (c *Context) fill(x backend.View, s float32) {
	m, n := c.Mark(), x.Shape.Elems()
	width := min(n, fillWidth)
	if width == 0 {
		return
	}
	c.filler = append(c.filler[:0], make([]float32, width)...)
	for i := range c.filler {
		c.filler[i] = s
	}
	z := c.vector(c.filler)
	part := func(from, rows, cols int) {
		to := backend.Contiguous(x.Buf, x.Type, x.Off+from, backend.Dims(rows, cols))
		c.copyView(to, broadcast(backend.Copy, z.view.Slice(0, 0, cols), to.Shape))
	}
	part(0, n/width, width)
	if n%width > 0 {
		part(n-n%width, 1, n%width)
	}
	if c.tape != nil {
		c.tape.release(z)
	}
	c.Release(m)
}

// copy writes the numbers of x to y.
func (c *Context) copy(y, x *Tensor) { c.copyView(c.use(y), c.use(x)) }

func (c *Context) copyView(y, x backend.View) {
	a := c.begin()
	a.In[0], a.Out[0] = x, y
	c.exec.Run(backend.Copy, a)
}

// accumulate adds x to y.
func (c *Context) accumulate(y backend.View, x *Tensor) {
	a := c.begin()
	a.In[0], a.In[1], a.Out[0] = y, c.use(x), y
	c.exec.Run(backend.Add, a)
}

// widened returns s with axes of extent 1 in front, so that it has as many axes as to. ok
// is false where s cannot be repeated to to.
func widened(s, to backend.Shape) (w backend.Shape, ok bool) {
	w.Rank = to.Rank
	more := to.Rank - s.Rank
	if more < 0 {
		return w, false
	}
	for i := range to.Rank {
		w.Dim[i] = 1
		if i >= more {
			w.Dim[i] = s.Dim[i-more]
		}
		if w.Dim[i] != 1 && w.Dim[i] != to.Dim[i] {
			return w, false
		}
	}
	return w, true
}

// broadcast repeats a view to a shape.
func broadcast(op backend.Op, v backend.View, s backend.Shape) backend.View {
	if v.Shape == s {
		return v
	}
	w, ok := widened(v.Shape, s)
	if !ok {
		panic(&backend.ShapeError{Op: op.String(), Detail: v.Shape.String() + " to " + s.String()})
	}
	more, old := s.Rank-v.Shape.Rank, v.Stride
	v.Stride = [backend.MaxRank]int{}
	for i := more; i < s.Rank; i++ {
		if w.Dim[i] == s.Dim[i] {
			v.Stride[i] = old[i-more]
		}
	}
	v.Shape = s
	return v
}

// unary runs an operation of one input. back computes its gradient, from y where ofY is
// set, else from x.
func unary(c *Context, op, back backend.Op, x *Tensor, ofY bool) *Tensor {
	y := c.New(backend.F32, x.Shape())
	c.run1(op, y, x)
	if c.tape != nil {
		c.recordUnary(back, y, x, ofY)
	}
	return y
}

// Exp returns e^x.
func Exp(c *Context, x *Tensor) *Tensor { return unary(c, backend.Exp, backend.Mul, x, true) }

// Log returns the natural logarithm of x.
func Log(c *Context, x *Tensor) *Tensor { return unary(c, backend.Log, backend.LogBackward, x, false) }

// Sigmoid returns 1 / (1 + e^-x).
func Sigmoid(c *Context, x *Tensor) *Tensor {
	return unary(c, backend.Sigmoid, backend.SigmoidBackward, x, true)
}

// Tanh returns the hyperbolic tangent of x.
func Tanh(c *Context, x *Tensor) *Tensor {
	return unary(c, backend.Tanh, backend.TanhBackward, x, true)
}

// GELU returns x Phi(x), exactly.
func GELU(c *Context, x *Tensor) *Tensor {
	return unary(c, backend.GELU, backend.GELUBackward, x, false)
}

// Softmax returns exp(x) divided by its sum along the last axis.
func Softmax(c *Context, x *Tensor) *Tensor {
	return unary(c, backend.Softmax, backend.SoftmaxBackward, x, true)
}

// Sum adds along an axis, which keeps extent 1.
func Sum(c *Context, x *Tensor, axis int) *Tensor {
	y := c.reduce(backend.Sum, x, axis)
	if c.tape != nil {
		c.recordSum(y, x)
	}
	return y
}

// Max returns the largest number along an axis, which keeps extent 1.
func Max(c *Context, x *Tensor, axis int) *Tensor {
	y := c.reduce(backend.Max, x, axis)
	if c.tape != nil {
		c.recordMax(y, x, axis)
	}
	return y
}

func (c *Context) reduce(op backend.Op, x *Tensor, axis int) *Tensor {
	s := x.Shape()
	if axis < 0 || axis >= s.Rank {
		panic(&backend.ShapeError{Op: op.String(), Detail: "axis of " + s.String()})
	}
	s.Dim[axis] = 1
	y := c.New(backend.F32, s)
	a := c.begin()
	a.In[0], a.Out[0], a.Axis = c.use(x), c.use(y), axis
	c.exec.Run(op, a)
	return y
}

// BatchMatMul multiplies activations: [B,M,K] by [B,K,N] is [B,M,N].
func BatchMatMul(c *Context, x, y *Tensor) *Tensor {
	if x.Shape().Rank != 3 || y.Shape().Rank != 3 {
		panic(&backend.ShapeError{Op: "BatchMatMul", Detail: x.Shape().String() + " by " + y.Shape().String()})
	}
	z := c.New(backend.F32, backend.Dims(x.Shape().Dim[0], x.Shape().Dim[1], y.Shape().Dim[2]))
	c.run2(backend.BatchMatMul, z, x, y)
	if c.tape != nil {
		c.recordBatchMatMul(z, x, y)
	}
	return z
}

// Slice returns a copy of the indices [from, from+n) of an axis.
func Slice(c *Context, x *Tensor, axis, from, n int) *Tensor {
	part := c.use(x).Slice(axis, from, n)
	y := c.New(backend.F32, part.Shape)
	c.copyView(y.view, part)
	if c.tape != nil {
		c.recordSlice("Slice", y, x, axis, from)
	}
	return y
}

// Transpose returns a copy with two axes exchanged.
func Transpose(c *Context, x *Tensor, a, b int) *Tensor {
	v := c.use(x).Transpose(a, b)
	y := c.New(backend.F32, v.Shape)
	c.copyView(y.view, v)
	if c.tape != nil {
		c.recordCopy("Transpose", y, x, func(dy backend.View) backend.View { return dy.Transpose(a, b) })
	}
	return y
}

// Reshape returns a copy of another shape with as many elements.
func Reshape(c *Context, x *Tensor, s backend.Shape) *Tensor {
	y := c.New(backend.F32, x.Shape())
	c.copy(y, x)
	y.view = y.view.Reshape(s)
	if c.tape != nil {
		c.recordCopy("Reshape", y, x, func(dy backend.View) backend.View { return dy.Reshape(x.Shape()) })
	}
	return y
}

// CopyTo writes the numbers of x over those of y, which has the same shape. A tape does not
// record it, so it is for steps without one.
func CopyTo(c *Context, y, x *Tensor) {
	if c.Recording() || y.param || y.ofParam {
		panic(&backend.ShapeError{Op: "CopyTo", Detail: "beside a tape, or to a parameter"})
	}
	c.copy(y, x)
}

// Concat joins tensors along an axis; their other extents are the same.
func Concat(c *Context, axis int, xs ...*Tensor) *Tensor {
	if len(xs) == 0 || axis < 0 || axis >= xs[0].Shape().Rank {
		panic(&backend.ShapeError{Op: "Concat", Detail: "of nothing, or along an axis that is not there"})
	}
	s := xs[0].Shape()
	s.Dim[axis] = 0
	for _, x := range xs {
		s.Dim[axis] += x.Shape().Dim[axis]
	}
	y := c.New(backend.F32, s)
	from := 0
	for _, x := range xs {
		n := x.Shape().Dim[axis]
		c.copyView(y.view.Slice(axis, from, n), c.use(x)) // refuses what does not fit
		from += n
	}
	if c.tape != nil {
		c.recordConcat(y, xs, axis)
	}
	return y
}

func (c *Context) recordConcat(y *Tensor, xs []*Tensor, axis int) {
	xs = append([]*Tensor(nil), xs...)
	c.record("Concat", xs, nil, []*Tensor{y}, nil, func(t *Tape) {
		from := 0
		for _, x := range xs {
			n := x.Shape().Dim[axis]
			if c.differentiable(x) {
				dx := c.New(backend.F32, x.Shape())
				c.copyView(dx.view, y.grad.view.Slice(axis, from, n))
				t.add(x, dx)
			}
			from += n
		}
	}, nil)
}
