// Package train is the training loop: packed documents in, checkpoints and metrics out.
//
// Experimental: this interface may change with any release.
package train
