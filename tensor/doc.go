// Package tensor gives the operations of package backend values: a Tensor is a
// shaped piece of a step's arena, and each function runs one operation on a
// Context and returns a new Tensor.
//
// Experimental: this interface may change with any release.
//
// The Context is the first argument of everything. It carries the backend's
// execution context, the layout of the step and, when training, the tape; host
// code sees numbers only through Read and Write on it. The same layers
// therefore run inference on any device and, with a tape, training.
//
// # Gradients
//
// Context.Record puts what follows on a Tape, and Tape.Backward goes through it the
// other way: gradients of parameters are added to the memory that Param.BindGrad gave
// them, those of tensors that were watched are there until the step ends. A step
// without a tape pays nothing for it. What backward needs stays in the arena until it
// has been used; Context.Drop and Checkpoint trade it for arithmetic. An operation of
// the caller's own is recorded by Custom. With PrecisionBF16 the products of training
// round both operands to bfloat16; weights, sums and everything else are float32.
//
// # Lifetimes
//
// A Tensor of a step is valid until the step ends; using it later, or operands
// whose shapes do not fit, is a programmer's mistake and panics with
// *StaleError or *backend.ShapeError. Parameters live until their owner frees
// them.
//
// Letters in shapes: R rows of the step, D width, H query heads, G key-value
// heads, hd head size, F feed-forward width, V vocabulary.
package tensor
