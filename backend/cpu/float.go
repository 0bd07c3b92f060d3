package cpu

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// float is a mutable weight: a view of the caller's memory.
type float struct {
	name string
	v    backend.View // F32 or BF16, [rows, cols], any strides

	version atomic.Uint64
}

// Float implements backend.Backend. v may have any strides.
func (b *Backend) Float(name string, v backend.View) (backend.Weight, error) {
	if !v.Present() || v.Shape.Rank != 2 || v.Shape.Dim[0] <= 0 || v.Shape.Dim[1] <= 0 {
		return nil, fmt.Errorf("cpu: weight %s: a view of %v is not a matrix", name, v.Shape)
	}
	if v.Type != backend.F32 && v.Type != backend.BF16 {
		return nil, fmt.Errorf("cpu: float weight %s of type %v: %w", name, v.Type, backend.ErrUnsupported)
	}
	last, size := v.Off, v.Type.BlockBytes()
	for i, d := range v.Shape.Dim[:2] {
		if v.Stride[i] < 0 {
			return nil, fmt.Errorf("cpu: weight %s has a stride of %d", name, v.Stride[i])
		}
		last += (d - 1) * v.Stride[i]
	}
	if mem := memory(v.Buf); v.Off < 0 || last < 0 || last >= len(mem)/size {
		return nil, fmt.Errorf("cpu: weight %s: the view ends beyond its buffer of %d bytes", name, len(mem))
	}
	return &float{name: name, v: v}, nil
}

func (w *float) Name() string        { return w.name }
func (w *float) Type() backend.DType { return w.v.Type }
func (w *float) Rows() int           { return w.v.Shape.Dim[0] }
func (w *float) Cols() int           { return w.v.Shape.Dim[1] }
func (w *float) Packed() bool        { return false }

func (w *float) Version() uint64 { return w.version.Load() }

// Changed implements backend.Weight.
func (w *float) Changed() { w.version.Add(1) }

func (w *float) Bytes() int64 {
	return int64(w.Rows()) * int64(w.Cols()) * int64(w.v.Type.BlockBytes())
}

// Free does nothing: the memory is the caller's.
func (w *float) Free() {}

// Unpack implements backend.Weight.
func (w *float) Unpack(dst []byte, row, n int) {
	inside("Unpack", w, row, n, 0, w.Cols())
	mem, size := memory(w.v.Buf), w.v.Type.BlockBytes()
	for r := row; r < row+n; r++ {
		if w.v.Stride[1] == 1 {
			dst = dst[copy(dst[:w.Cols()*size], mem[(w.v.Off+r*w.v.Stride[0])*size:]):]
			continue
		}
		for k := range w.Cols() {
			copy(dst[:size], mem[(w.v.Off+r*w.v.Stride[0]+k*w.v.Stride[1])*size:])
			dst = dst[size:]
		}
	}
	runtime.KeepAlive(w)
}

// Tile implements backend.Weight.
func (w *float) Tile(dst []float32, row, rows, col, cols int) {
	inside("Tile", w, row, rows, col, cols)
	for r := range rows {
		at := (row+r)*w.v.Stride[0] + col*w.v.Stride[1]
		if w.v.Type == backend.F32 {
			src := elems[float32](&w.v)[at:]
			if w.v.Stride[1] == 1 {
				copy(dst[r*cols:][:cols], src)
				continue
			}
			for k := range cols {
				dst[r*cols+k] = src[k*w.v.Stride[1]]
			}
		} else {
			src := elems[uint16](&w.v)[at:]
			for k := range cols {
				dst[r*cols+k] = block.BF16ToF32(src[k*w.v.Stride[1]])
			}
		}
	}
	runtime.KeepAlive(w)
}
