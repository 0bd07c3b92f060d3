package train_test

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// The tolerances of ../shared/golden/train/README.md, relative to the largest value of
// a tensor; losses absolute.
const (
	lossTolerance   = 5e-6
	logitTolerance  = 1e-5
	gradTolerance   = 1e-5
	loraTolerance   = 3e-5 // gradients of adapters
	mergeTolerance  = 1e-6
	momentTolerance = 3e-5
	weightMean      = 2e-7 // of weights after AdamW, absolute
	weightLargest   = 2e-4
)

// goldenModel is a case with its tensors.
type goldenModel struct {
	dir           string
	batch, expect map[string]golden.Tensor
	json          map[string]any
}

// eachGolden runs a test on every case of the train folder.
func eachGolden(t *testing.T, test func(t *testing.T, g *goldenModel)) {
	for _, path := range golden.Glob(t, "train/*/expect.json") {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			g := &goldenModel{dir: dir, batch: golden.Safetensors(t, filepath.Join(dir, "batch.safetensors")),
				expect: golden.Safetensors(t, filepath.Join(dir, "expect.safetensors"))}
			golden.JSON(t, path, &g.json)
			test(t, g)
		})
	}
}

// number reads a number of expect.json by its path.
func (g *goldenModel) number(t *testing.T, path ...string) float64 {
	t.Helper()
	var v any = g.json
	for _, p := range path {
		v = v.(map[string]any)[p]
	}
	x, ok := v.(float64)
	if !ok {
		t.Fatalf("%v is %v", path, v)
	}
	return x
}

// packed are rows [from, from+n) of a batch [B,T], as one step: ids, targets and the
// lengths of the documents.
type packed struct {
	ids, targets []int32
	docs         []int
}

func (g *goldenModel) rows(prefix string, from, n int) packed {
	ids, targets, docs := g.batch[prefix+"input_ids"], g.batch[prefix+"targets"], g.batch[prefix+"doc_ids"]
	width := ids.Shape[len(ids.Shape)-1]
	if n < 0 {
		n = len(ids.I64) / width
	}
	var p packed
	for i := from * width; i < (from+n)*width; i++ {
		p.ids = append(p.ids, int32(ids.I64[i]))
		p.targets = append(p.targets, int32(targets.I64[i]))
		if i%width == 0 || docs.I64[i] != docs.I64[i-1] {
			p.docs = append(p.docs, 0)
		}
		p.docs[len(p.docs)-1]++
	}
	return p
}

func (p packed) count() (n int) {
	for _, y := range p.targets {
		if y >= 0 {
			n++
		}
	}
	return n
}

// learner is a trainable model with memory for gradients.
type learner struct {
	t      *testing.T
	m      *llama.Model
	c      *tensor.Context
	params []nn.Named
	grads  backend.Buffer
}

func newLearner(t *testing.T, m *llama.Model, params []nn.Named, o tensor.Options) *learner {
	t.Helper()
	c, err := m.NewContext(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	l := &learner{t: t, m: m, c: c, params: params}
	n := 0
	for _, p := range params {
		n += p.Param.Shape.Elems()
	}
	if l.grads, err = m.Backend().Alloc(4 * int64(n)); err != nil {
		t.Fatal(err)
	}
	n = 0
	for _, p := range params {
		p.Param.BindGrad(backend.Contiguous(l.grads, backend.F32, n, p.Param.Shape))
		n += p.Param.Shape.Elems()
	}
	return l
}

// step runs one step, adds to the gradients and returns loss, logp and lse.
func (l *learner) step(p packed, y tensor.Targets, o llama.ForwardOptions) (loss float32, logp, lse []float32) {
	l.t.Helper()
	if err := l.c.Begin(l.t.Context(), backend.Documents(p.docs...), l.m.KV()); err != nil {
		l.t.Fatal(err)
	}
	tape := tensor.NewTape()
	l.c.Record(tape)
	h, err := l.m.Forward(l.c, p.ids, o)
	if err != nil {
		l.t.Fatal(err)
	}
	y.IDs = p.targets
	sum, lp, z := tensor.CrossEntropy(l.c, h, l.m.Output(), y)
	logp, lse = make([]float32, len(p.ids)), make([]float32, len(p.ids))
	one := make([]float32, 1)
	l.c.Read(one, sum)
	l.c.Read(logp, lp)
	l.c.Read(lse, z)
	tape.Backward(tensor.Seed{Y: sum})
	if err := l.c.End(); err != nil {
		l.t.Fatal(err)
	}
	return one[0], logp, lse
}

// zero clears the gradients.
func (l *learner) zero() { clear(l.grads.Bytes()) }

// numbers reads a view without gaps.
func numbers(v backend.View) []float32 {
	x := make([]float32, v.Shape.Elems())
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Buf.Bytes()[4*(v.Off+i):]))
	}
	return x
}

// compareGrads compares all gradients with <part>.grad.<name>.
func (l *learner) compareGrads(g *goldenModel, part string, tolerance float64) {
	l.t.Helper()
	for _, p := range l.params {
		want, ok := g.expect[part+".grad."+p.Name]
		if !ok {
			l.t.Errorf("%s has no gradient of %s", part, p.Name)
			continue
		}
		got := numbers(p.Param.Grad())
		if worst, at := golden.MaxRelative(got, want.F32); !(worst <= tolerance) {
			l.t.Errorf("%s: gradient of %s is off by %.3g at %d (%v, want %v)", part, p.Name, worst, at, got[at], want.F32[at])
		}
	}
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// TestGoldenGradients: the losses and every gradient, of whole rows, of packed
// documents and accumulated over micro-batches.
func TestGoldenGradients(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *goldenModel) {
		m, err := llama.Open(t.Context(), g.dir, llama.Options{Trainable: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		l := newLearner(t, m, m.Params(), tensor.Options{Precision: backend.PrecisionF32})
		mean := func(p packed) tensor.Targets { return tensor.Targets{Scale: float32(1 / float64(p.count()))} }
		for _, again := range []bool{false, true} {
			o := llama.ForwardOptions{Checkpoint: again}
			for _, part := range []string{"plain", "packed", "unpacked"} {
				prefix := part + "."
				if part == "plain" {
					prefix = ""
				}
				p := g.rows(prefix, 0, -1)
				l.zero()
				loss, logp, lse := l.step(p, mean(p), o)
				near(t, part+": loss", float64(loss), g.number(t, part, "loss_mean"), lossTolerance)
				l.compareGrads(g, map[string]string{"plain": "plain", "packed": "packed", "unpacked": "packed"}[part], gradTolerance)
				if part == "plain" {
					g.compareRows(t, p, logp, lse)
				}
			}
			p := g.rows("", 0, -1)
			l.zero()
			y := mean(p)
			y.ZLoss = float32(g.number(t, "zloss", "coefficient"))
			loss, _, _ := l.step(p, y, o)
			near(t, "z-loss", float64(loss), g.number(t, "zloss", "loss_mean"), lossTolerance)
			l.compareGrads(g, "zloss", gradTolerance)

			l.zero()
			y = tensor.Targets{Weights: g.batch["token_weights"].F32, Scale: float32(1 / g.number(t, "weighted", "weight_sum"))}
			loss, _, _ = l.step(p, y, o)
			near(t, "weighted", float64(loss), g.number(t, "weighted", "loss_mean"), lossTolerance)
			l.compareGrads(g, "weighted", gradTolerance)
		}
		all := g.rows("accum.", 0, -1)
		rows := g.batch["accum.input_ids"].Shape[0]
		for _, at := range []int{1, 4, rows} { // rows of a micro-batch
			l.zero()
			sum := 0.0
			for from := 0; from < rows; from += at {
				loss, _, _ := l.step(g.rows("accum.", from, min(at, rows-from)), mean(all), llama.ForwardOptions{})
				sum += float64(loss)
			}
			near(t, "accumulated", sum, g.number(t, "accum", "loss_mean"), lossTolerance)
			l.compareGrads(g, "accum", gradTolerance)
		}
	})
}

// compareRows compares the log-probabilities of each row.
func (g *goldenModel) compareRows(t *testing.T, p packed, logp, lse []float32) {
	t.Helper()
	var nll, z []float32
	for i, y := range p.targets {
		if y < 0 {
			nll, z = append(nll, 0), append(z, 0)
			continue
		}
		nll, z = append(nll, -logp[i]), append(z, lse[i])
	}
	for _, part := range []struct {
		name string
		got  []float32
	}{{"token_nll", nll}, {"token_logsumexp", z}} {
		want, ok := g.expect["plain."+part.name]
		if !ok {
			t.Fatalf("no plain.%s", part.name)
		}
		if worst, at := golden.MaxRelative(part.got, want.F32); !(worst <= logitTolerance) {
			t.Errorf("%s %d is %v, want %v", part.name, at, part.got[at], want.F32[at])
		}
	}
}
