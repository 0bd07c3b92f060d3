package tensor

import "github.com/herd-ml/herd/backend"

// RowNorms returns the norm of each row of W + scale B A, [N]: W [N,K] of any type, A [r,K],
// B [N,r]; or of W alone, where A and B are nil. A tape does not record it.
func RowNorms(c *Context, w, a, b *Param, scale float32) *Tensor {
	y := c.New(backend.F32, backend.Dims(w.Shape.Dim[0]))
	args := c.rowNorms("RowNorms", w, a, b, scale)
	args.Out[0] = c.use(y)
	c.exec.Run(backend.RowNorms, args)
	return y
}

// InverseRowNorms writes 1 divided by each norm that RowNorms would return to the vector to
// [N], and 0 where a norm is 0. A tape does not record it.
func InverseRowNorms(c *Context, to, w, a, b *Param, scale float32) {
	args := c.rowNorms("InverseRowNorms", w, a, b, scale)
	args.Out[1] = c.use(to.Value())
	c.exec.Run(backend.RowNorms, args)
}

// rowNorms are the operands of both, without outputs.
func (c *Context) rowNorms(name string, w, a, b *Param, scale float32) *backend.Args {
	args := c.begin()
	args.W[0] = w.bound(name)
	if a != nil || b != nil {
		args.W[1], args.W[2], args.Scale = a.bound(name), b.bound(name), scale
	}
	return args
}
