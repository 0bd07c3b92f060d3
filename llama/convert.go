package llama

import (
	"context"

	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// ConvertOptions are the settings of Convert.
type ConvertOptions = checkpoint.ConvertOptions

// ConvertReport says what was written.
type ConvertReport = checkpoint.ConvertReport

// MergeError says how far a matrix that was stored with its adapters merged is
// from the exact one.
type MergeError = checkpoint.MergeError

// Convert writes a model in another format: a .gguf file, a Hugging Face folder
// or a Meta folder, which must not exist yet. Float tensors keep every value
// and their type, unless Type says otherwise; in GGUF, where vectors are F32,
// their type travels in metadata and comes back. Quantised tensors are decoded
// exactly. Matrices that have adapters are merged in float64. A file is replaced,
// and a folder appears, only when it is complete.
func Convert(ctx context.Context, in, out string, o ConvertOptions) (ConvertReport, error) {
	return checkpoint.Convert(ctx, in, out, o)
}
