// Package train trains the models of package llama on text.
//
// Experimental: names may change.
package train
