package backend

import (
	"context"
	"fmt"
	"math"
)

// Measure returns a backend that computes nothing and holds no memory: buffers have sizes
// and weights shapes only, numbers that are read are zeros, nothing that is packed is read.
// A step on it takes as much of its arena (Exec.Scratch) as one on b would whose arena is
// large enough (Exec.Reserve), so has no gaps from growing. It never waits for steps, of b neither.
func Measure(b Backend) Backend { return &measured{b} }

type measured struct{ Backend }

// sized is a Buffer without memory.
type sized struct{ bytes int64 }

func (s *sized) Size() int64 { return s.bytes }
func (s *sized) Free()       {}

func (m *measured) Alloc(bytes int64) (Buffer, error) {
	if bytes < 0 {
		return nil, fmt.Errorf("backend: a buffer of %d bytes", bytes)
	}
	return &sized{bytes}, nil
}

func (m *measured) Upload(Buffer, int64, []byte) error { return nil }

func (m *measured) Download(dst []byte, _ Buffer, _ int64) error {
	clear(dst)
	return nil
}

func (m *measured) ReadPage(dst []float32, _ Buffer, _ KV) error {
	clear(dst)
	return nil
}

func (m *measured) Pack(_ context.Context, src WeightSource) (Weight, error) {
	bytes, err := m.WeightBytes(src.Type, src.Rows, src.Cols)
	if err != nil {
		return nil, err
	}
	return &shaped{src.Name, src.Type, src.Rows, src.Cols, true, bytes}, nil
}

func (m *measured) Float(name string, v View) (Weight, error) {
	if v.Shape.Rank != 2 {
		return nil, fmt.Errorf("backend: weight %s: a view of %v is not a matrix", name, v.Shape)
	}
	return &shaped{name, v.Type, v.Rows(), v.Cols(), false, int64(v.Shape.Elems()) * int64(v.Type.BlockBytes())}, nil
}

func (m *measured) NewExec() (Exec, error) {
	return &measuring{b: m, arena: &sized{math.MaxInt64}}, nil
}

func (m *measured) Close() error { return nil }

// shaped is a Weight without numbers.
type shaped struct {
	name       string
	typ        DType
	rows, cols int
	packed     bool
	bytes      int64
}

func (w *shaped) Name() string                       { return w.name }
func (w *shaped) Type() DType                        { return w.typ }
func (w *shaped) Rows() int                          { return w.rows }
func (w *shaped) Cols() int                          { return w.cols }
func (w *shaped) Packed() bool                       { return w.packed }
func (w *shaped) Version() uint64                    { return 0 }
func (w *shaped) Changed()                           {}
func (w *shaped) Bytes() int64                       { return w.bytes }
func (w *shaped) Unpack(dst []byte, _, _ int)        { clear(dst) }
func (w *shaped) Tile(dst []float32, _, _, _, _ int) { clear(dst) }
func (w *shaped) Free()                              {}

// measuring is an Exec that counts.
type measuring struct {
	b          *measured
	ctx        context.Context
	arena      *sized
	used, peak int64 // bytes
}

func (e *measuring) Backend() Backend { return e.b }

func (e *measuring) Begin(ctx context.Context) error {
	e.ctx, e.used = ctx, 0
	return ctx.Err()
}

func (e *measuring) End() error { return e.ctx.Err() }

func (e *measuring) Layout(l *Layout) { l.Check() }

// arenaLine is what parts of an arena are aligned to, as Buffer promises.
const arenaLine = 64

func (e *measuring) Alloc(t DType, s Shape) View {
	size := int64(t.BlockBytes())
	n := size
	for _, d := range s.Dim[:s.Rank] {
		if d < 0 || d > 0 && n > math.MaxInt64/4/int64(d) {
			panic(shapeErr("Alloc", "%v of %v", s, t))
		}
		n *= int64(d)
	}
	at := e.used
	e.take(n)
	return Contiguous(e.arena, t, int(at/size), s)
}

// take counts bytes of the arena.
func (e *measuring) take(n int64) {
	n = (n + arenaLine - 1) &^ (arenaLine - 1)
	if n > math.MaxInt64/2-e.used {
		panic(shapeErr("Alloc", "an arena of %d bytes and %d", e.used, n))
	}
	e.used += n
	e.peak = max(e.peak, e.used)
}

func (e *measuring) Mark() int64        { return e.used }
func (e *measuring) Release(mark int64) { e.used = mark }

func (e *measuring) Run(op Op, a *Args) {
	Check(op, a, e.b)
	mark := e.used
	e.take(e.b.Scratch(op, a))
	e.used = mark
}

func (e *measuring) Read(dst []float32, _ View) { clear(dst) }
func (e *measuring) Write(View, []float32)      {}
func (e *measuring) WriteIDs(View, []int32)     {}
func (e *measuring) Reserve(int64)              {}
func (e *measuring) Scratch() int64             { return e.peak }
func (e *measuring) Close()                     {}
