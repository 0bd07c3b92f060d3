package cpu

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

const panel = kernel.Panel // rows of a weight that are stored together

// packed is an immutable weight: panels of 16 rows, the last filled with zeros.
type packed struct {
	*buffer
	name       string
	typ        backend.DType
	rows, cols int
	rowBytes   int // of a row in the file
	decode     func(dst []float32, src []byte)
}

func (w *packed) Name() string        { return w.name }
func (w *packed) Type() backend.DType { return w.typ }
func (w *packed) Rows() int           { return w.rows }
func (w *packed) Cols() int           { return w.cols }
func (w *packed) Packed() bool        { return true }
func (w *packed) Version() uint64     { return 0 }
func (w *packed) Bytes() int64        { return int64(len(w.mem)) }

// Changed implements backend.Weight.
func (w *packed) Changed() { panic("cpu: Changed on packed weight " + w.name) }

// panels is their number for rows.
func panels(rows int) int { return (rows + panel - 1) / panel }

// panel returns the bytes of panel i.
func (w *packed) panel(i int) []byte { return w.mem[i*panel*w.rowBytes:][:panel*w.rowBytes] }

// Pack implements backend.Backend. It reads rows with as many goroutines as
// the pool has workers, 16 rows at a time each.
func (b *Backend) Pack(ctx context.Context, src backend.WeightSource) (backend.Weight, error) {
	w, err := newPacked(&src)
	if err != nil {
		return nil, err
	}
	var next atomic.Int64
	n := min(panels(w.rows), len(b.pool.workers))
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
			defer func() {
				if v := recover(); v != nil { // of the caller's ReadRows
					errs[i] = fmt.Errorf("cpu: weight %s: %v", src.Name, v)
				}
				if errs[i] != nil {
					next.Store(math.MaxInt32)
				}
			}()
			errs[i] = w.fill(ctx, &src, &next)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			w.Free()
			return nil, err
		}
	}
	return w, nil
}

// newPacked checks a source and returns the empty weight for it.
func newPacked(src *backend.WeightSource) (*packed, error) {
	fail := func(format string, a ...any) (*packed, error) {
		return nil, fmt.Errorf("cpu: weight %s: %w", src.Name, fmt.Errorf(format, a...))
	}
	if !src.Type.Float() && !src.Type.Quantized() {
		return fail("type %v: %w", src.Type, backend.ErrUnsupported)
	}
	if src.Rows <= 0 || src.Cols <= 0 || src.ReadRows == nil {
		return fail("nothing to read for [%d %d]", src.Rows, src.Cols)
	}
	size, err := src.Type.RowBytes(int64(src.Cols))
	if err != nil {
		return fail("%w", err)
	}
	n := int64(panels(src.Rows))
	if src.Rows > math.MaxInt32-panel || size > maxBytes/panel/n {
		return fail("[%d %d] of %v is too large", src.Rows, src.Cols, src.Type)
	}
	mem, err := newBuffer(n * panel * size)
	if err != nil {
		return fail("%w", err)
	}
	return &packed{mem, src.Name, src.Type, src.Rows, src.Cols, int(size), block.Decoder(src.Type)}, nil
}

// fill claims panels and packs them until none is left.
func (w *packed) fill(ctx context.Context, src *backend.WeightSource, next *atomic.Int64) error {
	rows := make([]byte, panel*w.rowBytes)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		i := int(next.Add(1)) - 1
		if i >= panels(w.rows) {
			return nil
		}
		n := min(panel, w.rows-i*panel)
		clear(rows[n*w.rowBytes:])
		if err := src.ReadRows(rows[:n*w.rowBytes], i*panel, n); err != nil {
			return fmt.Errorf("cpu: weight %s: %w", w.name, err)
		}
		w.exchange(w.panel(i), rows, true)
		if src.Progress != nil {
			src.Progress(int64(n * w.rowBytes))
		}
	}
}

// exchange copies between a panel p and its 16 rows as the file has them.
func (w *packed) exchange(p, rows []byte, pack bool) {
	move := func(p, row []byte) {
		if pack {
			copy(p, row)
		} else {
			copy(row, p)
		}
	}
	for r := range panel {
		row := rows[r*w.rowBytes:][:w.rowBytes]
		switch w.typ {
		case backend.F32:
			for k := range w.cols {
				move(p[(k*panel+r)*4:][:4], row[k*4:][:4])
			}
		case backend.F16, backend.BF16:
			for k := range w.cols {
				move(p[(k*panel+r)*2:][:2], row[k*2:][:2])
			}
		case backend.Q8_0: // d; 32 codes
			for b := range w.cols / 32 {
				p, row := p[b*kernel.Q8Bytes:][:kernel.Q8Bytes], row[b*34:][:34]
				move(p[2*r:][:2], row[:2])
				for g := range 8 {
					move(p[2*panel+(g*panel+r)*4:][:4], row[2+4*g:][:4])
				}
			}
		default:
			n := w.typ.BlockBytes()
			for b := range w.rowBytes / n {
				move(p[(b*panel+r)*n:][:n], row[b*n:][:n])
			}
		}
	}
}

// Unpack implements backend.Weight.
func (w *packed) Unpack(dst []byte, row, n int) {
	w.check("Unpack", row, n, 0, w.cols)
	rows := make([]byte, panel*w.rowBytes)
	for n > 0 {
		w.exchange(w.panel(row/panel), rows, false)
		m := min(n, panel-row%panel)
		copy(dst[:m*w.rowBytes], rows[row%panel*w.rowBytes:])
		dst, row, n = dst[m*w.rowBytes:], row+m, n-m
	}
}

// Tile implements backend.Weight. It allocates nothing.
func (w *packed) Tile(dst []float32, row, rows, col, cols int) {
	w.check("Tile", row, rows, col, cols)
	for r := range rows {
		w.rowTile(dst[r*cols:][:cols], row+r, col)
	}
}

// rowTile decodes columns from col on of one row.
func (w *packed) rowTile(dst []float32, row, col int) {
	p, r := w.panel(row/panel), row%panel
	switch w.typ {
	case backend.F32:
		for k := range dst {
			dst[k] = math.Float32frombits(binary.LittleEndian.Uint32(p[((col+k)*panel+r)*4:]))
		}
	case backend.F16:
		for k := range dst {
			dst[k] = block.F16ToF32(binary.LittleEndian.Uint16(p[((col+k)*panel+r)*2:]))
		}
	case backend.BF16:
		for k := range dst {
			dst[k] = block.BF16ToF32(binary.LittleEndian.Uint16(p[((col+k)*panel+r)*2:]))
		}
	case backend.Q8_0:
		for ; len(dst) > 0; dst, col = dst[32:], col+32 {
			b := p[col/32*kernel.Q8Bytes:][:kernel.Q8Bytes]
			d := block.F16ToF32(binary.LittleEndian.Uint16(b[2*r:]))
			for k := range 32 {
				dst[k] = d * float32(int8(b[2*panel+(k/4*panel+r)*4+k%4]))
			}
		}
	default:
		e, n := w.typ.BlockElems(), w.typ.BlockBytes()
		for ; len(dst) > 0; dst, col = dst[e:], col+e {
			w.decode(dst[:e], p[(col/e*panel+r)*n:][:n])
		}
	}
}

func (w *packed) check(what string, row, rows, col, cols int) {
	inside(what, w, row, rows, col, cols)
	if e := w.typ.BlockElems(); col%e != 0 || cols%e != 0 {
		panic(&backend.ShapeError{Op: what, Detail: fmt.Sprintf("columns [%d, +%d) of %s are not whole blocks of %d", col, cols, w.name, e)})
	}
}

// inside checks a window of a weight.
func inside(what string, w backend.Weight, row, rows, col, cols int) {
	if row < 0 || rows < 0 || row > w.Rows()-rows || col < 0 || cols < 0 || col > w.Cols()-cols {
		panic(&backend.ShapeError{Op: what, Detail: fmt.Sprintf("rows [%d, +%d), columns [%d, +%d) of %s [%d %d]",
			row, rows, col, cols, w.Name(), w.Rows(), w.Cols())})
	}
}
