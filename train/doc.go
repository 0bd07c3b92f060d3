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
// where one cannot be written those before it stay. The newest stay, and the one with the
// least held-out loss.
//
// To go on exactly, the data that a run has had must be the same: it is told by names,
// sizes and times of files, and where those differ by reading again what was given. So a
// bad row may be mended, and files may grow or be added, behind it. More steps, or
// epochs, may be asked for of a run that is finished; defaults that follow from them
// change for the steps that come. What is not exact is refused with ErrInexact, or done
// and told with Options.Anyway. Where nothing is left to do nothing is changed.
//
// The loss of a step is the mean over
// the targets of all its micro-batches together.
package train
