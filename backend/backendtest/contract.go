package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// The promises of the interface that no table of operations covers. Each check
// returns what is wrong; an error that wraps backend.ErrUnsupported skips it.

var errTest = errors.New("a reader's error")

// checkPack packs blocks of any bytes and takes them out again.
func checkPack(b backend.Backend, t backend.DType) error {
	c := newCase(backend.MatMul, "pack %v", t)
	const rows = 37 // more than two panels of 16, the last ragged
	m := &matrix{t: t, rows: rows, cols: 3 * t.BlockElems()}
	for range rows {
		m.raw = append(m.raw, c.rowHead(t)...)
		for range 3 {
			m.raw = append(m.raw, anyBlock(c.rng, t)...)
		}
	}
	w, err := m.pack(b)
	if err != nil {
		return err
	}
	defer w.Free()
	if w.Type() != t || w.Rows() != rows || w.Cols() != m.cols || !w.Packed() || w.Version() != 0 || w.Name() != "test."+t.String() {
		return fmt.Errorf("packed weight says %q %v [%d %d], packed %v, version %d", w.Name(), w.Type(), w.Rows(), w.Cols(), w.Packed(), w.Version())
	}
	if w.Bytes() < int64(len(m.raw)) {
		return fmt.Errorf("%d bytes held of %d", w.Bytes(), len(m.raw))
	}
	if n, err := b.WeightBytes(t, rows, m.cols); err != nil || n != w.Bytes() {
		return fmt.Errorf("contract: WeightBytes says %d, %v; %d are held", n, err, w.Bytes())
	}
	size, e := m.rowBytes(), t.BlockElems()
	for _, part := range [][2]int{{0, rows}, {0, 1}, {15, 2}, {16, 16}, {31, 6}, {36, 1}, {5, 0}} {
		row, n := part[0], part[1]
		raw := m.raw[row*size:][:n*size]
		got := bytes.Repeat([]byte{0xee}, len(raw)+1)
		if w.Unpack(got, row, n); !bytes.Equal(got[:len(raw)], raw) || got[len(raw)] != 0xee {
			return fmt.Errorf("contract: Unpack of rows [%d, +%d) differs from the file", row, n)
		}
		all := make([]float32, n*m.cols)
		block.DecodeRows(t, all, raw, m.cols)
		for _, cols := range [][2]int{{0, 3}, {1, 1}, {1, 2}, {2, 1}} {
			col, k := cols[0]*e, cols[1]*e
			tile := make([]float32, n*k)
			w.Tile(tile, row, n, col, k)
			for i, v := range tile {
				if want := all[i/k*m.cols+col+i%k]; math.Float32bits(v) != math.Float32bits(want) && (v == v || want == want) {
					return fmt.Errorf("contract: Tile of rows [%d, +%d), columns [%d, +%d): element %d is %v, want %v", row, n, col, k, i, v, want)
				}
			}
		}
	}
	if err := checkVersion(b, w); err != nil {
		return err
	}
	return checkPackErrors(b, m)
}

func checkPackErrors(b backend.Backend, m *matrix) error {
	var read int64 // ReadRows and Progress may be called at once
	total := make(chan int64, m.rows*m.cols)
	src := backend.WeightSource{Name: "test", Type: m.t, Rows: m.rows, Cols: m.cols,
		Progress: func(n int64) { total <- n },
		ReadRows: func(dst []byte, row, n int) error {
			copy(dst, m.raw[row*m.rowBytes():][:n*m.rowBytes()])
			return nil
		}}
	w, err := b.Pack(context.Background(), src)
	if err != nil {
		return err
	}
	w.Free()
	close(total)
	for n := range total {
		read += n
	}
	if read != int64(len(m.raw)) {
		return fmt.Errorf("contract: Progress says %d bytes of %d", read, len(m.raw))
	}
	src.Progress = nil
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.Pack(ctx, src); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("contract: Pack with a cancelled context: %v", err)
	}
	src.ReadRows = func([]byte, int, int) error { return errTest }
	if _, err := b.Pack(context.Background(), src); !errors.Is(err, errTest) {
		return fmt.Errorf("contract: Pack with a failing reader: %v", err)
	}
	if src.Cols++; m.t.BlockElems() > 1 {
		if n, err := b.WeightBytes(m.t, src.Rows, src.Cols); err == nil {
			return fmt.Errorf("contract: WeightBytes says %d for %d columns of %v", n, src.Cols, m.t)
		}
		if _, err := b.Pack(context.Background(), src); err == nil {
			return fmt.Errorf("contract: Pack takes %d columns of %v", src.Cols, m.t)
		}
	}
	return nil
}

// checkVersion changes a float weight and tries to change a packed one.
func checkVersion(b backend.Backend, packed backend.Weight) error {
	buf, err := b.Alloc(4 * 6)
	if err != nil {
		return err
	}
	defer buf.Free()
	w, err := b.Float("test", backend.Contiguous(buf, backend.F32, 0, backend.Dims(2, 3)))
	if err != nil {
		return err
	}
	before := w.Version()
	if w.Changed(); w.Version() == before {
		return fmt.Errorf("a changed float weight still has version %d", before)
	}
	if panicked(packed.Changed) == nil {
		return fmt.Errorf("contract: Changed on a packed weight does not panic")
	}
	return nil
}

// panicked returns what f panics with, or nil.
func panicked(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

// checkFloat compares float weights with packed ones of the same numbers: the
// same bits.
func checkFloat(b backend.Backend) error {
	for _, t := range []backend.DType{backend.F32, backend.BF16} {
		for _, rows := range []int{1, 3, 33} {
			c := newCase(backend.MatMul, "float or packed %v, %d rows", t, rows)
			c.matMul(backend.RoundNone, dense, c.normal, rows, c.floatWeight(t, gaps, 49, 100))
			float, err := c.run(b)
			if err != nil {
				return err
			}
			c.weights[0].float = nil
			packed, err := c.run(b)
			if err != nil {
				return err
			}
			if !bytes.Equal(float[c.out[0]], packed[c.out[0]]) {
				return fmt.Errorf("%s: the bits differ", c.name)
			}
		}
	}
	return checkSnapshot(b)
}

// checkSnapshot compares float weights that are rounded as they are multiplied with the
// packed weights of the rounded numbers, which stay what they are when they are rounded
// again: the same bits in every product that sampling has. So the log-probabilities of who
// samples from packed weights are those of who trains.
func checkSnapshot(b backend.Backend) error {
	for _, rows := range []int{1, 3, 33} {
		for _, k := range []int{97, 2100} {
			for _, op := range []backend.Op{backend.MatMul, backend.MatMulAdd, backend.MatMulSwiGLU, backend.LogProb} {
				c := newCase(op, "float or rounded, %d rows of %d", rows, k)
				weight := func() *matrix { return c.floatWeight(backend.F32, gaps, 49, k) }
				switch round := backend.RoundBothBF16; op {
				case backend.MatMul:
					c.matMul(round, dense, c.normal, rows, weight())
				case backend.MatMulAdd:
					c.matMulAdd(round, dense, false, rows, weight())
				case backend.MatMulSwiGLU:
					c.matMulSwiGLU(round, dense, rows, weight(), weight())
				case backend.LogProb:
					c.logProb(round, dense, rows, weight())
				}
				if err := c.sameRounded(b); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// sameRounded compares a case of float weights with packed ones of the rounded numbers.
func (c *testCase) sameRounded(b backend.Backend) error {
	float, err := c.run(b)
	if err != nil {
		return err
	}
	for _, w := range c.weights {
		x := make([]float32, 0, w.rows*w.cols)
		for _, v := range read(w.float.view) {
			x = append(x, float32(v))
		}
		w.t, w.raw, w.float = backend.BF16, make([]byte, 2*len(x)), nil
		block.Encode(w.t, w.raw, x)
	}
	rounds := []backend.Rounding{backend.RoundBothBF16}
	if c.op == backend.MatMul {
		rounds = append(rounds, backend.RoundToBF16)
	}
	for _, c.args.Round = range rounds {
		packed, err := c.run(b)
		if err != nil {
			return err
		}
		for _, o := range c.out {
			if o != nil && !bytes.Equal(float[o], packed[o]) {
				return fmt.Errorf("%v %s, %v: the bits differ", c.op, c.name, c.args.Round)
			}
		}
	}
	return nil
}

// rowsOf is a case on rows [from, from+n) of the first input.
func (c *testCase) rowsOf(from, n int) *testCase {
	d := *c
	d.answer = sync.OnceValues(d.oracle)
	part := func(o *operand) *operand { return &operand{o.view.Slice(0, from, n)} }
	d.in[0] = part(c.in[0])
	if c.op == backend.MatMulAdd {
		d.in[1] = part(c.in[1])
	}
	for i, o := range c.out {
		if o != nil {
			d.out[i] = fresh(backend.F32, odd, n, o.view.Cols())
		}
	}
	return &d
}

// sameRows checks that the outputs of part, rows from on, are bit for bit those
// of the whole.
func sameRows(b backend.Backend, whole map[*operand]host, c, part *testCase, from int) error {
	after, err := part.run(b)
	if err != nil {
		return err
	}
	for i, o := range part.out {
		if o == nil {
			continue
		}
		some, all := o.view, c.out[i].view.Slice(0, from, o.view.Rows())
		some.Buf, all.Buf = after[o], whole[c.out[i]]
		x, y := read(some), read(all)
		for j := range x {
			if x[j] != y[j] {
				return fmt.Errorf("%s %s: output %d of rows [%d, +%d), element %d: %v alone, %v among all", c.op, c.name, i, from, o.view.Rows(), j, x[j], y[j])
			}
		}
	}
	return nil
}

// checkRowsAlone checks that rows give the same bits alone and in a batch.
func checkRowsAlone(b backend.Backend, c *testCase) error {
	whole, err := c.run(b)
	if err != nil {
		return err
	}
	for _, part := range [][2]int{{0, 1}, {17, 1}, {32, 1}, {1, 2}, {0, 16}, {5, 28}} {
		if err := sameRows(b, whole, c, c.rowsOf(part[0], part[1]), part[0]); err != nil {
			return err
		}
	}
	return nil
}

// rowsAlone are cases of 33 rows for checkRowsAlone.
func rowsAlone(b backend.Backend) (cs []*testCase) {
	for _, t := range weightTypes() {
		k := max(256, inputs(t)[2])
		for _, round := range roundings(k) {
			if round == backend.RoundNone || round == backend.RoundBothBF16 && t == backend.F32 || round == b.Rounding(t) || round == b.Rounding(t).To16() {
				c := newCase(backend.MatMul, "%v, round %v", t, round)
				cs = append(cs, c.matMul(round, dense, c.normal, 33, c.weight(t, 50, k)))
				c = newCase(backend.MatMulAdd, "%v, round %v", t, round)
				cs = append(cs, c.matMulAdd(round, dense, false, 33, c.weight(t, 50, k)))
				c = newCase(backend.MatMulSwiGLU, "%v, round %v", t, round)
				cs = append(cs, c.matMulSwiGLU(round, dense, 33, c.weight(t, 50, k), c.weight(t, 50, k)))
			}
		}
	}
	for _, d := range []int{65, 320} {
		c := newCase(backend.RMSNorm, "%d", d)
		c.args.Eps = 1e-5
		c.in[0] = newOperand(backend.F32, gaps, c.normal, 33, d)
		c.in[1] = newOperand(backend.F32, dense, c.normal, d)
		c.out[0] = fresh(backend.F32, dense, 33, d)
		cs = append(cs, c)
	}
	return cs
}

// checkChunks runs one prompt of 150 tokens at once, in chunks, and token by
// token: the same bits. So does checkSource with rows that see a source whole.
func checkChunks(b backend.Backend, t backend.DType) error {
	return checkParts(b, t, "prefill in chunks", false, func(end int) backend.Span { return backend.Span{Len: end} })
}

func checkSource(b backend.Backend, t backend.DType) error {
	return checkParts(b, t, "rows at a source, in chunks", true, func(int) backend.Span { return backend.Span{Start: 20, Len: 270} })
}

// checkParts compares rows [from, end) of 150 alone with the same among all; span is
// what rows up to end see.
func checkParts(b backend.Backend, t backend.DType, name string, whole bool, span func(end int) backend.Span) error {
	g := heads{4, 2, 64}
	c := newCase(backend.Attention, "%s, %v", name, t)
	c.args.KV = backend.KV{Type: t, Layers: 1, Heads: g.kv, HeadDim: g.dim}
	const n = 150
	c.layout(scene{rows: []int{n}, spans: [][]backend.Span{{span(n)}}, whole: whole}, true)
	c.addPages()
	c.attention(g, dense)
	all, err := c.run(b)
	if err != nil {
		return err
	}
	for _, part := range [][2]int{{0, 1}, {63, 1}, {64, 1}, {128, 1}, {149, 1}, {0, 64}, {60, 9}, {100, 50}, {1, 149}} {
		from, rows := part[0], part[1]
		d := c.rowsOf(from, rows)
		d.layout(scene{rows: []int{rows}, spans: [][]backend.Span{{span(from + rows)}}, whole: whole}, false)
		if err := sameRows(b, all, c, d, from); err != nil {
			return err
		}
	}
	return nil
}

// checkLayout checks that a layout is handed over before it is named, and that one whose
// parts do not fit is refused.
func checkLayout(b backend.Backend) error {
	e, err := b.NewExec()
	if err != nil {
		return err
	}
	defer e.Close()
	shape := func(f func()) bool {
		var s *backend.ShapeError
		err, _ := panicked(f).(error)
		return errors.As(err, &s)
	}
	return backend.Step(context.Background(), e, func() error {
		l := backend.Documents(2, 3)
		a := backend.Args{Layout: l}
		a.In[0], a.Out[0] = e.Alloc(backend.F32, backend.Dims(4)), e.Alloc(backend.F32, backend.Dims(5, 8))
		e.Write(a.In[0], make([]float32, 4))
		if !shape(func() { e.Run(backend.RoPETable, &a) }) {
			return errors.New("contract: a layout that was not handed over is taken")
		}
		e.Layout(l)
		e.Run(backend.RoPETable, &a)
		for what, change := range map[string]func(l *backend.Layout){
			"rows of no segment":   func(l *backend.Layout) { l.Pos = append(l.Pos, 0) },
			"a hole":               func(l *backend.Layout) { l.Segments[1].Row++ },
			"keys that are not":    func(l *backend.Layout) { l.Segments[0].Spans[0].Len = 6 },
			"pages that are not":   func(l *backend.Layout) { l.Segments[0].Pages = []backend.Buffer{} },
			"more rows than keys":  func(l *backend.Layout) { l.Segments[1].Spans[0].Len = 2 },
			"a negative count":     func(l *backend.Layout) { l.Keys = -1 },
			"a segment of no span": func(l *backend.Layout) { l.Segments[0].Spans = nil },
		} {
			l := backend.Documents(2, 3)
			if change(l); !shape(func() { e.Layout(l) }) {
				return fmt.Errorf("contract: a layout with %s is taken", what)
			}
		}
		return nil
	})
}

// checkMemory checks buffers and the arena.
func checkMemory(b backend.Backend) error {
	if _, err := b.Alloc(-1); err == nil {
		return errors.New("Alloc(-1) gives a buffer")
	}
	for _, n := range []int64{0, 1, 64, 1000} {
		buf, err := b.Alloc(n)
		if err != nil {
			return err
		}
		if buf.Size() < n {
			return fmt.Errorf("Alloc(%d) gives %d bytes", n, buf.Size())
		}
		if err := checkCopies(b, buf, int(n)); err != nil {
			return err
		}
		buf.Free()
		buf.Free()
	}
	e, err := b.NewExec()
	if err != nil {
		return err
	}
	defer e.Close()
	want, got := make([]float32, 15), make([]float32, 10)
	for i := range want {
		want[i] = float32(i) + 0.5
	}
	err = within(e, func() {
		first := e.Alloc(backend.F32, backend.Dims(3, 5))
		e.Write(first, want)
		mark := e.Mark()
		for range 3 { // the same memory again after Release
			v := e.Alloc(backend.F32, backend.Dims(1<<16))
			e.Write(v, make([]float32, 1<<16))
			e.Release(mark)
		}
		e.Read(got, first.Slice(0, 1, 2))
	})
	if err != nil {
		return err
	}
	for i, v := range got {
		if v != want[5+i] {
			return fmt.Errorf("element %d read back as %v, not %v", i, v, want[5+i])
		}
	}
	if s := e.Scratch(); s < 4<<16 || s > 8<<16 {
		return fmt.Errorf("contract: Scratch is %d after a step of %d bytes", s, 4*(15+1<<16))
	}
	return checkReserve(b)
}

// checkReserve checks that a step takes no more of an arena than it uses, where what it
// uses was reserved, and more where it needs more.
func checkReserve(b backend.Backend) error {
	for _, reserved := range []int64{63 << 16, 1 << 16} {
		e, err := b.NewExec()
		if err != nil {
			return err
		}
		defer e.Close()
		sizes := []int{1, 2, 4, 8, 16, 32} // times 1 << 16 bytes: 63 of them
		for range 2 {
			e.Reserve(reserved)
			err := within(e, func() {
				for i, n := range sizes {
					v := e.Alloc(backend.F32, backend.Dims(n<<14))
					e.Write(v.Slice(0, n<<14-1, 1), []float32{float32(i)})
				}
			})
			if err != nil {
				return err
			}
		}
		if s := e.Scratch(); s < 63<<16 || reserved == 63<<16 && s > reserved {
			return fmt.Errorf("contract: Scratch is %d after steps of %d bytes, %d were reserved", s, 63<<16, reserved)
		}
	}
	return nil
}

// checkCopies checks that a new buffer is zeroed, holds what is uploaded, and refuses
// bytes that it does not have.
func checkCopies(b backend.Backend, buf backend.Buffer, n int) error {
	got := bytes.Repeat([]byte{1}, n)
	if err := b.Download(got, buf, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, make([]byte, n)) {
		return fmt.Errorf("Alloc(%d) is not zeroed", n)
	}
	want, some := make([]byte, n), []byte("bytes of any kind")[:min(n/3, 17)]
	copy(want[n/2:], some)
	if err := b.Upload(buf, int64(n/2), some); err != nil {
		return err
	}
	if err := b.Download(got, buf, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("contract: %d bytes at %d were uploaded, the buffer holds %v", len(some), n/2, got)
	}
	for _, off := range []int64{-1, buf.Size(), math.MaxInt64} {
		for what, copies := range map[string]func(){
			"Upload":   func() { _ = b.Upload(buf, off, []byte{1}) },
			"Download": func() { _ = b.Download([]byte{1}, buf, off) },
		} {
			var shape *backend.ShapeError
			if err, _ := panicked(copies).(error); !errors.As(err, &shape) {
				return fmt.Errorf("contract: %s of a byte at %d of %d does not panic with a ShapeError", what, off, buf.Size())
			}
		}
	}
	return nil
}

// checkSteps checks the line of steps, a step stopped by its context, the panic for
// operands that do not fit, and that a step ends after a panic.
func checkSteps(b backend.Backend) error {
	if !errors.Is(b.Supports(backend.NoOp), backend.ErrUnsupported) {
		return errors.New("NoOp is supported")
	}
	e, err := b.NewExec()
	if err != nil {
		return err
	}
	defer e.Close()
	why := errors.New("the cause of the end")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	err = backend.Step(ctx, e, func() error {
		if err := secondInLine(b); err != nil {
			return err
		}
		var a backend.Args
		a.In[0], a.Out[0] = e.Alloc(backend.F32, backend.Dims(4)), e.Alloc(backend.F32, backend.Dims(5))
		if err := wantShapeError(e, &a); err != nil {
			return err
		}
		a.Out[0] = e.Alloc(backend.F32, backend.Dims(4))
		a.Out[0].Stride[0] = 0
		if err := wantShapeError(e, &a); err != nil {
			return fmt.Errorf("an output that repeats: %w", err)
		}
		cancel(why)
		a.Out[0] = e.Alloc(backend.F32, backend.Dims(4))
		e.Run(backend.Copy, &a)
		return nil
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		return fmt.Errorf("contract: a cancelled step: %v", err)
	}
	if err := backend.Step(ctx, e, func() error { return nil }); !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		return fmt.Errorf("contract: a step with a cancelled context: %v", err)
	}
	if err := within(e, func() { panic("of a step") }); err == nil {
		return errors.New("contract: a panic of a step is lost")
	}
	if err := within(e, func() {}); err != nil {
		return fmt.Errorf("contract: a step after a cancelled one and one that panicked: %v", err)
	}
	return nil
}

// secondInLine checks that a second context waits for the first, and stops
// waiting with its context.
func secondInLine(b backend.Backend) error {
	e, err := b.NewExec()
	if err != nil {
		return err
	}
	defer e.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	err = backend.Step(ctx, e, func() error { return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("contract: a step during another step, with 5 ms to wait: %v", err)
	}
	return nil
}

func wantShapeError(e backend.Exec, a *backend.Args) (err error) {
	defer func() {
		r, _ := recover().(error)
		var s *backend.ShapeError
		if !errors.As(r, &s) {
			err = fmt.Errorf("contract: Copy of operands that do not fit panics with %v", r)
		}
	}()
	e.Run(backend.Copy, a)
	return nil
}
