package llama

import (
	"context"

	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// QuantizeOptions are the settings of Quantize.
//
//	quantize.Rules                    // the types; Mix must be given
//	Imatrix         *quantize.Imatrix // which columns matter, or nil
//	AllowRequantize bool              // a model that is quantised already is taken too
//	Replace         bool              // a file that is there may be replaced; one that is
//	                                  // read never is
//	Workers         int               // goroutines that encode; 0 is one for each processor
//	Progress        func(Progress)    // is told how it goes
//
// Validate lists every violation.
type QuantizeOptions = checkpoint.QuantizeOptions

// QuantizeReport says what was written.
//
//	Tensors  []QuantizedTensor
//	Warnings []string // what the file cannot say
//	Resumed  int      // tensors that a run before, which did not finish, had written
type QuantizeReport = checkpoint.QuantizeReport

// QuantizedTensor is a tensor before and after.
//
//	Name               string // in the file written
//	Shape              []int  // rows first
//	Before, After      backend.DType
//	BytesBefore, Bytes int64
//	quantize.Fidelity         // how far the numbers are from those before
type QuantizedTensor = checkpoint.QuantizedTensor

// Quantize writes a model as a .gguf file whose matrices have other types. The input may be
// of any format that Open reads. The types are those that llama.cpp's quantize tool chooses
// for the mix that o names. Vectors become F32. The keys of a GGUF input, its name and
// licence for instance, are kept. Quantize reads some rows of one tensor at a time, so its
// memory is bounded.
//
// The file appears when it is complete. If there is one already the error is fs.ErrExist,
// unless Replace is set. A run that is killed, or whose ctx ends, leaves a folder
// out.partial. The next run with the same input and settings goes on after the last tensor
// in that folder.
func Quantize(ctx context.Context, in, out string, o QuantizeOptions) (QuantizeReport, error) {
	return checkpoint.Quantize(ctx, in, out, o)
}
