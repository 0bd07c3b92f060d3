package backendtest

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/ref"
)

// A mutant is the oracle with a mistake. The checks must find every one.
type mutant struct {
	backend.Backend
	run func(op backend.Op, a *backend.Args) // in place of ref.Run
}

type mutantExec struct {
	backend.Exec
	m *mutant
}

func newMutant(run func(op backend.Op, a *backend.Args)) *mutant {
	return &mutant{Backend: ref.New(), run: run}
}

func (m *mutant) NewExec() (backend.Exec, error) {
	e, err := m.Backend.NewExec()
	return &mutantExec{e, m}, err
}

func (e *mutantExec) Run(op backend.Op, a *backend.Args) { e.m.run(op, a) }

// change replaces the value at one end of a view, and reports whether it has
// any.
func change(v backend.View, last bool, f func(float64) float64) bool {
	if !v.Present() || v.Shape.Elems() == 0 {
		return false
	}
	x := read(v)
	i := 0
	if last {
		i = len(x) - 1
	}
	x[i] = f(x[i])
	write(v, x)
	return true
}

// killed reports whether a case of op finds the mistake in b.
func killed(b backend.Backend, op backend.Op, cs []*testCase) bool {
	return slices.ContainsFunc(cs, func(c *testCase) bool {
		if c.op != op {
			return false
		}
		_, err := check(b, c)
		return err != nil
	})
}

// some are cases of every operation, few enough to run many times.
func some() []*testCase {
	var cs []*testCase
	n := map[backend.Op]int{}
	for _, c := range table() {
		if n[c.op]++; n[c.op] <= 12 || c.op == backend.MatMul && n[c.op] < 40 {
			cs = append(cs, c)
		}
	}
	return cs
}

// A wrong element at either end of any output, a lost result, a changed input
// and a written guard are found for every operation.
func TestMutantsOfEveryOperation(t *testing.T) {
	cs := some()
	wrong := func(x float64) float64 { return x + math.Max(1, math.Abs(x))/64 }
	mistakes := map[string]func(op backend.Op, a *backend.Args){
		"first element": func(op backend.Op, a *backend.Args) {
			ref.Run(op, a)
			change(a.Out[0], false, wrong)
		},
		"last element": func(op backend.Op, a *backend.Args) {
			ref.Run(op, a)
			for i := range a.Out {
				change(a.Out[len(a.Out)-1-i], true, wrong)
			}
		},
		"nothing done": func(backend.Op, *backend.Args) {},
		"input changed": func(op backend.Op, a *backend.Args) {
			ref.Run(op, a)
			if a.In[0].Buf != a.Out[0].Buf {
				change(a.In[0], true, func(x float64) float64 { return math.Mod(x+1, 2) })
			}
		},
		"guard before": func(op backend.Op, a *backend.Args) {
			ref.Run(op, a)
			for _, v := range append(a.Out[:], a.In[0]) {
				if v.Present() {
					v.Shape, v.Off = backend.Dims(1), v.Off-1
					write(v, []float64{1})
				}
			}
		},
		"guard behind": func(op backend.Op, a *backend.Args) {
			ref.Run(op, a)
			for _, v := range append(a.Out[:], a.In[0]) {
				if v.Present() && v.Shape.Elems() > 0 {
					v.Off = slices.Max(positions(&v)) + 1
					v.Shape = backend.Dims(1)
					write(v, []float64{1})
				}
			}
		},
	}
	for name, run := range mistakes {
		for _, op := range backend.Ops() {
			if op == backend.KVAppend && name != "input changed" && name != "nothing done" {
				continue // its outputs are pages: see TestMutants
			}
			if op == backend.RowNorms && name == "input changed" {
				continue // its inputs are weights
			}
			// Pages are filled by KVAppend as it should be.
			if !killed(newMutant(on(op, func(a *backend.Args) { run(op, a) })), op, cs) {
				t.Errorf("%s: no case of %v finds it", name, op)
			}
		}
	}
}

// A mistake is a way to run an operation wrongly.
type mistake struct {
	name string
	op   backend.Op
	run  func(backend.Op, *backend.Args)
}

// on is wrong for one operation alone.
func on(op backend.Op, f func(a *backend.Args)) func(backend.Op, *backend.Args) {
	return func(o backend.Op, a *backend.Args) {
		if o == op {
			f(a)
			return
		}
		ref.Run(o, a)
	}
}

// cut changes the segments that an operation sees.
func cut(op backend.Op, f func(s *backend.Segment)) func(backend.Op, *backend.Args) {
	return on(op, func(a *backend.Args) {
		l := *a.Layout
		l.Segments = slices.Clone(l.Segments)
		for i := range l.Segments {
			l.Segments[i].Spans = slices.Clone(l.Segments[i].Spans)
			f(&l.Segments[i])
		}
		b := *a
		b.Layout = &l
		ref.Run(op, &b)
	})
}

// productMistakes are of products and their gradients.
func productMistakes() []mistake {
	return []mistake{
		{"rounding ignored", backend.MatMul, on(backend.MatMul, func(a *backend.Args) {
			b := *a
			b.Round = backend.RoundNone
			ref.Run(backend.MatMul, &b)
		})},
		{"NaN lost", backend.MatMul, on(backend.MatMul, func(a *backend.Args) {
			ref.Run(backend.MatMul, a)
			x := read(a.Out[0])
			for i, v := range x {
				if math.IsNaN(v) {
					x[i] = 0
				}
			}
			write(a.Out[0], x)
		})},
		{"bound of a row forgotten", backend.RoundE4M3, on(backend.RoundE4M3, func(a *backend.Args) {
			ref.Run(backend.RoundE4M3, a)
			x, codes, d := read(a.In[0]), read(a.Out[0]), read(a.Out[1])
			for r := range d {
				row, got := make([]float32, a.In[0].Cols()), make([]byte, a.In[0].Cols())
				for i := range row {
					row[i] = float32(x[r*len(row)+i])
				}
				d[r] = float64(block.RoundE4M3(got, row, math.MaxFloat32))
				for i, c := range got {
					codes[r*len(row)+i] = float64(int8(c))
				}
			}
			write(a.Out[0], codes)
			write(a.Out[1], d)
		})},
		{"row not rounded to E4M3", backend.MatMul, on(backend.MatMul, func(a *backend.Args) {
			b := *a
			if b.Round == backend.RoundToE4M3 {
				b.Round = backend.RoundToBF16
			}
			ref.Run(backend.MatMul, &b)
		})},
		{"weight not rounded", backend.MatMul, on(backend.MatMul, func(a *backend.Args) {
			b := *a
			if b.Round == backend.RoundBothBF16 {
				b.Round = backend.RoundToBF16
			}
			ref.Run(backend.MatMul, &b)
		})},
		{"gradients not rounded", backend.MatMulBackward, on(backend.MatMulBackward, func(a *backend.Args) {
			b := *a
			b.Round = backend.RoundNone
			ref.Run(backend.MatMulBackward, &b)
		})},
		{"weight gradient overwritten", backend.MatMulBackward, on(backend.MatMulBackward, func(a *backend.Args) {
			if a.Out[1].Present() {
				write(a.Out[1], make([]float64, a.Out[1].Shape.Elems()))
			}
			ref.Run(backend.MatMulBackward, a)
		})},
	}
}

// lossMistakes are of losses and their gradients.
func lossMistakes() []mistake {
	return []mistake{
		{"gradient of lse forgotten", backend.LogProbBackward, on(backend.LogProbBackward, func(a *backend.Args) {
			b := *a
			b.In[4] = backend.View{}
			ref.Run(backend.LogProbBackward, &b)
		})},
		{"gradient of the entropy forgotten", backend.LogProbBackward, on(backend.LogProbBackward, func(a *backend.Args) {
			b := *a
			b.In[5] = backend.View{}
			ref.Run(backend.LogProbBackward, &b)
		})},
		{"square of lse forgotten", backend.CrossEntropy, on(backend.CrossEntropy, func(a *backend.Args) {
			b := *a
			b.In[3] = backend.View{}
			ref.Run(backend.CrossEntropy, &b)
		})},
		{"gradient of logits not rounded", backend.CrossEntropy, on(backend.CrossEntropy, func(a *backend.Args) {
			b := *a
			b.Round = backend.RoundNone
			ref.Run(backend.CrossEntropy, &b)
		})},
		{"rows without weight counted", backend.CrossEntropy, on(backend.CrossEntropy, func(a *backend.Args) {
			ref.Run(backend.CrossEntropy, a)
			c, bad := read(a.In[2]), read(a.Out[1])
			for r, v := range c {
				if k := a.In[0].Cols(); v == 0 && math.IsNaN(bad[r]) && a.Out[2].Present() {
					write(a.Out[2].Slice(0, r, 1), slices.Repeat(bad[r:r+1], k))
				}
			}
		})},
	}
}

// normMistakes are of RowNorms.
func normMistakes() []mistake {
	return []mistake{
		{"a change without its scale", backend.RowNorms, on(backend.RowNorms, func(a *backend.Args) {
			b := *a
			b.Scale = 1
			ref.Run(backend.RowNorms, &b)
		})},
		{"rows changed in float32", backend.RowNorms, on(backend.RowNorms, func(a *backend.Args) {
			ref.Run(backend.RowNorms, a)
			if a.Weights() != 3 || !a.Out[0].Present() {
				return
			}
			x := ref.Load(a)
			norms := x.Out[0]
			for n := range norms {
				row := slices.Clone(x.W[0](n))
				for r, b := range slices.Clone(x.W[2](n)) {
					for k, v := range x.W[1](r) {
						row[k] = float64(float32(row[k] + float64(a.Scale)*b*v))
					}
				}
				sum := 0.0
				for _, v := range row {
					sum += v * v
				}
				norms[n] = math.Sqrt(sum)
			}
			write(a.Out[0], norms)
		})},
		{"the inverse of zero", backend.RowNorms, on(backend.RowNorms, func(a *backend.Args) {
			ref.Run(backend.RowNorms, a)
			if !a.Out[1].Present() {
				return
			}
			y := read(a.Out[1])
			for i, v := range y {
				if v == 0 {
					y[i] = math.Inf(1)
				}
			}
			write(a.Out[1], y)
		})},
	}
}

// sequenceMistakes are of attention, of pages and of norms.
func sequenceMistakes() []mistake {
	return []mistake{
		{"first span forgotten", backend.Attention, cut(backend.Attention, func(s *backend.Segment) { s.Spans = s.Spans[len(s.Spans)-1:] })},
		{"page table ignored", backend.Attention, cut(backend.Attention, func(s *backend.Segment) {
			s.Pages = slices.Clone(s.Pages)
			slices.Reverse(s.Pages)
		})},
		{"causal where whole", backend.Attention, cut(backend.Attention, func(s *backend.Segment) {
			if last := s.Spans[len(s.Spans)-1]; last.Len >= s.Rows {
				s.Whole = false
			}
		})},
		{"gradients causal where whole", backend.AttentionBackward, cut(backend.AttentionBackward, func(s *backend.Segment) {
			if last := s.Spans[len(s.Spans)-1]; last.Len >= s.Rows {
				s.Whole = false
			}
		})},
		{"whole where causal", backend.AttentionBackward, cut(backend.AttentionBackward, func(s *backend.Segment) { s.Whole = true })},
		{"wrong slot", backend.KVAppend, cut(backend.KVAppend, func(s *backend.Segment) {
			if last := &s.Spans[len(s.Spans)-1]; last.Start+last.Len < len(s.Pages)*backend.PageLen {
				last.Start ^= 1
			}
		})},
		{"wrong layer", backend.KVAppend, on(backend.KVAppend, func(a *backend.Args) {
			b := *a
			b.Layer = 1 - b.Layer
			ref.Run(backend.KVAppend, &b)
		})},
		{"mean not taken away", backend.LayerNorm, on(backend.LayerNorm, func(a *backend.Args) {
			ref.Run(backend.RMSNorm, a)
		})},
		{"bias twice", backend.LayerNorm, on(backend.LayerNorm, func(a *backend.Args) {
			ref.Run(backend.LayerNorm, a)
			b := backend.Args{}
			b.In[0], b.In[1], b.Out[0] = a.Out[0], a.In[2], a.Out[0]
			b.In[1].Shape, b.In[1].Stride = a.Out[0].Shape, [backend.MaxRank]int{0, 1}
			ref.Run(backend.Add, &b)
		})},
		{"gradient as of RMSNorm", backend.LayerNormBackward, on(backend.LayerNormBackward, func(a *backend.Args) {
			b := *a
			b.Out[2] = backend.View{}
			ref.Run(backend.LayerNormBackward, a)
			ref.Run(backend.RMSNormBackward, &b)
		})},
		{"a neighbour where the padding is", backend.Unfold, on(backend.Unfold, func(a *backend.Args) {
			ref.Run(backend.Unfold, a)
			y, c := read(a.Out[0]), a.In[0].Cols()
			for i := c; i < len(y); i++ {
				if y[i] == 0 {
					y[i] = y[i-c]
				}
			}
			write(a.Out[0], y)
		})},
		{"windows over the ends of segments", backend.Unfold, on(backend.Unfold, func(a *backend.Args) {
			ref.Run(backend.Unfold, a)
			one := backend.Documents(a.In[0].Rows())
			if n := a.Window.Outputs(one); n == a.Out[0].Rows() && a.In[0].Rows()%a.Window.Width == 0 {
				b := *a
				b.Layout = one
				ref.Run(backend.Unfold, &b)
			}
		})},
		{"windows that overlap overwritten", backend.Fold, on(backend.Fold, func(a *backend.Args) {
			b := *a
			dy := read(a.In[0])
			for i := a.In[0].Cols(); i < len(dy); i += a.In[0].Cols() { // the first of the next window
				dy[i] = 0
			}
			b.In[0] = backend.Contiguous(make(host, 4*len(dy)), backend.F32, 0, a.In[0].Shape)
			write(b.In[0], dy)
			ref.Run(backend.Fold, &b)
		})},
		{"Eps forgotten", backend.RMSNorm, on(backend.RMSNorm, func(a *backend.Args) {
			b := *a
			b.Eps = 0
			ref.Run(backend.RMSNorm, &b)
		})},
	}
}

// optimizerMistakes are of AdamW.
func optimizerMistakes() []mistake {
	return []mistake{
		{"means from zero not corrected", backend.AdamW, on(backend.AdamW, func(a *backend.Args) {
			b := *a
			b.AdamW.Correct1, b.AdamW.Correct2 = 1, 1
			ref.Run(backend.AdamW, &b)
		})},
		{"Eps ten times too large", backend.AdamW, on(backend.AdamW, func(a *backend.Args) {
			b := *a
			b.AdamW.Eps *= 10
			ref.Run(backend.AdamW, &b)
		})},
		{"decay into the mean", backend.AdamW, on(backend.AdamW, func(a *backend.Args) {
			b := *a
			b.AdamW.Decay = 0
			g, w := read(a.In[0]), read(a.Out[0])
			for i := range g {
				g[i] += float64(a.AdamW.Decay) * w[i]
			}
			b.In[0] = backend.Contiguous(make(host, 4*len(g)), backend.F32, 0, a.In[0].Shape)
			write(b.In[0], g)
			ref.Run(backend.AdamW, &b)
		})},
	}
}

// Mistakes that backends are likely to make.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it tests the checks, not a backend")
	}
	cs := some()
	for _, m := range slices.Concat(productMistakes(), lossMistakes(), normMistakes(), sequenceMistakes(), roundedPagesMistakes(), optimizerMistakes()) {
		all := cs
		if m.name == "NaN lost" {
			all = edgeMatMulCases()
		}
		if m.op == backend.RowNorms {
			all = rowNormsCases()
		}
		if m.op == backend.LogProbBackward || m.op == backend.CrossEntropy {
			all = append(logProbCases(), crossEntropyCases()...)
		}
		if m.op == backend.Attention || m.op == backend.AttentionBackward || m.op == backend.RMSNorm {
			all = slices.Concat(attentionCases(), attentionBackwardCases(), attentionPagesCases(), rmsNormCases())
		}
		if !killed(newMutant(m.run), m.op, all) {
			t.Errorf("%s: no case of %v finds it", m.name, m.op)
		}
	}
}

// What an operation that panicked has left is found in the next one.
func TestMutantAfterPanic(t *testing.T) {
	left := false
	m := newMutant(func(op backend.Op, a *backend.Args) {
		wrong := left
		left = true
		ref.Run(op, a)
		if left = false; wrong {
			change(a.Out[0], false, func(x float64) float64 { return x + 1000 })
		}
	})
	if err := checkPanics(m, Faults{}); err == nil {
		t.Error("a backend that adds 1000 after a panic passes")
	}
}

// The weights of a mutant.
type wrongWeight struct {
	backend.Weight
	unpack, tile bool
}

func (w wrongWeight) Unpack(dst []byte, row, n int) {
	w.Weight.Unpack(dst, row, n)
	if w.unpack && len(dst) > 0 && row > 0 && n > 0 {
		dst[0] ^= 1
	}
}

func (w wrongWeight) Tile(dst []float32, row, rows, col, cols int) {
	w.Weight.Tile(dst, row, rows, col, cols)
	if w.tile && col > 0 && rows > 0 {
		dst[0]++
	}
}

type wrongPacker struct {
	backend.Backend
	unpack, tile bool
}

func (p wrongPacker) Pack(ctx context.Context, src backend.WeightSource) (backend.Weight, error) {
	w, err := p.Backend.Pack(ctx, src)
	return wrongWeight{w, p.unpack, p.tile}, err
}

func TestMutantsOfContract(t *testing.T) {
	for _, b := range []backend.Backend{wrongPacker{ref.New(), true, false}, wrongPacker{ref.New(), false, true}} {
		if err := checkPack(b, backend.Q4_K); err == nil {
			t.Errorf("a wrong Unpack or Tile is not found: %+v", b)
		}
	}
	// One element depends on how many rows there are.
	byRows := newMutant(func(op backend.Op, a *backend.Args) {
		ref.Run(op, a)
		if a.Out[0].Rows() > 1 {
			change(a.Out[0], false, func(x float64) float64 { return x * (1 + 0x1p-20) })
		}
	})
	for _, c := range rowsAlone(byRows)[:1] {
		if err := checkRowsAlone(byRows, c); err == nil {
			t.Error("rows that depend on the batch are not found")
		}
	}
	if err := checkChunks(byRows, backend.F16); err == nil {
		t.Error("attention that depends on the chunk is not found")
	}
	if err := same(ref.New(), byRows, rowsAlone(byRows)[0]); err == nil {
		t.Error("two backends that differ in a bit are not found")
	}
	idle := newMutant(func(backend.Op, *backend.Args) {})
	if err := checkSteps(idle); err == nil {
		t.Error("a step without operations is not found")
	}
}

// A gradient that is a little wrong is found, element by element.
func TestMutantsOfGradients(t *testing.T) {
	for _, g := range gradients() {
		b := newMutant(func(op backend.Op, a *backend.Args) {
			ref.Run(op, a)
			for _, v := range a.Out {
				change(v, true, func(x float64) float64 { return x + 1e-2 })
			}
		})
		if err := g.check(b); err == nil {
			t.Errorf("a wrong gradient of %v is not found", g.c.op)
		}
		if err := g.check(newMutant(func(backend.Op, *backend.Args) {})); err == nil {
			t.Errorf("a gradient of %v that stays zero is not found", g.c.op)
		}
	}
}
