// Package train is the training loop: packed documents in, checkpoints and metrics out.
//
// Experimental: this interface may change with any release.
//
// Run does a whole run from a Config, as the command `herd train` does: OpenData and its
// Iterator pack documents into batches, a Trainer turns batches into steps of AdamW,
// and after some steps there is held-out loss, a text, a checkpoint. A host program that
// has a loop or a loss of its own uses Trainer, or a tensor.Tape and package optim.
//
// # What a run promises
//
// The same Config and data give the same bytes, whatever the number of workers is. A
// checkpoint holds all that the next step depends on, so a run that was stopped, by
// kill -9 too, goes on as if nothing had been. A checkpoint appears when it is complete;
// where one cannot be written those before it stay. The loss of a step is the mean over
// the targets of all its micro-batches together.
package train
