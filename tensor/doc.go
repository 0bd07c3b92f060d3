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
// A Tensor of a step is valid until the step ends; using it later, or operands
// whose shapes do not fit, is a programmer's mistake and panics with
// *StaleError or *backend.ShapeError. Parameters live until their owner frees
// them.
//
// Letters in shapes: R rows of the step, D width, H query heads, G key-value
// heads, hd head size, F feed-forward width, V vocabulary.
package tensor
