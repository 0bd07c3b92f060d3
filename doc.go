// Package herd is documentation only: the library is in the packages below it.
//
// Herd is the Llama 3.1 system for Go programs, without Python and without a C
// compiler. Today it loads Llama models and generates text on the CPU; see the
// README for what is built and what is not.
//
// # Where things are
//
//   - [github.com/herd-ml/herd/llama] is the front door: Open a model, make
//     sessions, generate, score, embed.
//   - llama/sample draws tokens, llama/tokenizer turns text into ids and back.
//   - llama/gguf, llama/safetensors and llama/pth read and write files.
//   - nn holds the layers, tensor the values they compute with, backend what a
//     device does. These three are experimental: they may change with any
//     release.
//   - cmd/herd is the command, examples has small programs to copy from.
//
// Packages import downward only: cmd, llama, its file formats, nn, tensor,
// backend. A test keeps it so.
//
// # How it is used
//
// A [github.com/herd-ml/herd/llama.Model] is weights and a vocabulary, and safe
// for concurrent use. A Session is a cache of keys and values for one sequence,
// not a transcript: every call takes the whole prompt, and the part the session
// already holds is not computed again. Sessions run at the same time; one
// session does one thing at a time.
//
// Every call that computes takes a context and stops soon after it ends. Text
// arrives in a range loop, token by token. Options are plain structs whose zero
// value works: greedy sampling, the fastest kernels this CPU has.
//
// The library prints nothing, reads no environment, keeps no global settings
// and never ends the program. Files may come from strangers: sizes are checked
// before memory is taken, and a bad file is an error that names the file, the
// tensor and what was expected.
package herd
