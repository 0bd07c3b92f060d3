package llama

import (
	"context"

	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// ConvertOptions are the settings of Convert.
//
//	To       string         // "gguf", "safetensors" or "meta"
//	Type     backend.DType  // of matrices and, outside GGUF, vectors: F32, F16 or BF16;
//	                        // zero keeps the file's, quantised matrices become F32
//	Adapters []Adapter      // merged into the matrices, in this order
//	Replace  bool           // a .gguf file that is there may be replaced; one that is
//	                        // read never is
//	Base     string         // the model that an adapter is of, to convert the adapter itself
//	Progress func(Progress) // is told how it goes
//
// Validate lists every violation.
type ConvertOptions = checkpoint.ConvertOptions

// ConvertReport says what was written.
//
//	Tensors  []TensorInfo
//	Warnings []string     // what the target cannot say
//	Merged   []MergeError // of each matrix that adapters were merged into
type ConvertReport = checkpoint.ConvertReport

// MergeError says how far a matrix that was stored with its adapters merged is
// from the exact one, computed in float64, relative to the largest number of
// that.
//
//	Name     string // of the layer: "model.layers.0.self_attn.q_proj"
//	RMS, Max float64
type MergeError = checkpoint.MergeError

// Convert writes a model in another format: a .gguf file, a Hugging Face folder
// or a Meta folder. Float tensors keep every value
// and their type, unless Type says otherwise; in GGUF, where vectors are F32,
// their type travels in metadata and comes back. Quantised tensors are decoded
// exactly. Matrices that have adapters are merged in float64. An adapter is written as
// a GGUF file or as PEFT's folder. A file or folder appears
// only when it is complete. Where there is one already the error is fs.ErrExist, unless
// the folder is empty or Replace allows to replace the file.
func Convert(ctx context.Context, in, out string, o ConvertOptions) (ConvertReport, error) {
	return checkpoint.Convert(ctx, in, out, o)
}
