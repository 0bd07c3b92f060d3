package tensor

import "github.com/herd-ml/herd/backend"

// Each function below records one operation: how its gradient is computed, by the
// operations that backend.Op.Backward names.

type three = [backend.MaxWeights]*Tensor

func (c *Context) recordMatMuls(x *Tensor, w [backend.MaxWeights]*Param, y three) {
	var params []*Param
	var out []*Tensor
	for i, p := range w {
		if p != nil {
			params, out = append(params, p), append(out, y[i])
		}
	}
	c.record("MatMul", []*Tensor{x}, params, out, []*Tensor{x}, func(t *Tape) {
		var dy three
		for i := range y {
			if y[i] != nil {
				dy[i] = y[i].grad
			}
		}
		t.matMulBackward(x, w, dy)
	}, nil)
}

func (c *Context) recordMatMulAdd(z, y, x *Tensor, w *Param) {
	c.record("MatMulAdd", []*Tensor{y, x}, []*Param{w}, []*Tensor{z}, []*Tensor{x}, func(t *Tape) {
		t.matMulBackward(x, [backend.MaxWeights]*Param{w}, three{z.grad})
		t.add(y, z.takeGrad())
	}, nil)
}

// matMulBackward adds to the gradients of x and of those weights that have a dy.
func (t *Tape) matMulBackward(x *Tensor, w [backend.MaxWeights]*Param, dy three) {
	c := t.c
	in, wanted := t.numbers(x), false
	var dx *Tensor
	if c.differentiable(x) {
		dx = c.New(backend.F32, x.Shape())
	}
	a := c.begin()
	a.In[0], a.Round = in, c.roundingBack()
	n := 0
	for i, p := range w {
		if p == nil || dy[i] == nil {
			continue
		}
		a.W[n], a.In[1+n], a.Out[1+n] = p.weight, c.use(dy[i]), p.grad
		wanted = wanted || p.grad.Present()
		n++
	}
	if dx != nil {
		a.Out[0] = dx.view
	}
	if dx != nil || wanted {
		c.exec.Run(backend.MatMulBackward, a)
	}
	if dx != nil {
		t.add(x, dx)
	}
}

func (c *Context) recordEmbedding(y, ids *Tensor, w *Param) {
	c.record("Embedding", nil, []*Param{w}, []*Tensor{y}, []*Tensor{ids}, func(t *Tape) {
		a := c.begin()
		a.In[0], a.In[1], a.Out[0] = c.use(ids), c.use(y.grad), w.grad
		c.exec.Run(backend.EmbeddingBackward, a)
	}, nil)
}

func (c *Context) recordRMSNorm(y, x *Tensor, w *Param, eps float32) {
	c.record("RMSNorm", []*Tensor{x}, []*Param{w}, []*Tensor{y}, []*Tensor{x}, func(t *Tape) {
		in := t.numbers(x)
		var dx *Tensor
		if c.differentiable(x) {
			dx = c.New(backend.F32, x.Shape())
		}
		a := c.begin()
		a.In[0], a.In[1], a.In[2], a.Eps = in, c.use(w.Value()), c.use(y.grad), eps
		if dx != nil {
			a.Out[0] = dx.view
		}
		a.Out[1] = w.grad
		c.exec.Run(backend.RMSNormBackward, a)
		if dx != nil {
			t.add(x, dx)
		}
	}, func(y *Tensor) {
		c.tape.numbers(x)
		c.rmsNorm(y, x, w, eps)
	})
}

func (c *Context) recordLayerNorm(y, x *Tensor, w, b *Param, eps float32) {
	c.record("LayerNorm", []*Tensor{x}, []*Param{w, b}, []*Tensor{y}, []*Tensor{x}, func(t *Tape) {
		in := t.numbers(x)
		var dx *Tensor
		if c.differentiable(x) {
			dx = c.New(backend.F32, x.Shape())
		}
		a := c.begin()
		a.In[0], a.In[1], a.In[2], a.Eps = in, c.use(w.Value()), c.use(y.grad), eps
		if dx != nil {
			a.Out[0] = dx.view
		}
		a.Out[1], a.Out[2] = w.grad, b.grad
		c.exec.Run(backend.LayerNormBackward, a)
		if dx != nil {
			t.add(x, dx)
		}
	}, func(y *Tensor) {
		c.tape.numbers(x)
		c.layerNorm(y, x, w, b, eps)
	})
}

func (c *Context) recordUnfold(y, x *Tensor, w backend.Window, l *backend.Layout) {
	c.record("Unfold", []*Tensor{x}, nil, []*Tensor{y}, nil, func(t *Tape) {
		dx := c.New(backend.F32, x.Shape())
		c.slide(backend.Fold, dx, y.grad, w, l)
		t.add(x, dx)
	}, nil)
}

func (c *Context) recordRoPE(y, x, table *Tensor) {
	c.record("RoPE", []*Tensor{x}, nil, []*Tensor{y}, []*Tensor{table}, func(t *Tape) {
		g := y.takeGrad()
		c.run2(backend.RoPEBackward, g, g, table)
		t.add(x, g)
	}, nil)
}

// recordAttention records attention to keys and values in rows; lse is the log of the sum
// of exp of the scores. Keys and values in pages have no gradient: Backward refuses them.
func (c *Context) recordAttention(y, lse, q, k, v *Tensor, o AttentionOptions) {
	in := []*Tensor{q, k, v}
	if k == nil {
		in = in[:1]
	}
	c.record("Attention", in, nil, []*Tensor{y}, append([]*Tensor{y}, in...), func(t *Tape) {
		var grads three
		for i, x := range in {
			t.numbers(x)
			if c.differentiable(x) {
				grads[i] = c.New(backend.F32, x.Shape())
			}
		}
		a := c.begin()
		for i, x := range in {
			a.In[i] = c.use(x)
			if grads[i] != nil {
				a.Out[i] = grads[i].view
			}
		}
		a.In[3], a.In[4] = c.use(y), c.use(y.grad)
		if lse != nil {
			a.In[5] = c.use(lse)
		}
		a.Layout, a.KV, a.Scale, a.Round = o.Layout, o.KV, o.Scale, c.roundingBack()
		c.exec.Run(backend.AttentionBackward, a)
		for i, g := range grads {
			if g != nil {
				t.add(in[i], g)
			}
		}
		if lse != nil {
			t.release(lse)
		}
	}, nil)
}

func (c *Context) recordSwiGLU(y, gate, up *Tensor) {
	c.record("SwiGLU", []*Tensor{gate, up}, nil, []*Tensor{y}, []*Tensor{gate, up}, func(t *Tape) {
		in := [2]backend.View{t.numbers(gate), t.numbers(up)}
		dgate, dup := c.New(backend.F32, y.Shape()), c.New(backend.F32, y.Shape())
		a := c.begin()
		a.In[0], a.In[1], a.In[2] = in[0], in[1], c.use(y.grad)
		a.Out[0], a.Out[1] = dgate.view, dup.view
		c.exec.Run(backend.SwiGLUBackward, a)
		t.add(gate, dgate)
		t.add(up, dup)
	}, func(y *Tensor) {
		c.tape.numbers(gate)
		c.tape.numbers(up)
		c.run2(backend.SwiGLU, y, gate, up)
	})
}

func (c *Context) recordGather(y, x, ids *Tensor) {
	c.record("Gather", []*Tensor{x}, nil, []*Tensor{y}, []*Tensor{ids}, func(t *Tape) {
		dx := c.New(backend.F32, x.Shape())
		c.fill(dx.view, 0)
		c.run2(backend.ScatterAdd, dx, y.grad, ids)
		t.add(x, dx)
	}, nil)
}

func (c *Context) recordScatterAdd(y, x, ids *Tensor) {
	c.record("ScatterAdd", []*Tensor{x}, nil, []*Tensor{y}, []*Tensor{ids}, func(t *Tape) {
		dx := c.New(backend.F32, x.Shape())
		c.run2(backend.Gather, dx, y.grad, ids)
		t.add(x, dx)
	}, nil)
}

// recordSlice records that y is x from an index of an axis on.
func (c *Context) recordSlice(name string, y, x *Tensor, axis, from int) {
	c.record(name, []*Tensor{x}, nil, []*Tensor{y}, nil, func(t *Tape) {
		if x.grad == nil || x.param {
			dx := c.New(backend.F32, x.Shape())
			c.fill(dx.view, 0)
			c.copyView(dx.view.Slice(axis, from, y.Shape().Dim[axis]), y.grad.view)
			t.add(x, dx)
			return
		}
		c.accumulate(x.grad.view.Slice(axis, from, y.Shape().Dim[axis]), y.grad)
	}, nil)
}

// recordCopy records that y is x in another order. back returns the view of dy whose
// elements lie in the order of x.
func (c *Context) recordCopy(name string, y, x *Tensor, back func(dy backend.View) backend.View) {
	c.record(name, []*Tensor{x}, nil, []*Tensor{y}, nil, func(t *Tape) {
		dx := c.New(backend.F32, x.Shape())
		c.copyView(dx.view, back(y.grad.view))
		t.add(x, dx)
	}, nil)
}

// recordUnary records y = f(x). op computes the gradient from two inputs: y where ofY is
// set, else x, and dy.
func (c *Context) recordUnary(op backend.Op, y, x *Tensor, ofY bool) {
	of := x
	if ofY {
		of = y
	}
	c.record(op.String(), []*Tensor{x}, nil, []*Tensor{y}, []*Tensor{of}, func(t *Tape) {
		t.numbers(of)
		dx := c.New(backend.F32, x.Shape())
		c.run2(op, dx, of, y.grad)
		t.add(x, dx)
	}, nil)
}

// recordAdd records z = x + y, where y is repeated to the shape of x.
func (c *Context) recordAdd(z, x, y *Tensor) {
	c.record("Add", []*Tensor{x, y}, nil, []*Tensor{z}, nil, func(t *Tape) {
		g := z.takeGrad()
		if c.differentiable(y) {
			t.add(y, t.unbroadcast(g.view, y))
		}
		t.add(x, g)
	}, nil)
}

// recordMul records z = x y, where y is repeated to the shape of x.
func (c *Context) recordMul(z, x, y *Tensor) {
	c.record("Mul", []*Tensor{x, y}, nil, []*Tensor{z}, []*Tensor{x, y}, func(t *Tape) {
		t.numbers(x)
		t.numbers(y)
		if c.differentiable(y) {
			p := c.New(backend.F32, z.Shape())
			c.run2(backend.Mul, p, z.grad, x)
			t.add(y, t.unbroadcast(p.view, y))
			t.release(p)
		}
		if c.differentiable(x) {
			dx := c.New(backend.F32, x.Shape())
			a := c.begin()
			a.In[0], a.In[1], a.Out[0] = c.use(z.grad), broadcast(backend.Mul, c.use(y), z.Shape()), dx.view
			c.exec.Run(backend.Mul, a)
			t.add(x, dx)
		}
	}, nil)
}

// unbroadcast returns a new tensor of y's shape: g summed over what y was repeated along.
func (t *Tape) unbroadcast(g backend.View, y *Tensor) *Tensor {
	c := t.c
	dy := c.New(backend.F32, y.Shape())
	wide, _ := widened(y.Shape(), g.Shape)
	var old *Tensor
	for i := range g.Shape.Rank {
		if wide.Dim[i] == g.Shape.Dim[i] {
			continue
		}
		s := g.Shape
		s.Dim[i] = 1
		sum := c.New(backend.F32, s)
		a := c.begin()
		a.In[0], a.Out[0], a.Axis = g, sum.view, i
		c.exec.Run(backend.Sum, a)
		if old != nil {
			t.release(old)
		}
		g, old = sum.view, sum
	}
	c.copyView(dy.view.Reshape(wide), g)
	if old != nil {
		t.release(old)
	}
	return dy
}

func (c *Context) recordSum(y, x *Tensor) {
	c.recordCopy("Sum", y, x, func(dy backend.View) backend.View { return broadcast(backend.Copy, dy, x.Shape()) })
}

func (c *Context) recordMax(y, x *Tensor, axis int) {
	c.record("Max", []*Tensor{x}, nil, []*Tensor{y}, []*Tensor{x, y}, func(t *Tape) {
		in := t.numbers(x)
		dx := c.New(backend.F32, x.Shape())
		a := c.begin()
		a.In[0], a.In[1], a.In[2], a.Out[0], a.Axis = in, c.use(y), c.use(y.grad), dx.view, axis
		c.exec.Run(backend.MaxBackward, a)
		t.add(x, dx)
	}, nil)
}

func (c *Context) recordBatchMatMul(z, x, y *Tensor) {
	c.record("BatchMatMul", []*Tensor{x, y}, nil, []*Tensor{z}, []*Tensor{x, y}, func(t *Tape) {
		xs, ys := t.numbers(x), t.numbers(y)
		product := func(of *Tensor, p, q backend.View) {
			if !c.differentiable(of) {
				return
			}
			d := c.New(backend.F32, of.Shape())
			a := c.begin()
			a.In[0], a.In[1], a.Out[0] = p, q, d.view
			c.exec.Run(backend.BatchMatMul, a)
			t.add(of, d)
		}
		product(x, c.use(z.grad), ys.Transpose(1, 2))
		product(y, xs.Transpose(1, 2), c.use(z.grad))
	}, nil)
}
