package cpu

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// line is n elements along the last axis of a view.
type line struct {
	s      []float32 // begins with the first element; [n] where the stride is 1
	n      int
	stride int
}

func (l *line) unit() bool           { return l.stride == 1 }
func (l *line) at(i int) float32     { return l.s[i*l.stride] }
func (l *line) set(i int, v float32) { l.s[i*l.stride] = v }

// lines are the lines of all operands that an element-wise operation reads and writes
// together: outputs y and z, inputs p, q and r. The line of an absent operand is empty.
type lines struct{ y, z, p, q, r line }

// unit reports whether the elements of all are side by side.
func (l *lines) unit() bool {
	for _, o := range [...]*line{&l.y, &l.z, &l.p, &l.q, &l.r} {
		if o.n > 0 && !o.unit() {
			return false
		}
	}
	return true
}

// lineTask is an element-wise operation on views of one shape. It has one of three
// functions: fn of whole lines, one of an element, or two of a pair of elements. Each chunk
// is perChunk lines.
type lineTask struct {
	fn             func(w *worker, l lines)
	one            func(p float32) float32
	two            func(p, q float32) float32
	a              *backend.Args
	lines, perLine int // perLine is 0 where lines are as long as the last axis
	perChunk       int
	cut            bool // lines may be cut anywhere
}

// flatLine is the length of a line where no operand has gaps and lines may be cut: the
// last axis does not matter then.
const flatLine = 1 << 10

// eachLine calls fn for all lines. cost is that of an element, 1 for an addition. cut says
// that fn gives the same for parts of a line.
func (e *exec) eachLine(a *backend.Args, cost int, cut bool, fn func(w *worker, l lines)) {
	e.lines = lineTask{fn: fn, a: a, cut: cut}
	e.runLines(cost)
}

// each1 calls f for each element of an input.
func (e *exec) each1(a *backend.Args, cost int, f func(p float32) float32) {
	e.lines = lineTask{one: f, a: a, cut: true}
	e.runLines(cost)
}

// each2 calls f for each pair of elements of two inputs.
func (e *exec) each2(a *backend.Args, cost int, f func(p, q float32) float32) {
	e.lines = lineTask{two: f, a: a, cut: true}
	e.runLines(cost)
}

func (e *exec) runLines(cost int) {
	t := &e.lines
	n := t.a.Out[0].Cols()
	t.lines = t.a.Out[0].Rows()
	if t.cut && t.contiguous() {
		t.perLine = flatLine
		n, t.lines = flatLine, (t.lines*n+flatLine-1)/flatLine
	}
	t.perChunk = max(1, chunkElems/max(cost*n, 1))
	e.b.pool.run(t, (t.lines+t.perChunk-1)/t.perChunk)
	*t = lineTask{}
}

// contiguous reports whether no operand has gaps.
func (t *lineTask) contiguous() bool {
	for i := range t.a.Out {
		if o := &t.a.Out[i]; o.Present() && !o.IsContiguous() {
			return false
		}
	}
	for i := range t.a.In {
		if o := &t.a.In[i]; o.Present() && !o.IsContiguous() {
			return false
		}
	}
	return true
}

func (t *lineTask) run(w *worker, chunk int) {
	for l := chunk * t.perChunk; l < min((chunk+1)*t.perChunk, t.lines); l++ {
		o := lines{t.line(&t.a.Out[0], l), t.line(&t.a.Out[1], l), t.line(&t.a.In[0], l), t.line(&t.a.In[1], l), t.line(&t.a.In[2], l)}
		if !t.cut || o.y.n <= pieceLen {
			t.piece(w, o)
		} else if !w.pieces(o.y.n, func(from, to int) { t.piece(w, o.part(from, to)) }) {
			return
		}
	}
}

// piece runs the task's function on lines.
func (t *lineTask) piece(w *worker, o lines) {
	switch {
	case t.one != nil:
		for i := range o.y.n {
			o.y.set(i, t.one(o.p.at(i)))
		}
	case t.two != nil:
		for i := range o.y.n {
			o.y.set(i, t.two(o.p.at(i), o.q.at(i)))
		}
	default:
		t.fn(w, o)
	}
}

// part is elements [from, to) of all lines.
func (l lines) part(from, to int) lines {
	for _, o := range [...]*line{&l.y, &l.z, &l.p, &l.q, &l.r} {
		if o.n > 0 {
			end := len(o.s)
			if o.unit() {
				end = to
			}
			o.s, o.n = o.s[from*o.stride:end], to-from
		}
	}
	return l
}

// line is line l of a view.
func (t *lineTask) line(v *backend.View, l int) line {
	if !v.Present() || v.Shape.Elems() == 0 {
		return line{}
	}
	s := elems[float32](v)
	if t.perLine > 0 {
		n := min(t.perLine, v.Shape.Elems()-l*t.perLine)
		return line{s[l*t.perLine:][:n], n, 1}
	}
	n, stride := lastAxis(v)
	s = s[lineStart(v, l):]
	if stride == 1 {
		s = s[:n]
	}
	return line{s, n, stride}
}

// lastAxis is the extent and stride of the last axis.
func lastAxis(v *backend.View) (n, stride int) {
	if v.Shape.Rank == 0 {
		return 1, 1
	}
	n, stride = v.Cols(), v.Stride[v.Shape.Rank-1]
	if n == 1 {
		stride = 1
	}
	return n, stride
}

// lineStart is where line l begins, in elements from the first.
func lineStart(v *backend.View, l int) int {
	at := 0
	for i := v.Shape.Rank - 2; i >= 0; i-- {
		at += l % v.Shape.Dim[i] * v.Stride[i]
		l /= v.Shape.Dim[i]
	}
	return at
}

func (e *exec) copy(a *backend.Args) {
	e.eachRow(a, a.Out[0].Rows(), a.Out[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		n, _ := lastAxis(&a.Out[0])
		for l := from; l < to; l++ {
			if !w.pieces(n, func(from, to int) { w.copyLine(&a.Out[0], &a.In[0], l, from, to-from) }) {
				return
			}
		}
	})
}

// copyLine copies elements [at, at+n) of line l, rounding to the type of dst.
func (w *worker) copyLine(dst, src *backend.View, l, at, n int) {
	_, ds := lastAxis(dst)
	_, ss := lastAxis(src)
	d, s := lineStart(dst, l)+at*ds, lineStart(src, l)+at*ss
	unit := ds == 1 && ss == 1
	switch {
	case dst.Type == src.Type && dst.Type.BlockBytes() == 4:
		move(elems[int32](dst)[d:], ds, elems[int32](src)[s:], ss, n)
	case dst.Type == src.Type:
		move(elems[uint16](dst)[d:], ds, elems[uint16](src)[s:], ss, n)
	case src.Type == backend.F32:
		in, out := elems[float32](src)[s:], elems[uint16](dst)[d:]
		switch {
		case unit && dst.Type == backend.F16:
			w.kernels.RoundF16(out, in[:n])
		case unit:
			w.kernels.RoundBF16(out, in[:n])
		case dst.Type == backend.F16:
			convert(out, ds, in, ss, n, block.F32ToF16)
		default:
			convert(out, ds, in, ss, n, block.F32ToBF16)
		}
	case dst.Type == backend.F32:
		in, out := elems[uint16](src)[s:], elems[float32](dst)[d:]
		switch {
		case unit && src.Type == backend.F16:
			w.kernels.WidenF16(out[:n], in)
		case unit:
			w.kernels.WidenBF16(out[:n], in)
		default:
			convert(out, ds, in, ss, n, widen(src.Type))
		}
	case dst.Type == backend.F16:
		convert(elems[uint16](dst)[d:], ds, elems[uint16](src)[s:], ss, n,
			func(h uint16) uint16 { return block.F32ToF16(block.BF16ToF32(h)) })
	default:
		convert(elems[uint16](dst)[d:], ds, elems[uint16](src)[s:], ss, n,
			func(h uint16) uint16 { return block.F32ToBF16(block.F16ToF32(h)) })
	}
}

func widen(t backend.DType) func(uint16) float32 {
	if t == backend.F16 {
		return block.F16ToF32
	}
	return block.BF16ToF32
}

func move[T number](dst []T, ds int, src []T, ss, n int) {
	if ds == 1 && ss == 1 {
		copy(dst[:n], src)
		return
	}
	for i := range n {
		dst[i*ds] = src[i*ss]
	}
}

func convert[T, U number](dst []T, ds int, src []U, ss, n int, f func(U) T) {
	for i := range n {
		dst[i*ds] = f(src[i*ss])
	}
}
