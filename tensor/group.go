package tensor

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
)

// A Group replaces numbers by their sums over the machines of a group. All call it for
// the same tensors in the same order.
type Group func(x []float32) error

// GroupSum returns the sum of x over the machines of a group. A layer whose inputs are
// divided among the machines, for example, sums its partial products so. All machines go on
// with the same sum, so the gradient of each machine's x is the gradient of the sum. The
// numbers pass through host memory, which each call allocates. GroupSum panics with a
// *GroupError if g fails.
func GroupSum(c *Context, x *Tensor, g Group) *Tensor {
	y := c.New(backend.F32, x.Shape())
	c.groupSum(y, x, g)
	if c.tape != nil {
		c.record("GroupSum", []*Tensor{x}, nil, []*Tensor{y}, nil, func(t *Tape) { t.add(x, y.takeGrad()) }, nil)
	}
	return y
}

// GroupCopy returns x, which all machines of a group have alike. Each goes on with it by
// itself: x is, for example, the input of a layer whose outputs are divided among the
// machines. The gradient of x is the sum of the machines' gradients. If that sum fails,
// GroupCopy panics as GroupSum does.
func GroupCopy(c *Context, x *Tensor, g Group) *Tensor {
	if c.tape == nil {
		return x
	}
	y := c.New(backend.F32, x.Shape())
	c.copy(y, x)
	c.record("GroupCopy", []*Tensor{x}, nil, []*Tensor{y}, nil, func(t *Tape) {
		dx := c.New(backend.F32, x.Shape())
		c.groupSum(dx, y.takeGrad(), g)
		t.add(x, dx)
	}, nil)
	return y
}

// groupSum writes the sum of x over a group to y.
func (c *Context) groupSum(y, x *Tensor, g Group) {
	values := make([]float32, x.Shape().Elems())
	c.Read(values, x)
	if err := g(values); err != nil {
		panic(&GroupError{Shape: x.Shape(), Err: err})
	}
	c.Write(y, values)
}

// GroupError is the value of the panic where a group cannot add up a tensor: a machine
// is gone, for one.
type GroupError struct {
	Shape backend.Shape
	Err   error
}

func (e *GroupError) Error() string {
	return fmt.Sprintf("tensor: the sum of a tensor %v over a group: %v", e.Shape, e.Err)
}

// Unwrap returns the cause.
func (e *GroupError) Unwrap() error { return e.Err }
