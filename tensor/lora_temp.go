package tensor

import "github.com/herd-ml/herd/backend"

// Mul returns x * y; y may be a vector that every row is multiplied with.
func Mul(c *Context, x, y *Tensor) *Tensor {
	z := c.New(backend.F32, x.Shape())
	a := c.begin()
	a.In[0], a.In[1], a.Out[0] = c.use(x), c.use(y), c.use(z)
	if y.Shape().Rank < x.Shape().Rank {
		a.In[1] = broadcast(a.In[1], x.Shape())
	}
	c.exec.Run(backend.Mul, a)
	return z
}

// Scale returns s x.
func Scale(c *Context, x *Tensor, s float32) *Tensor {
	k := c.New(backend.F32, backend.Dims(1))
	c.Write(k, []float32{s})
	z := c.New(backend.F32, x.Shape())
	a := c.begin()
	a.In[0], a.In[1], a.Out[0] = c.use(x), c.use(k), c.use(z)
	a.In[1].Shape, a.In[1].Stride = x.Shape(), [backend.MaxRank]int{}
	c.exec.Run(backend.Mul, a)
	return z
}
