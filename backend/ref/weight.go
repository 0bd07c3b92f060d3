package ref

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/ctxerr"
)

// weight holds rows in the file's encoding: a copy of its own where packed,
// the caller's view where float.
type weight struct {
	dev        *device
	name       string
	typ        backend.DType
	rows, cols int
	packed     bool
	buf        backend.Buffer
	off        int // bytes before the first row
	stride     int // bytes from row to row
	size       int // bytes of a row
	version    atomic.Uint64
}

// Pack keeps the file's bytes as they are. It refuses a type that is neither
// float nor a block type, and a row that is not whole blocks.
func (b *device) Pack(ctx context.Context, src backend.WeightSource) (backend.Weight, error) {
	size, err := rowBytes(src.Type, src.Rows, src.Cols)
	if err != nil {
		return nil, fmt.Errorf("ref: weight %s: %w", src.Name, err)
	}
	buf := newBuffer(src.Rows * int(size))
	for row, step := 0, 0; row < src.Rows; row += step {
		step = min(64, src.Rows-row) // rows between two looks at the context
		if err := ctxerr.Of(ctx); err != nil {
			return nil, err
		}
		dst := buf.mem[row*int(size):][:step*int(size)]
		if err := src.ReadRows(dst, row, step); err != nil {
			return nil, fmt.Errorf("ref: weight %s: %w", src.Name, err)
		}
		if src.Progress != nil {
			src.Progress(int64(len(dst)))
		}
	}
	return &weight{dev: b, name: src.Name, typ: src.Type, rows: src.Rows, cols: src.Cols, packed: true,
		buf: b.keep(buf), stride: int(size), size: int(size)}, nil
}

// rowBytes is the size of a row of a matrix that can be packed.
func rowBytes(t backend.DType, rows, cols int) (int64, error) {
	if !t.Float() && !t.Quantized() {
		return 0, fmt.Errorf("type %v: %w", t, backend.ErrUnsupported)
	}
	size, err := t.RowBytes(int64(cols))
	if err != nil {
		return 0, err
	}
	if rows < 0 || size > 0 && int64(rows) > (math.MaxInt-align)/size {
		return 0, fmt.Errorf("[%d %d] is no size", rows, cols)
	}
	return size, nil
}

// WeightBytes is the size in the file.
func (*device) WeightBytes(t backend.DType, rows, cols int) (int64, error) {
	size, err := rowBytes(t, rows, cols)
	if err != nil {
		return 0, fmt.Errorf("ref: %w", err)
	}
	return int64(rows) * size, nil
}

// Float wraps an F32 or BF16 matrix whose rows are contiguous.
func (b *device) Float(name string, v backend.View) (backend.Weight, error) {
	if !v.Present() || v.Type != backend.F32 && v.Type != backend.BF16 || v.Shape.Rank != 2 || v.Cols() > 1 && v.Stride[1] != 1 {
		return nil, fmt.Errorf("ref: weight %s: %v %v is not a row-major F32 or BF16 matrix: %w", name, v.Type, v.Shape, backend.ErrUnsupported)
	}
	e := v.Type.BlockBytes()
	return &weight{dev: b, name: name, typ: v.Type, rows: v.Rows(), cols: v.Cols(),
		buf: v.Buf, off: v.Off * e, stride: v.Stride[0] * e, size: v.Cols() * e}, nil
}

func (w *weight) Name() string        { return w.name }
func (w *weight) Type() backend.DType { return w.typ }
func (w *weight) Rows() int           { return w.rows }
func (w *weight) Cols() int           { return w.cols }
func (w *weight) Packed() bool        { return w.packed }
func (w *weight) Version() uint64     { return w.version.Load() }
func (w *weight) Bytes() int64        { return int64(w.rows) * int64(w.size) }

// Changed implements backend.Weight.
func (w *weight) Changed() {
	if w.packed {
		panic("ref: Changed on packed weight " + w.name)
	}
	w.version.Add(1)
}

func (w *weight) row(n int) []byte { return memory(w.buf)[w.off+n*w.stride:][:w.size] }

func (w *weight) Unpack(dst []byte, row, n int) {
	w.dev.mu.RLock()
	defer w.dev.mu.RUnlock()
	for i := range n {
		copy(dst[i*w.size:][:w.size], w.row(row+i))
	}
}

func (w *weight) Tile(dst []float32, row, rows, col, cols int) {
	w.dev.mu.RLock()
	defer w.dev.mu.RUnlock()
	for i := range rows {
		block.DecodeColumns(w.typ, dst[i*cols:][:cols], w.row(row+i), col)
	}
}

func (w *weight) Free() {
	if w.packed {
		w.buf.Free()
	}
}
