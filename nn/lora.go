package nn

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/herd-ml/herd/backend"
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
// Several on one Linear work one after the other, as in PEFT. LoRA adds its change to what
// those before it made of W. DoRA adds its change and then rescales the sum; its norm is
// that of W with its own change alone.
type LoRA struct {
	A         *tensor.Param `name:"lora_A.weight"`         // [r, in]
	B         *tensor.Param `name:"lora_B.weight"`         // [out, r]
	Magnitude *tensor.Param `name:"lora_magnitude_vector"` // [out] of DoRA, else nil
	Bias      *tensor.Param `name:"lora_B.bias"`           // [out], added to Scale B A x; or nil

	Scale float32
	// Dropout is the part of the input that is dropped before the product with A; DoRA
	// takes none. Stream gives layers of one seed (tensor.Context.SetNoise) different
	// random numbers.
	Dropout float32
	Stream  uint64
	// Set is the number of the adapter set that this is a part of, one for each layer
	// that the set changes: backend.Segment.Adapters names sets by it.
	Set int
	// InverseNorm [out] is 1/||W + Scale B A|| of each row, with DoRA only. Where a machine
	// has some of the columns (Linear.Group) the norms are those of whole rows. It follows
	// from the other numbers and is no trained parameter: Refresh writes it.
	InverseNorm *tensor.Param

	fresh state // that InverseNorm is of
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
// changes yet; and with DoRA the norms of w's rows, which a step of its own on a backend
// computes, else nil. A depends on seed and stream alone, the adapter's place in the model
// for one. Machines that share a matrix take their parts of the numbers of the whole.
func (l *LoRA) Initial(ctx context.Context, on backend.Backend, seed, stream uint64, w *tensor.Param) (a, b, magnitude []float32, err error) {
	rng := rand.NewPCG(seed, stream)
	a, b = make([]float32, l.A.Shape.Elems()), make([]float32, l.B.Shape.Elems())
	bound := 1 / math.Sqrt(float64(l.A.Shape.Dim[1]))
	for i := range a {
		a[i] = float32((float64(rng.Uint64()>>11)/(1<<52) - 1) * bound)
	}
	if l.Magnitude == nil {
		return a, b, nil, nil
	}
	magnitude = make([]float32, l.Magnitude.Shape.Elems())
	err = step(ctx, on, func(c *tensor.Context) error {
		c.Read(magnitude, tensor.RowNorms(c, w, nil, nil, 0))
		return nil
	})
	return a, b, magnitude, err
}

// step runs f as a step of its own.
func step(ctx context.Context, b backend.Backend, f func(c *tensor.Context) error) error {
	c, err := tensor.NewContext(b, tensor.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Step(ctx, nil, backend.KV{}, func() error { return f(c) })
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
	return step(ctx, b, func(c *tensor.Context) error {
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

// refresh computes the norms. Squares of parts of rows are added up over the group.
func (l *LoRA) refresh(c *tensor.Context, of *Linear) error {
	now := l.state(of.Weight)
	if of.Group == nil {
		tensor.InverseRowNorms(c, l.InverseNorm, of.Weight, l.A, l.B, l.Scale)
		l.fresh = now
		return nil
	}
	x := make([]float32, of.Weight.Shape.Dim[0])
	c.Read(x, tensor.RowNorms(c, of.Weight, l.A, l.B, l.Scale))
	for i, norm := range x {
		x[i] = norm * norm
	}
	if err := of.Group(x); err != nil {
		return err
	}
	for i, square := range x {
		if square != 0 { // else the row is zero, and stays so
			x[i] = float32(1 / math.Sqrt(float64(square)))
		}
	}
	c.Write(l.InverseNorm.Value(), x)
	l.fresh = now
	return nil
}
