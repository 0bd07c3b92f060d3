package llama

import (
	"context"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
)

// NewRandom makes a model of the given shape with random weights of one type,
// without files or tokenizer, for benchmarks: matrices whose width is no whole
// number of blocks are Q8_0, or F16 where that does not fit either, as
// quantisers do.
func NewRandom(ctx context.Context, config Config, t backend.DType, o Options) (*Model, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if _, known := scaleOffsets[t]; !known && !t.Float() {
		return nil, fmt.Errorf("llama: random weights of type %v are %w", t, ErrUnsupported)
	}
	return open(ctx, o, func() (*checkpoint, error) {
		c := &checkpoint{path: "random " + t.String(), config: config, tensors: map[string]*fileTensor{}}
		for i, p := range expected(config) {
			ft := &fileTensor{file: c.path, name: p.Name, dtype: backend.F32, shape: p.Param.Shape.Dim[:p.Param.Shape.Rank]}
			if !p.Param.Matrix() {
				ft.read = func(dst []byte, _, n int) error { return ones(dst, n) }
				c.tensors[p.Name] = ft
				continue
			}
			ft.dtype = fitting(t, ft.cols())
			src, err := randomSource(p.Name, ft.dtype, ft.rows(), ft.cols(), uint64(i+1))
			if err != nil {
				return nil, err
			}
			ft.read = src.ReadRows
			c.tensors[p.Name] = ft
		}
		return c, nil
	})
}

// fitting is t, or the type that a quantiser falls back to for a width.
func fitting(t backend.DType, cols int) backend.DType {
	for _, t := range []backend.DType{t, backend.Q8_0} {
		if cols%t.BlockElems() == 0 {
			return t
		}
	}
	return backend.F16
}

// ones fills dst with n F32 ones.
func ones(dst []byte, n int) error {
	one := math.Float32bits(1)
	for i := range n {
		dst[4*i], dst[4*i+1], dst[4*i+2], dst[4*i+3] = byte(one), byte(one>>8), byte(one>>16), byte(one>>24)
	}
	return nil
}
