package llama

import "github.com/herd-ml/herd/llama/internal/checkpoint"

// CheckNotRead refuses, with a *FileError, a file to write that is there and belongs to one
// of the models or adapters at the paths, by whatever name: the file itself, a part beside
// the first of a split one, or what a folder holds. Convert and Quantize ask it themselves.
func CheckNotRead(out string, paths ...string) error {
	return checkpoint.CheckNotRead(out, paths...)
}
