// Herd runs Llama models: it continues text, scores it, describes and converts
// model files, and measures speed.
//
//	herd generate -m model.gguf -p "Once upon a time" -n 64
//	herd info -m model.gguf
//	herd help
//
// Results go to stdout, messages and progress to stderr. The exit code is 0
// when done, 1 when something failed, 2 for a wrong command line and 130 after
// Ctrl-C. It is a thin user of package llama: each command is a file here.
package main
