package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/train"
)

const (
	trainWarm = 2  // steps that are not measured
	trainTurn = 3  // steps of a turn: what the other side left behind weighs less
	trainRank = 16 // of the adapter
)

// trainWords are what the mode measures without arguments.
var trainWords = []string{"15m-bf16", "15m-bf16-compile", "15m-f32", "135m-bf16", "135m-bf16-compile", "135m-f32", "lora"}

// trainShapes are models that are made, with random weights, and the rows of a step.
var trainShapes = map[string]struct {
	title  string
	config llama.Config
	rows   int
}{
	"15m": {"15M", llama.Config{
		Layers: 6, Dim: 288, Heads: 6, KVHeads: 6, HeadDim: 48, HiddenDim: 768, Vocab: 32000, Context: 2048,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true,
	}, 2},
	"135m": {"135M", llama.Config135M(), 1},
	"toy": {"toy", llama.Config{ // for tests
		Layers: 2, Dim: 64, Heads: 4, KVHeads: 2, HeadDim: 16, HiddenDim: 96, Vocab: 320, Context: 64,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true,
	}, 2},
}

// trainJob is one thing to train.
type trainJob struct {
	shape   string // of trainShapes; empty: the model of -lora-model, with an adapter
	mixed   bool   // products of bf16
	compile bool
	peer    string // what torchtrain.py is to be
}

func parseTrainJob(word string) (trainJob, error) {
	if word == "lora" {
		return trainJob{mixed: true, peer: "PEFT"}, nil
	}
	shape, rest, _ := strings.Cut(word, "-")
	j := trainJob{shape: shape, mixed: rest != "f32", compile: rest == "bf16-compile", peer: "PyTorch"}
	if j.compile {
		j.peer = "torch.compile"
	}
	if _, ok := trainShapes[shape]; !ok || !slices.Contains([]string{"bf16", "f32", "bf16-compile"}, rest) {
		return j, fmt.Errorf("%q is none of %s", word, strings.Join(trainWords, ", "))
	}
	return j, nil
}

// precision is the type of the products and its name.
func (j trainJob) precision() (t backend.DType, name string) {
	if j.mixed {
		return backend.BF16, "bf16"
	}
	return backend.F32, "float32"
}

// trainResult has the names of a job.
func (h *harness) trainResult(kind string, j trainJob, r *trainRequest) result {
	what, on := trainShapes[j.shape].title, ""
	if j.shape == "" {
		what, on = fmt.Sprintf("LoRA %d", trainRank), fileName(h.loraModel)
	}
	_, precision := j.precision()
	return result{Kind: kind, What: fmt.Sprintf("%s %s, %d x %d", what, precision, r.Rows, r.Length), On: on}
}

// eachTrainJob calls do for the jobs that the arguments choose.
func (h *harness) eachTrainJob(ctx context.Context, words []string, do func(*harness, context.Context, trainJob, *trainRequest) error) error {
	if len(h.args) > 0 {
		words = h.args
	}
	var jobs []trainJob
	for _, w := range words {
		j, err := parseTrainJob(w)
		if err != nil {
			return fmt.Errorf("%s: %w", h.mode, err)
		}
		jobs = append(jobs, j)
	}
	for i, j := range jobs {
		if j.shape == "" && h.loraModel == "" {
			fmt.Fprintln(h.w, "lora is skipped: -lora-model names no file")
			continue
		}
		dir, err := os.MkdirTemp("", "bench-train-")
		if err != nil {
			return err
		}
		r, err := h.trainRequest(ctx, j, dir)
		if err == nil {
			err = do(h, ctx, j, r)
		}
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return fmt.Errorf("%s: %w", words[i], err)
		}
	}
	return nil
}

// trainRequest opens a training on either side: both read the same folders.
type trainRequest struct {
	What      string     `json:"what"`
	Folder    string     `json:"folder"`
	Adapter   string     `json:"adapter"` // folder, or empty: the model itself is trained
	Rows      int        `json:"rows"`
	Length    int        `json:"length"`
	IDs       []int32    `json:"ids"` // [Rows*Length]
	Precision string     `json:"precision"`
	LR        float64    `json:"lr"`
	Betas     [2]float64 `json:"betas"`
	Eps       float64    `json:"eps"`
	Decay     float64    `json:"decay"`
	Clip      float64    `json:"clip"`
}

// trainRequest writes the model of a job into dir.
func (h *harness) trainRequest(ctx context.Context, j trainJob, dir string) (*trainRequest, error) {
	r := &trainRequest{
		What: "open", Folder: filepath.Join(dir, "model"), Rows: 1,
		LR: 1e-4, Betas: [2]float64{0.9, 0.95}, Eps: 1e-8, Decay: 0.1, Clip: 1,
	}
	_, r.Precision = j.precision()
	var config llama.Config
	if j.shape != "" {
		config, r.Rows = trainShapes[j.shape].config, trainShapes[j.shape].rows
		m, err := llama.New(ctx, config, nil, llama.Init{}, llama.Options{Backend: h.b})
		if err != nil {
			return nil, err
		}
		defer m.Close()
		if err := m.Save(ctx, r.Folder, llama.SaveOptions{Type: backend.F32}); err != nil {
			return nil, err
		}
	} else {
		r.Adapter, r.LR = filepath.Join(dir, "adapter"), 1e-3 // a change of 1e-4 is less than what autocast rounds off
		var err error
		if config, err = newAdapter(ctx, h.b, h.loraModel, r.Folder, r.Adapter); err != nil {
			return nil, err
		}
	}
	r.Length = min(h.length, config.Context)
	r.IDs = randomIDs(r.Rows*r.Length, config.Vocab)
	return r, nil
}

// newAdapter converts a model to a folder in BF16 and writes a new adapter for it.
// PyTorch has the same numbers in float32: what autocast rounds them to is what they
// are, so herd may keep them as the folder does.
func newAdapter(ctx context.Context, b backend.Backend, file, folder, adapter string) (llama.Config, error) {
	if _, err := llama.Convert(ctx, file, folder, llama.ConvertOptions{To: "safetensors", Type: backend.BF16}); err != nil {
		return llama.Config{}, err
	}
	m, err := llama.Open(ctx, folder, llama.Options{Backend: b})
	if err != nil {
		return llama.Config{}, err
	}
	defer m.Close()
	config := peft.Config{Rank: trainRank, Alpha: 2 * trainRank, BaseModel: folder,
		Targets: []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}}
	if err := m.AddAdapter(ctx, config, 1); err != nil {
		return llama.Config{}, err
	}
	training, err := m.Training()
	if err != nil {
		return llama.Config{}, err
	}
	return m.Config(), training.Save(ctx, adapter)
}

// training is our side.
type training struct {
	m     *llama.Model
	t     *train.Trainer
	batch train.Batch
	lr    float64
	cost  float64 // operations for a token
}

func openTraining(ctx context.Context, b backend.Backend, r *trainRequest) (t *training, err error) {
	m, err := llama.Open(ctx, r.Folder, llama.Options{Backend: b, Trainable: r.Adapter == ""})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if r.Adapter != "" {
		if err := m.LoadAdapter(ctx, r.Adapter); err != nil {
			return nil, err
		}
	}
	o := train.TrainerOptions{Precision: backend.PrecisionF32, Optimizer: optim.AdamWConfig{
		Beta1: r.Betas[0], Beta2: r.Betas[1], Eps: r.Eps, WeightDecay: r.Decay, ClipNorm: r.Clip,
	}}
	if r.Precision == "bf16" {
		o.Precision = backend.PrecisionBF16
	}
	t = &training{m: m, lr: r.LR, batch: shifted(r.IDs, r.Rows)}
	if t.t, err = train.NewTrainer(m, o); err != nil {
		return nil, err
	}
	adapter := 0
	if r.Adapter != "" {
		for _, p := range t.t.Params() {
			adapter += p.Param.Shape.Elems()
		}
	}
	t.cost = shapeCost(m.Config()).training(r.Length, adapter) / float64(r.Length)
	return t, nil
}

func (t *training) close() {
	t.t.Close()
	t.m.Close()
}

// shifted is a batch of rows, each token of which has the next one as its target.
func shifted(ids []int32, rows int) train.Batch {
	n := len(ids) / rows
	b := train.Batch{IDs: ids, Targets: make([]int32, len(ids)), Docs: slices.Repeat([]int{n}, rows)}
	for i := range ids {
		if b.Targets[i] = train.NoTarget; (i+1)%n != 0 {
			b.Targets[i] = ids[i+1]
			b.Tokens++
		}
	}
	return b
}

// step trains once and answers as the peer does.
func (t *training) step(ctx context.Context) (answer, error) {
	start := time.Now()
	r, err := t.t.Step(ctx, []train.Batch{t.batch}, t.lr)
	return answer{Rate: float64(len(t.batch.IDs)) / time.Since(start).Seconds(), Loss: r.Loss}, err
}

// steps trains n times and returns the losses.
func (t *training) steps(ctx context.Context, n int) (losses []float64, err error) {
	for range n {
		a, err := t.step(ctx)
		if err != nil {
			return nil, err
		}
		losses = append(losses, a.Loss)
	}
	return losses, nil
}

// stepRequest asks the peer for steps.
type stepRequest struct {
	What string `json:"what"`
	N    int    `json:"n"`
}

func trainSteps(n int) stepRequest { return stepRequest{"step", n} }

// open asks the peer to open a training, makes n steps and returns their losses.
func (p *peer) open(r *trainRequest, n int) (losses []float64, err error) {
	if _, err := p.ask(r); err != nil {
		return nil, err
	}
	for range n {
		a, err := p.ask(trainSteps(1))
		if err != nil {
			return nil, err
		}
		losses = append(losses, a.Loss)
	}
	return losses, nil
}

// agree compares the losses of the first steps: the same weights, ids and settings give
// nearly the same numbers, if both sides do the same work. The first is of the forward
// pass, the others are of updates too, each of which moves the loss by 2e-3 of it or more.
// Rounding in products of bf16 moves it by 1e-5 at random weights, by 7e-4 in a trained
// model. PEFT adds what an adapter changes to a product that is rounded already, which
// takes a seventh of the first update of an adapter: 1.4e-2 of the loss.
func (r *trainRequest) agree(ours, theirs []float64) error {
	for i := range ours {
		tolerance := 1e-3
		switch {
		case r.Precision == "float32":
			tolerance = 1e-5
		case r.Adapter != "" && i == 0:
			tolerance = 3e-3
		case r.Adapter != "":
			tolerance = 3e-2
		}
		if d := math.Abs(ours[i] - theirs[i]); !(d <= tolerance*math.Abs(theirs[i])) {
			return fmt.Errorf("losses of the first steps are %.6v, the peer's %.6v", ours, theirs)
		}
	}
	return nil
}

// train is the mode: a step is forward, backward, clipping and AdamW. All sides work on
// the same weights and ids.
func (h *harness) train(ctx context.Context) error {
	return h.eachTrainJob(ctx, trainWords, (*harness).trainOf)
}

func (h *harness) trainOf(ctx context.Context, j trainJob, r *trainRequest) error {
	p, err := h.peer(ctx, j.peer, "torchtrain.py", fmt.Sprint(h.run.Workers), j.peer)
	if err != nil {
		return err
	}
	if p == nil && j.compile {
		return nil // ours is that of the eager job
	}
	defer p.close()
	t, err := openTraining(ctx, h.b, r)
	if err != nil {
		return err
	}
	defer t.close()
	losses, err := t.steps(ctx, trainWarm)
	if err != nil {
		return err
	}
	if p != nil {
		theirs, err := p.open(r, trainWarm)
		if err != nil {
			return err
		}
		if err := r.agree(losses, theirs); err != nil {
			return err
		}
	}
	units, _ := j.precision()
	peak, unit := h.peak(units)
	c := comparison{peer: p.side(trainSteps(trainTurn)), beside: h.beside(peak), pairs: h.pairs, ops: t.cost}
	c.ours = func(ctx context.Context, _ int) (float64, error) {
		start := time.Now()
		_, err := t.steps(ctx, trainTurn)
		return float64(trainTurn*len(t.batch.IDs)) / time.Since(start).Seconds(), err
	}
	o, err := c.compare(ctx)
	if err != nil {
		return err
	}
	res := h.trainResult("train", j, r)
	res.Peer, res.Unit = p.label(), rateOf
	res.fill(o, unit+" peak")
	return h.add(res)
}
