package tensor

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
)

// A Tape records the operations of a step, so that Backward can go through them from the
// last to the first (reverse-mode automatic differentiation,
// https://arxiv.org/abs/1502.05767, section 3.2). It serves one step of one Context:
// Context.Record starts it, and after the step it is of no use.
//
// Gradients of parameters are added to the memory of Param.BindGrad, over as many
// steps as the caller likes; a parameter without such memory is frozen. Gradients of
// tensors live in the arena of the step.
//
// What backward needs stays in the arena until it has been used. Context.Drop and
// Checkpoint give it back earlier; backward then computes it again.
type Tape struct {
	c      *Context
	nodes  []*node
	paused int              // > 0: operations are not recorded
	free   map[int64][]slot // memory of tensors that are gone, by size
}

// slot is memory of the arena.
type slot struct {
	buf backend.Buffer
	at  int64 // bytes from its start
}

// node is a recorded operation.
type node struct {
	name string
	out  []*Tensor
	// back adds to the gradients of the inputs; those of out that are present are
	// up to date. It may take them with takeGrad.
	back func()
	// redo computes the numbers of the only output again; nil where that costs as
	// much as keeping them.
	redo func(y *Tensor)
}

// NewTape returns an empty tape.
func NewTape() *Tape { return &Tape{free: map[int64][]slot{}} }

// Record puts the operations from here to the end of the step on a tape, which must be
// new.
func (c *Context) Record(t *Tape) {
	if t.c != nil || c.tape != nil {
		panic("tensor: Record of a tape that was used, or beside another")
	}
	t.c, c.tape = c, t
}

// Recording reports whether operations go on a tape. If so, no result is written over an
// operand that backward needs.
func (c *Context) Recording() bool { return c.tape != nil && c.tape.paused == 0 }

// Watch makes x an input whose gradient is wanted: Grad has it after Backward. A tensor
// that an operation on the tape has computed is no input, and panics.
func (t *Tape) Watch(x *Tensor) {
	t.c.use(x)
	if x.node != nil {
		panic(&backend.ShapeError{Op: "Watch", Detail: "a tensor of " + x.Shape().String() + " that " + x.node.name + " has computed"})
	}
	x.wantsGrad, x.watched, x.readBack = true, true, true
}

// Grad is the gradient of a tensor that was watched, nil where nothing depends on it.
func (t *Tape) Grad(x *Tensor) *Tensor { return x.grad }

// Seed is a result and the gradient that comes from above: d(loss)/dY, of Y's shape.
// DY is nil for ones.
type Seed struct{ Y, DY *Tensor }

// Backward goes through the tape from the last operation to the first and computes the
// gradients of sum_i <Y_i, DY_i>, with <a, b> the sum of the products of the elements. It
// uses the memory of the step's tensors for the gradients, so their numbers must be read
// before; using one afterwards panics with *StaleError. Only watched tensors remain.
func (t *Tape) Backward(seeds ...Seed) {
	t.paused++
	defer func() { t.paused-- }()
	for _, s := range seeds {
		if !s.Y.wantsGrad {
			continue
		}
		dy := t.c.New(backend.F32, s.Y.Shape())
		if s.DY == nil {
			t.c.fill(dy.view, 1)
			dy.ones = true
		} else {
			t.c.copy(dy, s.DY)
		}
		t.add(s.Y, dy)
	}
	for i := len(t.nodes) - 1; i >= 0; i-- {
		n := t.nodes[i]
		for _, y := range n.out {
			if y.grad != nil {
				n.back()
				break
			}
		}
		for _, y := range n.out {
			t.forget(y)
		}
		t.nodes[i] = nil
	}
	t.nodes = nil
}

// forget makes the memory of y available once backward has passed the operation that
// computed it.
func (t *Tape) forget(y *Tensor) {
	if y.watched {
		return
	}
	if y.grad != nil {
		t.release(y.takeGrad())
	}
	t.release(y)
}

// release makes the memory of a tensor available; the tensor is gone.
func (t *Tape) release(x *Tensor) {
	if x.param || x.step != t.c.step {
		return
	}
	x.step = 0
	t.reclaim(x)
}

// reclaim makes the memory of a tensor available.
func (t *Tape) reclaim(x *Tensor) {
	if x.bytes > 0 {
		v := &x.view
		t.free[x.bytes] = append(t.free[x.bytes], slot{v.Buf, int64(v.Off) * int64(v.Type.BlockBytes())})
		x.bytes = 0
	}
}

// take returns memory for a contiguous tensor.
func (t *Tape) take(d backend.DType, s backend.Shape) (v backend.View, bytes int64) {
	const line = 64 // what the arena aligns to
	size := int64(d.BlockBytes())
	bytes = (int64(s.Elems())*size + line - 1) &^ (line - 1)
	if list := t.free[bytes]; len(list) > 0 {
		m := list[len(list)-1]
		t.free[bytes] = list[:len(list)-1]
		return backend.Contiguous(m.buf, d, int(m.at/size), s), bytes
	}
	v = t.c.exec.Alloc(d, backend.Dims(int(bytes/size)))
	return backend.Contiguous(v.Buf, d, v.Off, s), bytes
}

// add adds g, which belongs to it from now on, to the gradient of x.
func (t *Tape) add(x, g *Tensor) {
	switch {
	case !t.c.differentiable(x):
		t.release(g)
	case x.param:
		t.c.accumulate(x.owner.grad, g)
		t.release(g)
	case x.grad == nil:
		x.grad = g
	default:
		x.grad.ones = false
		t.c.accumulate(x.grad.view, g)
		t.release(g)
	}
}

// takeGrad returns the gradient and leaves none.
func (x *Tensor) takeGrad() *Tensor {
	g := x.grad
	x.grad = nil
	return g
}

// Drop gives the memory of x back where backward can cheaply compute x again (RMSNorm,
// SwiGLU). x must not be used any more. Without a tape Drop does nothing.
func (c *Context) Drop(x *Tensor) {
	if !c.Recording() || x.node == nil || x.node.redo == nil || x.watched || x.hasWindow || x.dropped {
		return
	}
	c.use(x)
	c.tape.reclaim(x)
	x.dropped = true
}

// numbers is the view of a tensor, computed again where it was dropped.
func (t *Tape) numbers(x *Tensor) backend.View {
	if x.dropped {
		x.dropped = false
		x.view, x.bytes = t.take(backend.F32, x.view.Shape)
		x.node.redo(x)
	}
	return t.c.use(x)
}

// differentiable reports whether a gradient of x is wanted.
func (c *Context) differentiable(x *Tensor) bool {
	if x.param {
		return x.owner != nil && x.owner.grad.Present()
	}
	return x.wantsGrad
}

// record puts an operation on the tape where one of its inputs or parameters wants a
// gradient. reads are the tensors whose numbers back reads.
func (c *Context) record(name string, in []*Tensor, params []*Param, out, reads []*Tensor, back func(t *Tape), redo func(y *Tensor)) {
	if c.tape == nil {
		return
	}
	wanted := false
	for _, x := range in {
		wanted = wanted || c.differentiable(x)
	}
	for _, p := range params {
		wanted = wanted || p.grad.Present()
	}
	if !wanted {
		return
	}
	for _, y := range out {
		y.wantsGrad = true
	}
	if !c.Recording() {
		return
	}
	for _, x := range reads {
		x.readBack = true
	}
	t := c.tape
	n := &node{name: name, out: out, back: func() { back(t) }, redo: redo}
	for _, y := range out {
		y.node = n
	}
	t.nodes = append(t.nodes, n)
}

// An Operation is an operation of the caller's, for Custom.
type Operation struct {
	Name    string
	In, Out []*Tensor
	// Backward returns the gradient of each input, or nil for one that has none. It gets
	// the gradients of the outputs, nil for an output that nothing depends on, and may
	// use the numbers of In and Out.
	Backward func(c *Context, dy []*Tensor) (dx []*Tensor)
}

// Custom records an operation whose outputs the caller has computed from the inputs. The
// operations that computed them must not have been recorded: see NoGrad.
func Custom(c *Context, o Operation) {
	reads := append(append([]*Tensor(nil), o.In...), o.Out...)
	c.record(o.Name, o.In, nil, o.Out, reads, func(t *Tape) {
		dy := make([]*Tensor, len(o.Out))
		for i, y := range o.Out {
			dy[i] = y.grad
		}
		for _, x := range o.In {
			t.numbers(x)
		}
		dx := o.Backward(c, dy)
		if len(dx) != len(o.In) {
			panic(&backend.ShapeError{Op: o.Name, Detail: fmt.Sprintf("%d gradients of %d inputs", len(dx), len(o.In))})
		}
		for i, g := range dx {
			if g == nil {
				continue
			}
			if g.Shape() != o.In[i].Shape() {
				panic(&backend.ShapeError{Op: o.Name, Detail: fmt.Sprintf("the gradient of input %d is %v, the input %v", i, g.Shape(), o.In[i].Shape())})
			}
			own := c.New(backend.F32, g.Shape()) // g may be one of dy, or an input
			c.copy(own, g)
			t.add(o.In[i], own)
		}
	}, nil)
}

// NoGrad runs f, whose operations are not recorded.
func (c *Context) NoGrad(f func()) {
	if c.tape != nil {
		c.tape.paused++
		defer func() { c.tape.paused-- }()
	}
	f()
}

// Checkpoint returns f(x). With a tape it keeps only x and the result, and backward runs
// f again (https://arxiv.org/abs/1604.06174). That is a third more arithmetic, and needs
// the memory of one f at a time. f must compute the same from the same x. When backward
// runs it, SetRows is as it was here.
func Checkpoint(c *Context, x *Tensor, f func(x *Tensor) *Tensor) *Tensor {
	if !c.Recording() {
		return f(x)
	}
	t := c.tape
	x.readBack = true
	first, rows, noise := c.used, c.rows, c.noise
	var y *Tensor
	c.NoGrad(func() { y = f(x) })
	for i := first; i < c.used; i++ {
		y.wantsGrad = y.wantsGrad || c.at(i).wantsGrad // y may be what a view was written to
		if z := c.at(i); z != y && z.bytes > 0 && z.view.Buf != nil && !sharing(z, y) {
			t.release(z)
		}
	}
	if y.wantsGrad {
		y.node = &node{name: "Checkpoint", out: []*Tensor{y}, back: func() { t.recompute(x, y, rows, noise, f) }}
		t.nodes = append(t.nodes, y.node)
	}
	return y
}

// sharing reports whether y is a window of z.
func sharing(z, y *Tensor) bool {
	return z.view.Buf == y.view.Buf && z.view.Type == y.view.Type && overlap(&z.view, &y.view)
}

// recompute is the backward of Checkpoint: it records f and goes through it.
func (t *Tape) recompute(x, y *Tensor, rows Rows, noise uint64, f func(*Tensor) *Tensor) {
	c := t.c
	defer c.SetRows(c.SetRows(rows))
	defer c.SetNoise(c.SetNoise(noise))
	part := &Tape{c: c, free: t.free}
	leaf := c.tensor()
	leaf.view, leaf.wantsGrad, leaf.readBack, leaf.watched = t.numbers(x), c.differentiable(x), true, true
	c.tape = part
	defer func() { c.tape = t }()
	z := f(leaf)
	dy := y.takeGrad()
	part.Backward(Seed{z, dy})
	t.release(dy)
	if g := leaf.takeGrad(); g != nil {
		t.add(x, g)
	}
}
