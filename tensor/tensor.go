package tensor

import (
	"github.com/herd-ml/herd/backend"
)

// Tensor is a value of a step: a view of the arena. Its methods do not change
// it.
type Tensor struct {
	view    backend.View
	ctx     *Context
	step    uint64
	param   bool // outlives steps
	ofParam bool // a window of a parameter's memory

	// With a tape.
	owner *Param  // of a parameter's value
	node  *node   // what computed it
	grad  *Tensor // the gradient so far
	bytes int64   // of the arena, if they are its own

	wantsGrad bool // something that is trained, or watched, went into it
	readBack  bool // backward reads its numbers
	watched   bool // stays after Backward
	ones      bool // a gradient that is all ones
	hasWindow bool // another tensor is a window of its memory
	dropped   bool // is computed again when backward reads it
}

// View is the memory behind the tensor.
func (x *Tensor) View() backend.View { return x.view }

// Shape is the extent of each axis.
func (x *Tensor) Shape() backend.Shape { return x.view.Shape }

// Rows and Cols read the shape as a matrix.
func (x *Tensor) Rows() int { return x.view.Rows() }

// Cols is the extent of the last axis.
func (x *Tensor) Cols() int { return x.view.Cols() }

// Param is a trained matrix or vector. Layers make it with its shape and name
// it by their field tags; a loader binds the numbers.
type Param struct {
	// Shape is [outputs, inputs] for a matrix, [n] for a vector.
	Shape backend.Shape
	// Round16 rounds the inputs of the matrix to 16 bits where those of others are
	// rounded to 8.
	Round16 bool
	weight  backend.Weight
	value   Tensor
	// numbers is what the weight is a view of, where it may be changed.
	numbers  backend.View
	grad     backend.View
	snapshot snapshot
}

// NewParam returns a parameter without numbers.
func NewParam(dims ...int) *Param { return &Param{Shape: backend.Dims(dims...)} }

// BindWeight gives a matrix its numbers. A shape that does not fit panics.
func (p *Param) BindWeight(w backend.Weight) {
	if p.Shape != backend.Dims(w.Rows(), w.Cols()) {
		panic(&backend.ShapeError{Op: "BindWeight", Detail: "parameter " + p.Shape.String() + ", weight " + backend.Dims(w.Rows(), w.Cols()).String()})
	}
	p.weight = w
}

// BindMatrix is BindWeight for a mutable float weight whose numbers are the view.
func (p *Param) BindMatrix(w backend.Weight, v backend.View) {
	p.BindWeight(w)
	if w.Packed() || p.Shape != v.Shape {
		panic(&backend.ShapeError{Op: "BindMatrix", Detail: "a packed weight, or one of " + v.Shape.String() + " for a parameter of " + p.Shape.String()})
	}
	p.numbers = v
}

// Numbers is the memory of a vector, or of a matrix that BindMatrix has bound. Other
// parameters have none. Whoever changes the numbers of a matrix calls Weight.Changed.
func (p *Param) Numbers() backend.View {
	if p.Matrix() {
		return p.numbers
	}
	return p.value.view
}

// BindValue gives a vector its numbers.
func (p *Param) BindValue(v backend.View) {
	if p.Shape != v.Shape {
		panic(&backend.ShapeError{Op: "BindValue", Detail: "parameter " + p.Shape.String() + ", value " + v.Shape.String()})
	}
	p.value = Tensor{view: v, param: true, owner: p}
}

// BindGrad gives a parameter memory that gradients are added to, F32 of its shape. An
// absent view freezes it.
func (p *Param) BindGrad(v backend.View) {
	if v.Present() && (v.Shape != p.Shape || v.Type != backend.F32) {
		panic(&backend.ShapeError{Op: "BindGrad", Detail: "parameter " + p.Shape.String() + ", gradient " + v.Shape.String() + " of " + v.Type.String()})
	}
	p.grad = v
}

// Grad is the memory of the gradient, absent where the parameter is frozen.
func (p *Param) Grad() backend.View { return p.grad }

// Padded is the number of elements rounded up to whole cache lines of F32: what a parameter
// takes in a buffer where the gradients of parameters lie one after the other.
func (p *Param) Padded() int64 { return int64(p.Shape.Elems()+15) &^ 15 }

// Matrix reports whether the parameter is a matrix.
func (p *Param) Matrix() bool { return p.Shape.Rank == 2 }

// Weight is the matrix, nil before BindWeight.
func (p *Param) Weight() backend.Weight { return p.weight }

// Value is a vector's tensor. It panics before BindValue.
func (p *Param) Value() *Tensor {
	if !p.value.param {
		panic(&backend.ShapeError{Op: "Value", Detail: "parameter " + p.Shape.String() + " has no numbers"})
	}
	return &p.value
}

// bound is the matrix, for an operation; it panics before BindWeight.
func (p *Param) bound(op string) backend.Weight {
	if p.weight == nil {
		panic(&backend.ShapeError{Op: op, Detail: "parameter " + p.Shape.String() + " has no numbers"})
	}
	return p.weight
}
