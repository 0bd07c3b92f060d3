package tensor

import "github.com/herd-ml/herd/backend"

// LogProb computes the log-probability of one id in each row, for x [R,K], ids [R] and a
// matrix W [V,K] whose product with x gives the logits. logp [R] is the log-probability of
// the ids, and lse [R] the logarithm of the sum of exp of the logits. Both have gradients.
// The logits are never in memory as a whole; backward computes them again.
func LogProb(c *Context, x *Tensor, ids []int32, w *Param) (logp, lse *Tensor) {
	logp, lse, _ = logProb(c, x, ids, w, false)
	return logp, lse
}

// LogProbEntropy is LogProb and the entropy [R] of each row's distribution, in nats,
// which has a gradient too.
func LogProbEntropy(c *Context, x *Tensor, ids []int32, w *Param) (logp, lse, entropy *Tensor) {
	return logProb(c, x, ids, w, true)
}

func logProb(c *Context, x *Tensor, ids []int32, w *Param, withEntropy bool) (logp, lse, entropy *Tensor) {
	r := backend.Dims(x.Rows())
	logp, lse = c.New(backend.F32, r), c.New(backend.F32, r)
	if withEntropy {
		entropy = c.New(backend.F32, r)
	}
	list := c.IDs(ids)
	round := c.rounding(w)
	a := c.begin()
	a.In[0], a.In[1], a.W[0], a.Round = c.use(x), c.use(list), w.multiplied(round), round
	a.Out[0], a.Out[1] = c.use(logp), c.use(lse)
	if withEntropy {
		a.Out[2] = c.use(entropy)
	}
	c.exec.Run(backend.LogProb, a)
	if c.tape != nil {
		c.recordLogProb(x, list, w, logp, lse, entropy)
	}
	return logp, lse, entropy
}

func (c *Context) recordLogProb(x, ids *Tensor, w *Param, logp, lse, entropy *Tensor) {
	out := []*Tensor{logp, lse}
	if entropy != nil {
		out = append(out, entropy)
	}
	c.record("LogProb", []*Tensor{x}, []*Param{w}, out, []*Tensor{x, ids, lse}, func(t *Tape) {
		in := t.numbers(x)
		dlogp := logp.grad
		if dlogp == nil { // only the others have gradients
			dlogp = c.New(backend.F32, logp.Shape())
			c.fill(dlogp.view, 0)
			logp.grad = dlogp
		}
		var dx *Tensor
		if c.differentiable(x) {
			dx = c.New(backend.F32, x.Shape())
		}
		a := c.begin()
		a.In[0], a.In[1], a.In[2], a.In[3] = in, c.use(ids), c.use(lse), c.use(dlogp)
		if lse.grad != nil {
			a.In[4] = c.use(lse.grad)
		}
		if entropy != nil && entropy.grad != nil {
			a.In[5] = c.use(entropy.grad)
		}
		a.W[0], a.Round, a.Out[1] = w.weight, c.roundingBack(), w.grad
		if dx != nil {
			a.Out[0] = dx.view
		}
		c.exec.Run(backend.LogProbBackward, a)
		if dx != nil {
			t.add(x, dx)
		}
	}, nil)
}

// Targets are what the rows of a loss are to predict.
type Targets struct {
	// IDs [R] are the tokens that follow. A negative one has no loss.
	IDs []int32
	// Weights [R] multiply the loss of each row; nil is 1 for all.
	Weights []float32
	// Scale multiplies the loss of all rows. If it is 1 divided by the number of targets
	// in all micro-batches of a step, the losses of these add up to the step's mean.
	Scale float32
	// ZLoss is the factor of lse^2, which keeps logits from drifting
	// (https://arxiv.org/abs/2204.02311, section 5); 0 is none.
	ZLoss float32
}

// CrossEntropy is the loss of x [R,K] through a matrix W [V,K],
//
//	Scale * sum_r Weights_r (-logp_r + ZLoss lse_r^2)
//
// over the rows that have a target. It also returns logp and lse [R], which mean nothing
// in rows without a target. With a tape the same pass also computes the gradients of x and
// W, so that no logits are computed twice. It adds the gradient of W at once. loss [1] must
// therefore be a seed of Backward, with a gradient of 1.
func CrossEntropy(c *Context, x *Tensor, w *Param, y Targets) (loss, logp, lse *Tensor) {
	r := x.Rows()
	if len(y.IDs) != r || y.Weights != nil && len(y.Weights) != r {
		panic(&backend.ShapeError{Op: "CrossEntropy", Detail: x.Shape().String() + " with other numbers of targets or weights"})
	}
	ids, cs, zs := make([]int32, r), make([]float32, r), make([]float32, r)
	for i, id := range y.IDs {
		if id < 0 {
			continue
		}
		ids[i], cs[i] = id, y.Scale
		if y.Weights != nil {
			cs[i] *= y.Weights[i]
		}
		zs[i] = cs[i] * y.ZLoss
	}
	list, weights, zeds := c.IDs(ids), c.vector(cs), c.vector(zs)
	logp, lse = c.New(backend.F32, backend.Dims(r)), c.New(backend.F32, backend.Dims(r))
	var dx *Tensor
	a := backend.LogProb
	if c.Recording() && (c.differentiable(x) || w.grad.Present()) {
		a = backend.CrossEntropy
	}
	if a == backend.CrossEntropy && c.differentiable(x) {
		dx = c.New(backend.F32, x.Shape())
	}
	c.crossEntropy(a, x, w, list, [2]*Tensor{weights, zeds}, [3]*Tensor{logp, lse, dx})
	c.NoGrad(func() {
		likely := Sum(c, Mul(c, logp, weights), 0)
		loss = Sum(c, Mul(c, Mul(c, lse, lse), zeds), 0)
		loss = Add(c, loss, Scale(c, likely, -1))
	})
	if c.tape != nil {
		c.recordCrossEntropy(loss, x, w, dx)
	}
	return loss, logp, lse
}

// crossEntropy runs CrossEntropy or, without gradients, LogProb.
func (c *Context) crossEntropy(op backend.Op, x *Tensor, w *Param, ids *Tensor, factors [2]*Tensor, out [3]*Tensor) {
	round := c.rounding(w)
	a := c.begin()
	a.In[0], a.In[1], a.W[0], a.Round = c.use(x), c.use(ids), w.multiplied(round), round
	a.Out[0], a.Out[1] = c.use(out[0]), c.use(out[1])
	if op == backend.CrossEntropy {
		a.W[0] = w.weight
		a.In[2], a.In[3], a.Out[3], a.Round = c.use(factors[0]), c.use(factors[1]), w.grad, c.roundingBack()
		if out[2] != nil {
			a.Out[2] = c.use(out[2])
		}
	}
	c.exec.Run(op, a)
}

func (c *Context) recordCrossEntropy(loss, x *Tensor, w *Param, dx *Tensor) {
	c.record("CrossEntropy", []*Tensor{x}, []*Param{w}, []*Tensor{loss}, nil, func(t *Tape) {
		dy := [1]float32{1}
		if !loss.grad.ones { // reading waits for a device
			c.Read(dy[:], loss.grad)
		}
		if dy[0] != 1 && !c.Stopped() {
			panic(&backend.ShapeError{Op: "CrossEntropy", Detail: "the loss is a seed with a gradient other than 1: use LogProb"})
		}
		if dx != nil {
			t.add(x, dx)
		}
	}, nil)
}

// vector returns a tensor of the step with these numbers.
func (c *Context) vector(values []float32) *Tensor {
	x := c.New(backend.F32, backend.Dims(len(values)))
	c.exec.Write(x.view, values)
	return x
}
