package backend

import (
	"fmt"
	"math"
	"slices"
)

// PageLen is the number of positions in a page of keys and values.
const PageLen = 64

// Span is a run of key rows [Start, Start+Len), in the numbering of the store
// of the segment that names it.
type Span struct{ Start, Len int }

// Segment is a run of rows of a step that belong to one sequence.
//
// Its rows attend to the key rows of its spans, in order: to the whole of every
// span but the last, which causality cuts. The segment's own rows are the last
// Rows key rows of that last span, so row j of the segment sees
//
//	last.Start ... last.Start + last.Len - Rows + j   (inclusive).
//
// With Whole, causality cuts nothing: every row sees all of every span, as in an
// encoder. The last span may then be shorter than the segment, and where all spans
// are empty the rows see nothing.
//
// With Pages, key row i is slot i%PageLen of page i/PageLen. Without, key row
// i is row i of the k and v operands (training). Both may be of another source than
// the rows: then the spans number the source's rows, and the pages are its own.
type Segment struct {
	Row, Rows int      // rows [Row, Row+Rows) of the step
	Seq       int      // the caller's number of the sequence
	Pages     []Buffer // page table of the sequence, or nil
	Spans     []Span   // at least one
	Whole     bool     // the rows see all of every span
	Results   Results  // what is wanted of the rows
	// Adapters are the numbers of the adapter sets that change the layers for these
	// rows (nn.LoRA.Set), in any order. Nil is all that the model has; empty is none.
	Adapters []int
}

// Adapted reports whether an adapter set changes the layers for the segment's rows.
func (s *Segment) Adapted(set int) bool {
	return s.Adapters == nil || slices.Contains(s.Adapters, set)
}

// KeyRow is the key row of row j of the segment, where KVAppend puts it.
func (s *Segment) KeyRow(j int) int {
	last := s.Spans[len(s.Spans)-1]
	return last.Start + last.Len - s.Rows + j
}

// Layout says for each row of a step which sequence it belongs to, its
// position, and what it may attend to. Prefill, a decode step of many
// sessions, packed training documents and shared-prompt samples are all
// layouts; none is a code path. See the package documentation for each.
//
// A step has one layout; an operation may be given another, of as many rows as its
// operand: the patches of a picture beside the rows of a text, or the same rows
// looking at keys and values of another source.
type Layout struct {
	Segments []Segment // in order of Row, together all rows of the step
	Pos      []int32   // [R] position of each row, for RoPE
	Logits   []int32   // rows of which results are wanted, ascending: see FillLogits
	// Keys is the number of rows of keys and values where these are not in pages and
	// of another source; 0 where they are the rows themselves.
	Keys int

	facts facts
}

// Rows is the number of rows of the step.
func (l *Layout) Rows() int { return len(l.Pos) }

// KeyRows is the number of rows of the operands k and v, where these are not in pages.
func (l *Layout) KeyRows() int {
	if l.Keys > 0 {
		return l.Keys
	}
	return l.Rows()
}

// KV is the geometry of a page: keys and values of PageLen positions, of so many layers
// and heads. Where a number lies in a page is the backend's own business: KVAppend writes
// pages, Attention reads them, Copy moves whole ones as I32 words, and Backend.ReadPage
// tells what is in one.
//
// Q8_0 is the type that files call so. Every 32 elements of a position of a head have
// codes, those of RoundI8 with groups of 32, and a scale d in F16, rounded to nearest
// even (infinite from m = 127*65520 on). An element is code * d. HeadDim is a multiple
// of 32.
type KV struct {
	Type    DType // F32, F16, BF16 or Q8_0
	Layers  int
	Heads   int // key-value heads
	HeadDim int
}

// Elems is the number of elements of a page, [Layers, 2, Heads, PageLen, HeadDim], keys
// before values.
func (g KV) Elems() int { return g.Layers * 2 * g.Heads * PageLen * g.HeadDim }

// Err says why keys and values of the type and head size cannot be, or is nil.
func (g KV) Err() error {
	switch n := Q8_0.BlockElems(); {
	case g.Type.Float():
	case g.Type != Q8_0:
		return fmt.Errorf("keys and values of type %v: want F32, F16, BF16 or Q8_0", g.Type)
	case g.HeadDim%n != 0:
		return fmt.Errorf("keys and values of type Q8_0 need a head size that is a multiple of %d, not %d: use F16, BF16 or F32", n, g.HeadDim)
	}
	return nil
}

// facts are what Check found in a layout, for the checks of operations.
type facts struct {
	checked bool
	paged   bool  // a segment has pages
	all     bool  // all segments have
	rows    bool  // a segment without pages sees a key
	page    int64 // size of the smallest page, where there is one
	fits    bool  // every last span has room for the segment's rows
}

// Check panics with a *ShapeError where the parts of a layout do not fit each other. It
// is what Exec.Layout does first. A layout of positions alone, without segments, is
// for what does not attend. The layout must not change before the step's end, or
// another Check.
func (l *Layout) Check() {
	const op = "Layout"
	if l == nil {
		panic(shapeErr(op, "no layout"))
	}
	if l.Keys < 0 {
		panic(shapeErr(op, "layout of %d rows of keys", l.Keys))
	}
	f, next := facts{checked: true, all: true, page: math.MaxInt64, fits: true}, 0
	for i := range l.Segments {
		s := &l.Segments[i]
		if s.Row != next || s.Rows <= 0 || len(s.Spans) == 0 {
			panic(shapeErr(op, "segment %d at row %d with %d rows and %d spans; row %d is next", i, s.Row, s.Rows, len(s.Spans), next))
		}
		next += s.Rows
		for j, sp := range s.Spans {
			if sp.Start < 0 || sp.Len < 0 || j == len(s.Spans)-1 && sp.Len < s.Rows && !s.Whole {
				panic(shapeErr(op, "segment %d: span %d is [%d, +%d)", i, j, sp.Start, sp.Len))
			}
			if s.Pages != nil && sp.Start+sp.Len > len(s.Pages)*PageLen {
				panic(shapeErr(op, "segment %d: span %d ends at key row %d of %d pages", i, j, sp.Start+sp.Len, len(s.Pages)))
			}
			if s.Pages == nil && sp.Start+sp.Len > l.KeyRows() {
				panic(shapeErr(op, "segment %d: span %d ends at key row %d of %d", i, j, sp.Start+sp.Len, l.KeyRows()))
			}
			f.rows = f.rows || s.Pages == nil && sp.Len > 0
		}
		f.paged, f.all = f.paged || s.Pages != nil, f.all && s.Pages != nil
		f.fits = f.fits && s.Spans[len(s.Spans)-1].Len >= s.Rows
		for _, p := range s.Pages {
			f.page = min(f.page, p.Size())
		}
	}
	if next != l.Rows() && next > 0 {
		panic(shapeErr(op, "segments cover %d of %d rows", next, l.Rows()))
	}
	l.facts = f
}

// Paged reports whether a segment has pages. The layout has been checked.
func (l *Layout) Paged() bool { return l.facts.paged }

// attends is of for an operation that walks the segments, which are there.
func (l *Layout) attends(op string, rows int) {
	if l.of(op, rows); len(l.Segments) == 0 && rows > 0 {
		panic(shapeErr(op, "the layout of %d rows has no segments", rows))
	}
}

// of checks that the layout was handed over and is of so many rows.
func (l *Layout) of(op string, rows int) {
	switch {
	case l == nil:
		panic(shapeErr(op, "no layout"))
	case !l.facts.checked:
		panic(shapeErr(op, "a layout that was not handed over (Exec.Layout)"))
	case l.Rows() != rows:
		panic(shapeErr(op, "layout of %d rows for %d rows", l.Rows(), rows))
	}
}

// Documents is the layout of documents of these lengths that lie one after the other in
// the rows of a step, without pages: each sees itself alone, positions start at 0 in
// each, and logits of all rows are wanted (https://arxiv.org/abs/2407.21783, section 3.2: the mask
// between documents).
func Documents(lengths ...int) *Layout {
	l := &Layout{}
	for i, n := range lengths {
		row := len(l.Pos)
		l.Segments = append(l.Segments, Segment{Row: row, Rows: n, Seq: i, Spans: []Span{{Start: row, Len: n}}})
		for j := range n {
			l.Pos = append(l.Pos, int32(j))
			l.Logits = append(l.Logits, int32(row+j))
		}
	}
	return l
}
