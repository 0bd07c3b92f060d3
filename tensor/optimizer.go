package tensor

import "github.com/herd-ml/herd/backend"

// The functions below change parameters. A tape does not record them.

// AdamW changes the numbers of a parameter, and the running means m and v, by the
// parameter's gradient, as Op AdamW says. It panics for a parameter that has no gradient or
// whose numbers cannot change.
func AdamW(c *Context, p *Param, m, v backend.View, step backend.AdamWArgs) {
	a := c.begin()
	a.In[0], a.Out[0], a.Out[1], a.Out[2] = p.grad, p.Numbers(), m, v
	a.AdamW = step
	c.exec.Run(backend.AdamW, a)
	if p.weight != nil {
		p.weight.Changed()
	}
}

// SumSquares returns the sum of the squares of a view without gaps, [1].
func SumSquares(c *Context, x backend.View) *Tensor {
	y := c.New(backend.F32, backend.Dims(1))
	a := c.begin()
	a.In[0], a.Out[0] = x, c.use(y)
	c.exec.Run(backend.SumSquares, a)
	return y
}

// Zero makes the numbers of a view without gaps zero.
func Zero(c *Context, x backend.View) {
	if !x.IsContiguous() {
		panic(&backend.ShapeError{Op: "Zero", Detail: "a view of " + x.Shape.String() + " has gaps"})
	}
	c.fill(x, 0)
}
