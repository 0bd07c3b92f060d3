// Package optim changes the parameters of a model by their gradients: AdamW with
// clipping by the global norm and groups of parameters, schedules of the learning
// rate, and averages of checkpoints.
//
// Experimental: this interface may change with any release.
//
// # A step
//
// The caller runs forward and backward, over as many micro-batches as it likes, with
// the gradients of all of them divided by the number of targets in all, and then
//
//	norm, err := adamw.Step(ctx, c, schedule.At(step))
//	err = adamw.ZeroGrad(ctx, c)
//
// A parameter is trained where it has memory for a gradient (tensor.Param.BindGrad)
// and frozen where it has none. What a step does is all or nothing: a gradient that is
// not finite is ErrNotFinite and changes no number, and a context that ends while
// numbers change is noticed after the last of them.
//
// # State
//
// The running means of AdamW are memory of the backend, beside the weights. Save and
// Load keep them bit for bit, so that a run that stops and goes on gives the numbers of
// one that does not.
package optim
