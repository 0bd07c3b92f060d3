package cpu

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
	"github.com/herd-ml/herd/internal/parallel"
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
	runs       sync.Pool // of *[maxRun]byte, for rowTile
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
func (w *packed) panel(i int) []byte { return w.mem[i*w.panelBytes():][:w.panelBytes()] }

func (w *packed) panelBytes() int { return panelBytes(w.typ, w.rowBytes) }

// panelBytes is the size of a panel of rows of so many bytes. Rows of bfloat16 end
// with a whole pair.
func panelBytes(t backend.DType, row int) int {
	if t == backend.BF16 {
		row = (row + 3) &^ 3
	}
	return panel * row
}

// Pack implements backend.Backend. It reads rows with as many goroutines as
// the pool has workers, 16 rows at a time each.
func (b *Backend) Pack(ctx context.Context, src backend.WeightSource) (backend.Weight, error) {
	w, err := newPacked(&src)
	if err != nil {
		return nil, err
	}
	done := false
	defer func() { // also where ReadRows or Progress panics
		if !done {
			w.Free()
		}
	}()
	if err := w.fill(ctx, b, &src); err != nil {
		return nil, err
	}
	done = true
	return w, nil
}

// newPacked checks a source and returns the empty weight for it.
func newPacked(src *backend.WeightSource) (*packed, error) {
	fail := func(format string, a ...any) (*packed, error) {
		return nil, fmt.Errorf("cpu: weight %s: %w", src.Name, fmt.Errorf(format, a...))
	}
	size, all, err := packedBytes(src.Type, src.Rows, src.Cols)
	if err != nil {
		return fail("%w", err)
	}
	if src.ReadRows == nil {
		return fail("nothing to read")
	}
	mem, err := newBuffer(all)
	if err != nil {
		return fail("%w", err)
	}
	return &packed{buffer: mem, name: src.Name, typ: src.Type, rows: src.Rows, cols: src.Cols,
		rowBytes: size, decode: block.Decoder(src.Type)}, nil
}

// packedBytes is the size of a row in the file and of all panels.
func packedBytes(t backend.DType, rows, cols int) (row int, all int64, err error) {
	if !t.Float() && !t.Quantized() {
		return 0, 0, fmt.Errorf("type %v: %w", t, backend.ErrUnsupported)
	}
	if rows <= 0 || cols <= 0 {
		return 0, 0, fmt.Errorf("nothing to read for [%d %d]", rows, cols)
	}
	size, err := t.RowBytes(int64(cols))
	if err != nil {
		return 0, 0, err
	}
	n := int64(panels(rows))
	if rows > math.MaxInt32-panel || size > min(maxBytes, math.MaxInt-panel)/panel/n-panel {
		return 0, 0, fmt.Errorf("[%d %d] of %v is too large", rows, cols, t)
	}
	return int(size), n * int64(panelBytes(t, int(size))), nil
}

// WeightBytes implements backend.Backend.
func (b *Backend) WeightBytes(t backend.DType, rows, cols int) (int64, error) {
	_, all, err := packedBytes(t, rows, cols)
	if err != nil {
		return 0, fmt.Errorf("cpu: %w", err)
	}
	return all, nil
}

// readBytes is what fill reads at once, or one panel; less of a small weight, so
// that all workers have some.
const readBytes = 1 << 18

// reading returns memory to read n bytes into, contents undefined.
func (b *Backend) reading(n int) []byte {
	if p, ok := b.reads.Get().(*[]byte); ok && cap(*p) >= n {
		return (*p)[:n]
	}
	return make([]byte, max(n, readBytes))[:n]
}

// fill reads the panels, some at a time, and packs them.
func (w *packed) fill(ctx context.Context, b *Backend, src *backend.WeightSource) error {
	read := make([][]byte, len(b.pool.workers))
	some := max(min(readBytes/(panel*w.rowBytes), panels(w.rows)/(8*len(read))), 1)
	err := parallel.Ranges(ctx, len(read), panels(w.rows), some, func(worker, i, _ int) error {
		if read[worker] == nil {
			read[worker] = b.reading(some * panel * w.rowBytes)
		}
		rows, n := read[worker], min(some*panel, w.rows-i*panel)
		clear(rows[n*w.rowBytes:])
		if err := src.ReadRows(rows[:n*w.rowBytes], i*panel, n); err != nil {
			return fmt.Errorf("cpu: weight %s: %w", w.name, err)
		}
		for p := range panels(n) {
			w.pack(b.kernels, w.panel(i+p), rows[p*panel*w.rowBytes:][:panel*w.rowBytes])
		}
		if src.Progress != nil {
			src.Progress(int64(n * w.rowBytes))
		}
		return nil
	})
	for i := range read { // where ReadRows panics it may keep them
		if read[i] != nil {
			b.reads.Put(&read[i])
		}
	}
	return err
}

// pack is exchange of all rows of a panel.
func (w *packed) pack(k *kernel.Set, p, rows []byte) {
	row := func(r, at, n int) []byte { return rows[r*w.rowBytes+at:][:n] }
	switch size := w.typ.BlockBytes(); {
	case w.typ == backend.F32 || w.typ == backend.BF16: // words, and half of one
		k.PackWords(p, rows, w.rowBytes, w.rowBytes/4, 1, 0, 0)
		at := w.rowBytes &^ 3
		for r := 0; at < w.rowBytes && r < panel; r++ {
			exchange(w.typ, p[panel*at:], r, row(r, at, w.rowBytes-at), true)
		}
	default:
		head := w.typ.RowHead()
		k.PackWords(p, rows, w.rowBytes, head/4, 1, 0, 0)
		p, rows = p[panel*head:], rows[head:]
		at, blocks := 0, (w.rowBytes-head)/size
		for _, f := range fields[w.typ] {
			switch to, from := p[panel*at:], rows[at:]; f.unit {
			case 4:
				k.PackWords(to, from, w.rowBytes, f.bytes/4, blocks, panel*size, size)
			case 2:
				done := 0
				if size == 2 {
					done = packMatrix(to, from, w.rowBytes, blocks)
				}
				for i := 0; i < f.bytes; i += 2 {
					packHalves(to[panel*(size*done+i):], from[size*done+i:], w.rowBytes, blocks-done, panel*size, size)
				}
			default:
				packBytes(to, from, w.rowBytes, f.bytes, blocks, panel*size, size)
			}
			at += f.bytes
		}
	}
}

// packHalves interleaves 16 bits of each of 16 rows, block by block.
func packHalves(p, rows []byte, rowBytes, blocks, pStep, step int) {
	for b := range blocks {
		to, from := (*[2 * panel]byte)(p[b*pStep:]), rows[b*step:]
		for r := range panel {
			binary.LittleEndian.PutUint16(to[2*r:], binary.LittleEndian.Uint16(from[r*rowBytes:]))
		}
	}
}

// packMatrix is packHalves where nothing lies between the blocks, of most of them:
// it returns how many. It takes a cache line of 4 rows at a time, since rows a power
// of two apart compete for the same lines.
func packMatrix(p, rows []byte, rowBytes, blocks int) (done int) {
	const line = 32
	for ; done+line <= blocks; done += line {
		for r := 0; r < panel; r += 4 {
			from := rows[2*done+r*rowBytes:]
			x0, x1, x2, x3 := from[:2*line], from[rowBytes:][:2*line], from[2*rowBytes:][:2*line], from[3*rowBytes:][:2*line]
			to := p[2*(panel*done+r):]
			for i := 0; i < 2*line; i += 8 { // 4 of each row
				a, b := binary.LittleEndian.Uint64(x0[i:]), binary.LittleEndian.Uint64(x1[i:])
				c, d := binary.LittleEndian.Uint64(x2[i:]), binary.LittleEndian.Uint64(x3[i:])
				y := (*[6*panel + 8]byte)(to[panel*i:])
				for j := range 4 {
					binary.LittleEndian.PutUint64(y[2*panel*j:], a&0xffff|b&0xffff<<16|c&0xffff<<32|d<<48)
					a, b, c, d = a>>16, b>>16, c>>16, d>>16
				}
			}
		}
	}
	return done
}

// packBytes interleaves n bytes of each of 16 rows, block by block.
func packBytes(p, rows []byte, rowBytes, n, blocks, pStep, step int) {
	for b := range blocks {
		to, from := p[b*pStep:][:panel*n], rows[b*step:]
		for r := range panel {
			for i, x := range from[r*rowBytes:][:n] {
				to[panel*i+r] = x
			}
		}
	}
}

// fields are the parts of a block, in the file's order: bytes, and the bytes of
// an output that stay together in a panel. A panel has the same parts of its 16
// rows interleaved by units, so that a vector holds one unit of each. What rows begin
// with (DType.RowHead) lies before all blocks, word by word.
var fields = [...][]struct{ bytes, unit int }{
	backend.F32:     {{4, 4}},
	backend.F16:     {{2, 2}},
	backend.Q4_0:    {{2, 2}, {16, 4}},
	backend.Q4_1:    {{2, 2}, {2, 2}, {16, 4}},
	backend.Q5_0:    {{2, 2}, {4, 4}, {16, 4}},
	backend.Q5_1:    {{2, 2}, {2, 2}, {4, 4}, {16, 4}},
	backend.Q8_0:    {{2, 2}, {32, 4}},
	backend.Q2_K:    {{16, 1}, {64, 4}, {2, 2}, {2, 2}},
	backend.Q3_K:    {{32, 4}, {64, 4}, {12, 1}, {2, 2}},
	backend.Q4_K:    {{2, 2}, {2, 2}, {12, 1}, {128, 4}},
	backend.Q5_K:    {{2, 2}, {2, 2}, {12, 1}, {32, 4}, {128, 4}},
	backend.Q6_K:    {{128, 4}, {64, 4}, {16, 1}, {2, 2}},
	backend.IQ1_S:   {{2, 2}, {32, 4}, {16, 2}},
	backend.IQ1_M:   {{32, 4}, {24, 2}},
	backend.IQ2_XXS: {{2, 2}, {64, 4}},
	backend.IQ2_XS:  {{2, 2}, {64, 4}, {8, 1}},
	backend.IQ2_S:   {{2, 2}, {64, 4}, {16, 1}},
	backend.IQ3_XXS: {{2, 2}, {96, 4}},
	backend.IQ3_S:   {{2, 2}, {64, 4}, {8, 1}, {32, 4}, {4, 1}},
	backend.IQ4_NL:  {{2, 2}, {16, 4}},
	backend.IQ4_XS:  {{2, 2}, {2, 2}, {4, 1}, {128, 4}},
	backend.TQ1_0:   {{52, 4}, {2, 2}},
	backend.TQ2_0:   {{64, 4}, {2, 2}},
	backend.MXFP4:   {{1, 1}, {16, 4}},
	backend.NVFP4:   {{4, 1}, {32, 4}},
	backend.E4M3:    {{1, 1}},
}

// exchange copies between blocks of a panel p and of row r, as the file has it.
func exchange(t backend.DType, p []byte, r int, row []byte, pack bool) {
	if t == backend.BF16 { // pairs of inputs, the last with a zero
		swap(p, r, row, 4, pack)
		if at := len(row) &^ 3; at < len(row) {
			swap(p[panel*at+2*r:], r, row[at:], 2, pack)
		}
		return
	}
	for ; len(row) > 0; p = p[panel*t.BlockBytes():] {
		at := 0
		for _, f := range fields[t] {
			swap(p[panel*at:][:panel*f.bytes], r, row[:f.bytes], f.unit, pack)
			row, at = row[f.bytes:], at+f.bytes
		}
	}
}

// swap copies between units of row r in p and row.
func swap(p []byte, r int, row []byte, unit int, pack bool) {
	switch {
	case unit == 4 && pack:
		for i := 0; i+4 <= len(row); i += 4 {
			binary.LittleEndian.PutUint32(p[panel*i+4*r:], binary.LittleEndian.Uint32(row[i:]))
		}
	case unit == 4:
		for i := 0; i+4 <= len(row); i += 4 {
			binary.LittleEndian.PutUint32(row[i:], binary.LittleEndian.Uint32(p[panel*i+4*r:]))
		}
	case unit == 2 && pack:
		for i := 0; i+2 <= len(row); i += 2 {
			binary.LittleEndian.PutUint16(p[panel*i+2*r:], binary.LittleEndian.Uint16(row[i:]))
		}
	case unit == 2:
		for i := 0; i+2 <= len(row); i += 2 {
			binary.LittleEndian.PutUint16(row[i:], binary.LittleEndian.Uint16(p[panel*i+2*r:]))
		}
	case pack:
		for i, b := range row {
			p[panel*i+r] = b
		}
	default:
		for i := range row {
			row[i] = p[panel*i+r]
		}
	}
}

// Unpack implements backend.Weight.
func (w *packed) Unpack(dst []byte, row, n int) {
	w.check("Unpack", row, n, 0, w.cols)
	head := w.typ.RowHead()
	for ; n > 0; dst, row, n = dst[w.rowBytes:], row+1, n-1 {
		p := w.panel(row / panel)
		swap(p, row%panel, dst[:head], 4, false)
		exchange(w.typ, p[panel*head:], row%panel, dst[head:w.rowBytes], false)
	}
	runtime.KeepAlive(w)
}

// Tile implements backend.Weight. It allocates nothing.
func (w *packed) Tile(dst []float32, row, rows, col, cols int) {
	w.check("Tile", row, rows, col, cols)
	for r := range rows {
		w.rowTile(dst[r*cols:][:cols], row+r, col)
	}
	runtime.KeepAlive(w)
}

// rowTile decodes columns from col on of one row.
func (w *packed) rowTile(dst []float32, row, col int) {
	p, r := w.panel(row/panel), row%panel
	e, n := w.typ.BlockElems(), w.typ.BlockBytes()
	if w.typ == backend.BF16 {
		for i := range dst {
			at := (col+i)/2*panel*4 + 4*r + (col+i)%2*2
			dst[i] = block.BF16ToF32(binary.LittleEndian.Uint16(p[at:]))
		}
		return
	}
	buf, ok := w.runs.Get().(*[maxRun]byte)
	if !ok {
		buf = new([maxRun]byte)
	}
	defer w.runs.Put(buf)
	run := min(len(dst), max(e, 64)) / e * e // of several blocks where they are small
	head := p[:panel*w.typ.RowHead()]
	for p = p[len(head)+col/e*n*panel:]; len(dst) > 0; dst = dst[run:] {
		run = min(run, len(dst))
		b := buf[:run/e*n]
		exchange(w.typ, p, r, b, false)
		w.decode(dst[:run], b)
		if len(head) > 0 {
			scale := math.Float32frombits(binary.LittleEndian.Uint32(head[4*r:]))
			for i := range dst[:run] {
				dst[i] *= scale
			}
		}
		p = p[len(b)*panel:]
	}
}

// maxRun is at least the size of a block, and of 64 floats.
const maxRun = 512

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
