package llama

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// NewRandom makes a model of the given shape with random weights of one type,
// without files or tokenizer, for benchmarks; they are the same in every run and on
// every backend. Matrices whose width is no whole
// number of blocks are Q8_0, or F16 where that does not fit either, as
// quantisers do.
func NewRandom(ctx context.Context, config Config, t backend.DType, o Options) (*Model, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if _, known := scaleOffsets[t]; !known && !t.Float() {
		return nil, fmt.Errorf("llama: random weights of type %v are %w", t, ErrUnsupported)
	}
	return open(ctx, o, func() (*checkpoint.Checkpoint, error) {
		c := &checkpoint.Checkpoint{Path: "random " + t.String(), Config: config, Tensors: map[string]*checkpoint.Tensor{}}
		for i, p := range checkpoint.Parameters(config) {
			ft := &checkpoint.Tensor{File: c.Path, Name: p.Name, Type: backend.F32, Shape: p.Shape.Dim[:p.Shape.Rank]}
			if !p.Matrix() {
				ft.Read = func(dst []byte, _, n int) error { return ones(dst, n) }
				c.Tensors[p.Name] = ft
				continue
			}
			ft.Type = fitting(t, ft.Cols())
			src, err := randomSource(p.Name, ft.Type, ft.Rows(), ft.Cols(), uint64(i+1))
			if err != nil {
				return nil, err
			}
			ft.Read = src.ReadRows
			c.Tensors[p.Name] = ft
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

// randomSource makes a weight of small random codes without a file: every block is
// valid and its scale small. A row depends on seed and on its number alone, not on
// the rows that are read with it.
func randomSource(name string, t backend.DType, rows, cols int, seed uint64) (backend.WeightSource, error) {
	rowBytes, err := t.RowBytes(int64(cols))
	if err != nil {
		return backend.WeightSource{}, err
	}
	return backend.WeightSource{
		Name: name, Type: t, Rows: rows, Cols: cols,
		ReadRows: func(dst []byte, row, n int) error {
			for r := range n {
				line := dst[r*int(rowBytes):][:rowBytes]
				x := rowSeed(seed, row+r)
				for i := range line {
					x ^= x << 13
					x ^= x >> 7
					x ^= x << 17
					line[i] = byte(x >> 32)
				}
				tame(t, line)
			}
			return nil
		},
	}, nil
}

// rowSeed mixes the number of a row into seed, so that neighbours have nothing in
// common (the finaliser of splitmix64, https://prng.di.unimi.it/splitmix64.c). It is
// never 0, which the generator would not leave.
func rowSeed(seed uint64, row int) uint64 {
	z := seed<<32 + uint64(row) + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return max(z^z>>31, 1)
}

// scaleOffsets are where the F16 scales of a block lie. Those of other types are no such
// numbers.
var scaleOffsets = map[backend.DType][]int{
	backend.Q4_0: {0}, backend.Q4_1: {0, 2}, backend.Q5_0: {0}, backend.Q5_1: {0, 2}, backend.Q8_0: {0},
	backend.Q2_K: {80, 82}, backend.Q3_K: {108}, backend.Q4_K: {0, 2}, backend.Q5_K: {0, 2}, backend.Q6_K: {208},
	backend.IQ1_S: {0}, backend.IQ2_XXS: {0}, backend.IQ2_XS: {0}, backend.IQ2_S: {0}, backend.IQ3_XXS: {0}, backend.IQ3_S: {0},
	backend.IQ4_NL: {0}, backend.IQ4_XS: {0}, backend.TQ1_0: {52}, backend.TQ2_0: {64},
	backend.IQ1_M: nil, backend.MXFP4: nil, backend.NVFP4: nil, backend.E4M3: nil,
}

// tame replaces random scales of a row by a small number, and random floats by small
// ones.
func tame(t backend.DType, b []byte) {
	const small = uint16(0x1400) // 2^-10 in F16
	switch t {
	case backend.F32:
		for i := 0; i+4 <= len(b); i += 4 {
			x := float32(int8(b[i])) / 4096
			binary.LittleEndian.PutUint32(b[i:], math.Float32bits(x))
		}
	case backend.F16, backend.BF16:
		for i := 0; i+2 <= len(b); i += 2 {
			block.Encode(t, b[i:i+2], []float32{float32(int8(b[i])) / 4096})
		}
	case backend.E4M3:
		block.Encode(backend.F32, b[:t.RowHead()], []float32{0x1p-12})
		for i, c := range b[t.RowHead():] {
			b[t.RowHead()+i] = c &^ 1 // which no NaN is
		}
	default:
		for i := 0; i+t.BlockBytes() <= len(b); i += t.BlockBytes() {
			for _, off := range scaleOffsets[t] {
				binary.LittleEndian.PutUint16(b[i+off:], small)
			}
			switch q := b[i:]; t { // 2^-10 as these types have it
			case backend.IQ1_M:
				for j := range 4 {
					q[49+2*j] = q[49+2*j]&15 | byte(small>>(4*j)&15)<<4
				}
			case backend.MXFP4:
				q[0] = 127 - 10
			case backend.NVFP4:
				copy(q, []byte{1, 1, 1, 1})
			}
		}
	}
}
