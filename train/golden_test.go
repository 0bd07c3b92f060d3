package train_test

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
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
	ids, targets, docs := g.batch[prefix+"input_ids"], g.batch[prefix+"targets"], g.batch[prefix+"doc_ids"] // [..., T]
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
	c, err := training(t, m).NewContext(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	l := &learner{t: t, m: m, c: c, params: params}
	n := 0
	for _, p := range params {
		n += p.Param.Shape.Elems()
	}
	if l.grads, err = training(t, m).Backend().Alloc(4 * int64(n)); err != nil {
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
	y.IDs = p.targets
	one := make([]float32, 1)
	err := l.c.Step(l.t.Context(), backend.Documents(p.docs...), training(l.t, l.m).KV(), func() error {
		tape := tensor.NewTape()
		l.c.Record(tape)
		h, err := training(l.t, l.m).Forward(l.c, p.ids, o)
		if err != nil {
			return err
		}
		sum, lp, z := tensor.CrossEntropy(l.c, h, training(l.t, l.m).Output(), y)
		logp, lse = make([]float32, len(p.ids)), make([]float32, len(p.ids))
		l.c.Read(one, sum)
		l.c.Read(logp, lp)
		l.c.Read(lse, z)
		tape.Backward(tensor.Seed{Y: sum})
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return one[0], logp, lse
}

// zero clears the gradients.
func (l *learner) zero() {
	if err := training(l.t, l.m).Backend().Upload(l.grads, 0, make([]byte, l.grads.Size())); err != nil {
		l.t.Fatal(err)
	}
}

// numbers reads a view without gaps.
func numbers(t *testing.T, b backend.Backend, v backend.View) []float32 {
	t.Helper()
	x := make([]float32, v.Shape.Elems())
	if err := tensor.Download(b, x, v); err != nil {
		t.Fatal(err)
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
		got := numbers(l.t, training(l.t, l.m).Backend(), p.Param.Grad())
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
		l := newLearner(t, m, training(t, m).Params(), tensor.Options{Precision: backend.PrecisionF32})
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
				near(t, part+": loss", float64(loss), g.number(t, part, "loss_mean"), golden.TrainLoss)
				l.compareGrads(g, map[string]string{"plain": "plain", "packed": "packed", "unpacked": "packed"}[part], golden.TrainGrad)
				if part == "plain" {
					g.compareRows(t, p, logp, lse)
				}
			}
			p := g.rows("", 0, -1)
			l.zero()
			y := mean(p)
			y.ZLoss = float32(g.number(t, "zloss", "coefficient"))
			loss, _, _ := l.step(p, y, o)
			near(t, "z-loss", float64(loss), g.number(t, "zloss", "loss_mean"), golden.TrainLoss)
			l.compareGrads(g, "zloss", golden.TrainGrad)

			l.zero()
			y = tensor.Targets{Weights: g.batch["token_weights"].F32, Scale: float32(1 / g.number(t, "weighted", "weight_sum"))}
			loss, _, _ = l.step(p, y, o)
			near(t, "weighted", float64(loss), g.number(t, "weighted", "loss_mean"), golden.TrainLoss)
			l.compareGrads(g, "weighted", golden.TrainGrad)
		}
		all := g.rows("accum.", 0, -1)
		rows := g.batch["accum.input_ids"].Shape[0]
		for _, at := range []int{1, (rows + 1) / 2, rows} { // rows of a micro-batch
			l.zero()
			sum := 0.0
			for from := 0; from < rows; from += at {
				loss, _, _ := l.step(g.rows("accum.", from, min(at, rows-from)), mean(all), llama.ForwardOptions{})
				sum += float64(loss)
			}
			near(t, "accumulated", sum, g.number(t, "accum", "loss_mean"), golden.TrainLoss)
			l.compareGrads(g, "accum", golden.TrainGrad)
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
		if worst, at := golden.MaxRelative(part.got, want.F32); !(worst <= golden.TrainLogits) {
			t.Errorf("%s %d is %v, want %v", part.name, at, part.got[at], want.F32[at])
		}
	}
}

// TestGoldenAdamW: ten steps with clipping and a schedule give the weights and moments.
func TestGoldenAdamW(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *goldenModel) {
		m, err := llama.Open(t.Context(), g.dir, llama.Options{Trainable: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		num := func(key string) float64 { return g.number(t, "adamw", key) }
		tr, err := train.NewTrainer(m, train.TrainerOptions{Optimizer: optim.AdamWConfig{
			Beta1: num("beta1"), Beta2: num("beta2"), Eps: num("eps"), WeightDecay: num("weight_decay"), ClipNorm: num("clip_norm")}})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		schedule := optim.Schedule{Kind: optim.Cosine, Peak: num("peak_lr"), Warmup: int(num("warmup_steps")),
			Total: int(num("total_steps")), Floor: num("final_lr_fraction") * num("peak_lr")}
		rows := g.batch["adamw.input_ids"].Shape[1]
		for i, want := range g.json["adamw"].(map[string]any)["steps"].([]any) {
			step := want.(map[string]any)
			lr := schedule.At(i + 1)
			near(t, "learning rate", lr, step["lr"].(float64), 1e-12)
			p := g.rows("adamw.", i*rows, rows)
			r, err := tr.Step(t.Context(), []train.Batch{{IDs: p.ids, Targets: p.targets, Docs: p.docs}}, lr)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "loss", r.Loss, step["loss"].(float64), golden.TrainLoss)
			near(t, "norm", r.GradNorm, step["grad_norm"].(float64), golden.TrainGrad*step["grad_norm"].(float64))
			if r.Tokens != int(step["tokens"].(float64)) {
				t.Errorf("step %d: %d tokens, want %v", i, r.Tokens, step["tokens"])
			}
		}
		state := filepath.Join(t.TempDir(), "optimizer.safetensors")
		if err := tr.Optimizer().Save(t.Context(), tr.Context(), state, nil); err != nil {
			t.Fatal(err)
		}
		moments := golden.Safetensors(t, state)
		for _, p := range tr.Params() {
			got, want := numbers(t, tr.Context().Backend(), p.Param.Numbers()), g.expect["adamw.weights."+p.Name].F32
			mean, largest := 0.0, 0.0
			for i := range want {
				d := math.Abs(float64(got[i]) - float64(want[i]))
				mean += d / float64(len(want))
				largest = max(largest, d)
			}
			if !(mean <= golden.WeightMean && largest <= golden.WeightLargest) {
				t.Errorf("%s: weights are off by %.3g on average, by %.3g at most", p.Name, mean, largest)
			}
			for _, kind := range []string{"exp_avg.", "exp_avg_sq."} {
				if worst, at := golden.MaxRelative(moments[kind+p.Name].F32, g.expect["adamw."+kind+p.Name].F32); !(worst <= golden.Moments) {
					t.Errorf("%s%s is off by %.3g at %d", kind, p.Name, worst, at)
				}
			}
		}
	})
}

// TestGoldenAdapters: loss and gradients of adapters in PEFT's layout, on float weights
// and on the same weights packed, and what is written is what was read.
func TestGoldenAdapters(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *goldenModel) {
		for _, path := range golden.Glob(t, filepath.Join("train", filepath.Base(g.dir), "*", "adapter_config.json")) {
			dir := filepath.Dir(path)
			part := filepath.Base(dir)
			m, err := llama.Open(t.Context(), g.dir, llama.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := m.LoadAdapter(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			l := newLearner(t, m, training(t, m).Trainable(), tensor.Options{Precision: backend.PrecisionF32})
			p := g.rows("", 0, -1)
			loss, _, _ := l.step(p, tensor.Targets{Scale: float32(1 / float64(p.count()))}, llama.ForwardOptions{})
			near(t, part+": loss", float64(loss), g.number(t, part, "loss_mean"), golden.TrainLoss)
			for _, q := range l.params {
				want, ok := g.expect[part+".grad.base_model.model."+q.Name]
				if !ok {
					t.Fatalf("no gradient of %s %s", part, q.Name)
				}
				got := numbers(t, training(l.t, l.m).Backend(), q.Param.Grad())
				if worst, at := golden.MaxRelative(got, want.F32); !(worst <= golden.AdapterGrad) {
					t.Errorf("%s: gradient of %s is off by %.3g at %d (%v, want %v)", part, q.Name, worst, at, got[at], want.F32[at])
				}
			}
			saved := filepath.Join(t.TempDir(), part)
			if err := training(t, m).Save(t.Context(), saved); err != nil {
				t.Fatal(err)
			}
			was, is := golden.Safetensors(t, filepath.Join(dir, "adapter_model.safetensors")), golden.Safetensors(t, filepath.Join(saved, "adapter_model.safetensors"))
			if len(is) != len(was) {
				t.Errorf("%d tensors are written, of %d", len(is), len(was))
			}
			for name, x := range was {
				if !slices.Equal(is[name].F32, x.F32) {
					t.Errorf("%s: %s is not written as it was read", part, name)
				}
			}
		}
	})
}
