package nn

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/tensor"
)

// LoRA is a low-rank change of the matrix W [out, in] of a Linear, which may
// be of any type, quantised too (https://arxiv.org/abs/2106.09685):
//
//	W + Scale B A
//
// where Scale is alpha/r, or alpha/sqrt(r) of rsLoRA
// (https://arxiv.org/abs/2312.03732), times what the user makes of it. With
// Magnitude it is DoRA (https://arxiv.org/abs/2402.09353), row by row
//
//	Magnitude / ||W + Scale B A||  *  (W + Scale B A)
//
// in which gradients take the norm for a constant (section 4.3).
//
// Several on one Linear work one after the other, as in PEFT: LoRA adds to what
// those before it made of W, DoRA adds and then rescales all of it, by a norm
// that is of its own change of W alone.
type LoRA struct {
	A         *tensor.Param `name:"lora_A.weight"`         // [r, in]
	B         *tensor.Param `name:"lora_B.weight"`         // [out, r]
	Magnitude *tensor.Param `name:"lora_magnitude_vector"` // [out] of DoRA, else nil
	Bias      *tensor.Param `name:"lora_B.bias"`           // [out], added to Scale B A x; or nil

	Scale float32
	// Set is the number of the adapter set that this is a part of, one for each layer
	// that the set changes: backend.Segment.Adapters names sets by it.
	Set int
	// InverseNorm [out] is 1/||W + Scale B A|| of each row where Magnitude is, of whole
	// rows where a machine has some of the columns (Linear.Group). It follows from the
	// other numbers and is no trained parameter: Refresh writes it.
	InverseNorm *tensor.Param

	fresh  state     // that InverseNorm is of
	square []float64 // sums of squares of W's rows, for fresh.w
}

// state is what InverseNorm follows from.
type state struct {
	w, a, b    backend.Weight
	vw, va, vb uint64 // their versions
	scale      float32
}

// NewLoRA returns an adapter of rank r without numbers.
func NewLoRA(in, out, r int, dora bool) *LoRA {
	l := &LoRA{A: tensor.NewParam(r, in), B: tensor.NewParam(out, r), Scale: 1}
	if dora {
		l.Magnitude, l.InverseNorm = tensor.NewParam(out), tensor.NewParam(out)
	}
	return l
}

// Initial returns the numbers that training starts from, as PEFT's: A uniform
// in +-1/sqrt(in), which is Kaiming's with a = sqrt 5; B zero, so that nothing
// changes yet; and with DoRA the norms of w's rows, else nil. They depend on
// seed and stream alone, the adapter's place in the model for one. Machines that share a
// matrix take their parts of the numbers of the whole.
func (l *LoRA) Initial(seed, stream uint64, w backend.Weight) (a, b, magnitude []float32) {
	rng := rand.NewPCG(seed, stream)
	a, b = make([]float32, l.A.Shape.Elems()), make([]float32, l.B.Shape.Elems())
	bound := 1 / math.Sqrt(float64(l.A.Shape.Dim[1]))
	for i := range a {
		a[i] = float32((float64(rng.Uint64()>>11)/(1<<52) - 1) * bound)
	}
	if l.Magnitude != nil {
		for _, s := range squares(w) {
			magnitude = append(magnitude, float32(math.Sqrt(s)))
		}
	}
	return a, b, magnitude
}

// Refresh brings InverseNorm of the adapters in a model up to date with the
// weights' versions, in a step of its own. It is due after numbers were bound
// and after every change of them, before the next forward step. Without DoRA,
// or changes, it does nothing. The machines of a group call it together, as they do
// Forward; an error of the group is returned.
func Refresh(ctx context.Context, b backend.Backend, model any) error {
	type adapter struct {
		*LoRA
		of *Linear
	}
	var stale []adapter
	for _, n := range Linears(model) {
		for _, a := range n.Linear.Adapters {
			if a.Magnitude != nil && a.fresh != a.state(n.Linear.Weight) {
				stale = append(stale, adapter{a, n.Linear})
			}
		}
	}
	if len(stale) == 0 {
		return nil
	}
	c, err := tensor.NewContext(b, tensor.Options{Precision: backend.PrecisionF32})
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Step(ctx, nil, backend.KV{}, func() error {
		for _, a := range stale {
			mark := c.Mark()
			if err := a.refresh(c, a.of); err != nil {
				return err
			}
			c.Release(mark)
			if c.Stopped() {
				a.fresh = state{}
				break
			}
		}
		return nil
	})
}

func (l *LoRA) state(w *tensor.Param) state {
	s := state{w: w.Weight(), a: l.A.Weight(), b: l.B.Weight(), scale: l.Scale}
	if s.w == nil || s.a == nil || s.b == nil {
		panic(&backend.ShapeError{Op: "Refresh", Detail: "adapter of " + w.Shape.String() + " has no numbers"})
	}
	s.vw, s.va, s.vb = s.w.Version(), s.a.Version(), s.b.Version()
	return s
}

// refresh computes, for row n of W and b of B,
//
//	||w + s b A||^2 = ||w||^2 + 2s b.(A w) + s^2 b.(A A^T b)
//
// of which the products with A are one dispatch and the first term is of W alone. Squares
// of parts of rows are added up over the group.
func (l *LoRA) refresh(c *tensor.Context, of *Linear) error {
	now := l.state(of.Weight)
	if l.square == nil || now.w != l.fresh.w || now.vw != l.fresh.vw {
		l.square = squares(now.w)
	}
	a, b := decode(now.a), decode(now.b)
	r, in, out := now.a.Rows(), now.a.Cols(), now.b.Rows()
	x := c.New(backend.F32, backend.Dims(r, in))
	c.Write(x, a)
	y := tensor.MatMuls(c, x, [backend.MaxWeights]*tensor.Param{of.Weight, l.A})
	aw, aa := make([]float32, r*out), make([]float32, r*r)
	c.Read(aw, y[0])
	c.Read(aa, y[1])
	norm2, s := make([]float64, out), float64(l.Scale)
	blocks(out, func(from, to int) {
		var row []float32
		for n := from; n < to; n++ {
			b := b[n*r : (n+1)*r]
			cross, own := 0.0, 0.0
			for k, bk := range b {
				cross += float64(bk) * float64(aw[k*out+n])
				dot := 0.0
				for i, bi := range b {
					dot += float64(bi) * float64(aa[k*r+i])
				}
				own += float64(bk) * dot
			}
			square := l.square[n] + 2*s*cross + s*s*own
			if square < l.square[n]/1000 { // little is left of the terms: element by element
				if row == nil {
					row = make([]float32, in)
				}
				now.w.Tile(row, n, 1, 0, in)
				square = changed(row, b, a, s)
			}
			norm2[n] = square
		}
	})
	if err := sum(norm2, of.Group); err != nil {
		return err
	}
	inverse := make([]float32, out)
	for n, square := range norm2 {
		if square > 0 { // else the row is zero, and stays so
			inverse[n] = float32(1 / math.Sqrt(square))
		}
	}
	c.Write(l.InverseNorm.Value(), inverse)
	l.fresh = now
	return nil
}

// sum replaces x by its sums over a group, which adds in F32; nil is one machine.
func sum(x []float64, g tensor.Group) error {
	if g == nil {
		return nil
	}
	rounded := make([]float32, len(x))
	for i, v := range x {
		rounded[i] = float32(v)
	}
	if err := g(rounded); err != nil {
		return err
	}
	for i, v := range rounded {
		x[i] = float64(v)
	}
	return nil
}

// changed is ||w + s b A||^2.
func changed(w, b, a []float32, s float64) (square float64) {
	for i, x := range w {
		delta := 0.0
		for k, bk := range b {
			delta += float64(bk) * float64(a[k*len(w)+i])
		}
		v := float64(x) + s*delta
		square += v * v
	}
	return square
}

// decode returns the numbers of a small matrix.
func decode(w backend.Weight) []float32 {
	x := make([]float32, w.Rows()*w.Cols())
	w.Tile(x, 0, w.Rows(), 0, w.Cols())
	return x
}

// squares returns the sum of squares of each row of w.
func squares(w backend.Weight) []float64 {
	sums := make([]float64, w.Rows())
	blocks(w.Rows(), func(from, to int) {
		row := make([]float32, w.Cols())
		for n := from; n < to; n++ {
			w.Tile(row, n, 1, 0, len(row))
			var s [4]float64
			for i, x := range row {
				s[i%4] += float64(x) * float64(x)
			}
			sums[n] = s[0] + s[1] + s[2] + s[3]
		}
	})
	return sums
}

// blocks calls work for parts of n rows, on all processors.
func blocks(n int, work func(from, to int)) {
	const rows = 32
	_ = parallel.Ranges(context.Background(), runtime.GOMAXPROCS(0), n, rows, func(_, from, to int) error {
		work(from, to)
		return nil
	})
}
