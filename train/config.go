package train

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/optim"
)

// Config is a run of training. Data.Files and one of Model.Path and Model.Tokenizer
// must be given; the rest has defaults. The keys are those of `herd train`.
type Config struct {
	Out       string `yaml:"out" help:"folder of the run: checkpoints, metrics, picture (default run)"`
	Seed      uint64 `yaml:"seed" help:"of new weights and of the order of documents"`
	Steps     int    `yaml:"steps" help:"updates of the weights (default 1000, or as many as data.epochs gives)"`
	Precision string `yaml:"precision" help:"bf16: float32 weights, products in bfloat16; or f32 (default bf16)"`

	Model      ModelConfig      `yaml:"model" help:"what is trained"`
	Data       DataConfig       `yaml:"data" help:"what it is trained on"`
	Batch      BatchConfig      `yaml:"batch" help:"what a step sees"`
	Optimizer  OptimizerConfig  `yaml:"optimizer" help:"AdamW"`
	LoRA       LoRAConfig       `yaml:"lora" help:"train an adapter and leave the model as it is"`
	Eval       EvalConfig       `yaml:"eval" help:"loss of held-out documents"`
	Sample     SampleConfig     `yaml:"sample" help:"text during the run"`
	Checkpoint CheckpointConfig `yaml:"checkpoint" help:"what a run goes on from"`
}

// ModelConfig says what is trained: a model from files, or a new one.
type ModelConfig struct {
	Path      string `yaml:"path" help:"model to start from: a .gguf file, a Hugging Face or a Meta folder"`
	Tokenizer string `yaml:"tokenizer" help:"of a new model: tokenizer.json, tokenizer.model, a folder or a .gguf file"`

	Layers    int     `yaml:"layers" help:"of a new model (default 6)"`
	Dim       int     `yaml:"dim" help:"width of the residual stream (default 288)"`
	Heads     int     `yaml:"heads" help:"query heads (default dim / 48)"`
	KVHeads   int     `yaml:"kv_heads" help:"key-value heads (default heads)"`
	HeadDim   int     `yaml:"head_dim" help:"width of a head (default dim / heads)"`
	HiddenDim int     `yaml:"hidden_dim" help:"width of the feed-forward layers (default 8/3 dim, a multiple of 32)"`
	Context   int     `yaml:"context" help:"positions the model is made for (default batch.seq_len)"`
	RopeTheta float64 `yaml:"rope_theta" help:"base of the rotation frequencies (default 10000)"`
	NormEps   float64 `yaml:"norm_eps" help:"added under the root in RMSNorm (default 1e-5)"`
	Untied    bool    `yaml:"untied" help:"an output matrix of its own, not the embedding's"`
	InitStd   float64 `yaml:"init_std" help:"standard deviation of new matrices (default 0.02)"`

	Recompute bool `yaml:"recompute" help:"keep only the inputs of layers for backward: less memory, a third more arithmetic"`
}

// BatchConfig says what a step sees.
type BatchConfig struct {
	Rows       int `yaml:"rows" help:"sequences in memory at once (default 2)"`
	SeqLen     int `yaml:"seq_len" help:"tokens of a sequence (default the model's context, at most 1024; 256 for a new model)"`
	Accumulate int `yaml:"accumulate" help:"micro-batches of rows sequences in a step (default 1)"`
}

// OptimizerConfig is AdamW, its schedule and the loss.
type OptimizerConfig struct {
	LR          float64 `yaml:"lr" help:"largest learning rate (default 1e-3; 2e-4 with lora or from files)"`
	Schedule    string  `yaml:"schedule" help:"after the warm-up: cosine, linear, constant or wsd (default cosine)"`
	Warmup      int     `yaml:"warmup" help:"steps in which the rate grows from 0 (default a fiftieth of steps)"`
	NoWarmup    bool    `yaml:"no_warmup" help:"no warm-up"`
	NoFloor     bool    `yaml:"no_floor" help:"cosine falls to 0"`
	Floor       float64 `yaml:"floor" help:"what the rate falls to, as a share of lr (default 0.1; 0 with linear and wsd)"`
	Decay       int     `yaml:"decay" help:"last steps in which wsd falls (default a fifth of steps)"`
	Fall        string  `yaml:"fall" help:"shape of wsd's fall: linear, cosine or sqrt (default linear)"`
	Beta1       float64 `yaml:"beta1" help:"how much of the mean of the gradient is kept (default 0.9)"`
	Beta2       float64 `yaml:"beta2" help:"and of its square (default 0.95)"`
	Eps         float64 `yaml:"eps" help:"added to the root (default 1e-8)"`
	WeightDecay float64 `yaml:"weight_decay" help:"of matrices but the embedding, times the rate (default 0.1)"`
	NoDecay     bool    `yaml:"no_decay" help:"no weight decay"`
	Clip        float64 `yaml:"clip" help:"largest norm of the gradient (default 1)"`
	NoClip      bool    `yaml:"no_clip" help:"no largest norm"`
	ZLoss       float64 `yaml:"z_loss" help:"factor of the squared log of the softmax's sum in the loss"`
}

// LoRAConfig is an adapter. Rank 0 trains the model itself.
type LoRAConfig struct {
	Rank    int      `yaml:"rank" help:"rank of the adapter; 0 trains the model itself"`
	Alpha   float64  `yaml:"alpha" help:"scale times the rank (default 2 rank)"`
	Targets []string `yaml:"targets" help:"layers that get one (default all seven projections)"`
	RSLoRA  bool     `yaml:"rslora" help:"scale alpha / sqrt(rank) in the place of alpha / rank"`
	DoRA    bool     `yaml:"dora" help:"train the norms of the rows apart"`
	Dropout float64  `yaml:"dropout" help:"part of an adapter's input that a step does without; not with dora"`
}

// EvalConfig is held-out loss. Which documents are held out is said under data.
type EvalConfig struct {
	Every  int `yaml:"every" help:"steps between evaluations; 0 is at the end only"`
	Tokens int `yaml:"tokens" help:"most tokens of an evaluation (default 100000)"`
}

// SampleConfig is text that the model writes during the run.
type SampleConfig struct {
	Every       int     `yaml:"every" help:"steps between texts; 0 is none"`
	Prompt      string  `yaml:"prompt" help:"start of the text"`
	Tokens      int     `yaml:"tokens" help:"length (default 64)"`
	Temperature float64 `yaml:"temperature" help:"0 is greedy"`
}

// CheckpointConfig is what a run goes on from.
type CheckpointConfig struct {
	Every   int     `yaml:"every" help:"steps between checkpoints, beside those by the clock; 0 is none"`
	Minutes float64 `yaml:"minutes" help:"minutes between checkpoints (default 10)"`
	Keep    int     `yaml:"keep" help:"newest checkpoints that stay, beside the one with the least held-out loss (default 2)"`
}

// projections are the layers that adapters go on.
var projections = []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

// WithDefaults fills in what is not set and can be known without reading a file. Where the
// data's epochs decide the number of steps, Steps stays 0, and so do settings whose default
// follows from it.
func (c Config) WithDefaults() Config {
	set(&c.Out, "run")
	if c.Data.Epochs == 0 {
		set(&c.Steps, 1000)
	}
	set(&c.Precision, "bf16")
	m := &c.Model
	if m.Path == "" {
		set(&m.Layers, 6)
		set(&m.Dim, 288)
		if m.HeadDim > 0 {
			set(&m.Heads, max(1, m.Dim/m.HeadDim))
		}
		set(&m.Heads, max(1, m.Dim/48))
		set(&m.KVHeads, m.Heads)
		set(&m.HeadDim, m.Dim/max(m.Heads, 1))
		set(&m.HiddenDim, (m.Dim*8/3+31)/32*32)
		set(&c.Batch.SeqLen, 256)
		set(&m.Context, c.Batch.SeqLen)
		set(&m.RopeTheta, 10000)
		set(&m.NormEps, 1e-5)
		set(&m.InitStd, 0.02)
	}
	set(&c.Batch.Rows, 2)
	set(&c.Batch.Accumulate, 1)
	o := &c.Optimizer
	set(&o.LR, map[bool]float64{false: 1e-3, true: 2e-4}[c.LoRA.Rank > 0 || m.Path != ""])
	set(&o.Schedule, "cosine")
	if o.Warmup == 0 && !o.NoWarmup && c.Steps > 0 {
		o.Warmup = min(c.Steps/50, c.Steps-1)
	}
	switch o.Schedule {
	case "cosine":
		if !o.NoFloor {
			set(&o.Floor, 0.1)
		}
	case "wsd":
		if c.Steps > 0 {
			set(&o.Decay, max(1, c.Steps/5))
		}
		set(&o.Fall, "linear")
	}
	set(&o.Beta1, 0.9)
	set(&o.Beta2, 0.95)
	set(&o.Eps, 1e-8)
	if !o.NoDecay {
		set(&o.WeightDecay, 0.1)
	}
	if !o.NoClip {
		set(&o.Clip, 1)
	}
	if c.LoRA.Rank > 0 {
		set(&c.LoRA.Alpha, float64(2*c.LoRA.Rank))
		if len(c.LoRA.Targets) == 0 {
			c.LoRA.Targets = slices.Clone(projections)
		}
	}
	set(&c.Eval.Tokens, 100000)
	set(&c.Sample.Tokens, 64)
	set(&c.Checkpoint.Minutes, 10)
	set(&c.Checkpoint.Keep, 2)
	c.Data = c.Data.withDefaults()
	return c
}

func set[T comparable](x *T, to T) { *x = cmp.Or(*x, to) }

// Validate lists every violation, without a look at files.
func (c Config) Validate() error {
	c = c.WithDefaults()
	if c.Steps == 0 { // counted later; any number serves
		c.Steps = math.MaxInt32
		c = c.WithDefaults()
	}
	var errs []error
	want := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	want(c.Steps > 0 && c.Steps <= math.MaxInt32, "steps is %d, want 1 to %d", c.Steps, math.MaxInt32)
	want(c.Precision == "bf16" || c.Precision == "f32", "precision is %q, want bf16 or f32", c.Precision)
	want(c.Model.Path != "" || c.Model.Tokenizer != "", "model.path or model.tokenizer must be given: the model to start from, or the vocabulary of a new one")
	want(c.Model.Path == "" || c.Model.Tokenizer == "" && c.Model.Layers == 0 && c.Model.Dim == 0 && c.Model.Heads == 0 && c.Model.HiddenDim == 0,
		"model: path is given, so the shape and the tokenizer are the files'")
	m := c.Model
	want(m.Path == "" || m.KVHeads == 0 && m.HeadDim == 0 && m.Context == 0 && m.RopeTheta == 0 && m.NormEps == 0 && !m.Untied && m.InitStd == 0,
		"model: path is given, so kv_heads, head_dim, context, rope_theta, norm_eps, untied and init_std are the files'")
	want(c.LoRA.Rank > 0 || c.LoRA.Alpha == 0 && len(c.LoRA.Targets) == 0 && !c.LoRA.RSLoRA && !c.LoRA.DoRA && c.LoRA.Dropout == 0,
		"lora: rank is 0, which trains the model itself, but other keys are set")
	want(int64(c.Batch.Accumulate)*int64(max(c.Batch.Rows, 1)) <= maxBatchToken/int64(max(c.Batch.SeqLen, 1)),
		"batch: %d times %d sequences of %d tokens are more than %d", c.Batch.Accumulate, c.Batch.Rows, c.Batch.SeqLen, maxBatchToken)
	want(c.Eval.Tokens <= maxBatchToken, "eval.tokens is %d, want at most %d", c.Eval.Tokens, maxBatchToken)
	want(c.LoRA.Rank == 0 || c.Model.Path != "", "lora.rank is %d: an adapter needs a model.path", c.LoRA.Rank)
	want(c.LoRA.Rank >= 0, "lora.rank is %d, want 0 or more", c.LoRA.Rank)
	want(c.LoRA.Alpha >= 0 && !math.IsInf(c.LoRA.Alpha, 0), "lora.alpha is %v, want a positive number", c.LoRA.Alpha)
	want(c.LoRA.Dropout >= 0 && c.LoRA.Dropout < 1, "lora.dropout is %v, want 0 to less than 1", c.LoRA.Dropout)
	want(c.LoRA.Dropout == 0 || !c.LoRA.DoRA, "lora.dropout beside lora.dora is not built")
	for _, t := range c.LoRA.Targets {
		want(slices.Contains(projections, t), "lora.targets: %q is none of %s", t, strings.Join(projections, ", "))
	}
	want(c.Batch.Rows > 0 && c.Batch.Accumulate > 0, "batch.rows is %d and batch.accumulate %d, want 1 or more", c.Batch.Rows, c.Batch.Accumulate)
	want(c.Batch.SeqLen == 0 || c.Batch.SeqLen >= 2, "batch.seq_len is %d, want 2 or more", c.Batch.SeqLen)
	want(c.Model.Path != "" || c.Batch.SeqLen <= c.Model.Context, "batch.seq_len is %d, model.context only %d", c.Batch.SeqLen, c.Model.Context)
	for name, n := range map[string]int{"eval.every": c.Eval.Every, "eval.tokens": c.Eval.Tokens, "sample.every": c.Sample.Every, "sample.tokens": c.Sample.Tokens, "checkpoint.every": c.Checkpoint.Every, "checkpoint.keep": c.Checkpoint.Keep} {
		want(n >= 0, "%s is %d, want 0 or more", name, n)
	}
	want(c.Checkpoint.Minutes > 0, "checkpoint.minutes is %v, want more than 0", c.Checkpoint.Minutes)
	want(c.Sample.Temperature >= 0 && !math.IsInf(c.Sample.Temperature, 0), "sample.temperature is %v, want 0 or more", c.Sample.Temperature)
	want(c.Optimizer.ZLoss >= 0 && !math.IsInf(c.Optimizer.ZLoss, 0), "optimizer.z_loss is %v, want 0 or more", c.Optimizer.ZLoss)
	want(!c.Optimizer.NoWarmup || c.Optimizer.Warmup == 0, "optimizer: warmup %d beside no_warmup", c.Optimizer.Warmup)
	want(!c.Optimizer.NoFloor || c.Optimizer.Floor == 0, "optimizer: floor %v beside no_floor", c.Optimizer.Floor)
	want(!c.Optimizer.NoClip || c.Optimizer.Clip == 0, "optimizer: clip %v beside no_clip", c.Optimizer.Clip)
	want(c.Optimizer.Floor >= 0 && c.Optimizer.Floor <= 1, "optimizer.floor is %v, want 0 to 1", c.Optimizer.Floor)
	errs = append(errs, c.schedule().Validate(), c.adamW().Validate(), c.Data.Validate())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// schedule is the learning rate by step, of a configuration with defaults.
func (c Config) schedule() optim.Schedule {
	o := c.Optimizer
	return optim.Schedule{Kind: optim.Kind(o.Schedule), Peak: o.LR, Warmup: o.Warmup, Total: c.Steps,
		Floor: o.Floor * o.LR, Decay: o.Decay, Fall: optim.Fall(o.Fall)}
}

func (c Config) adamW() optim.AdamWConfig {
	o := c.Optimizer
	return optim.AdamWConfig{Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay, NoDecay: o.NoDecay, ClipNorm: o.Clip}
}

// precision is that of the steps.
func (c Config) precision() backend.Precision {
	if c.Precision == "f32" {
		return backend.PrecisionF32
	}
	return backend.PrecisionBF16
}

// shape is a new model's, for a vocabulary.
func (c Config) shape(vocab int) llama.Config {
	m := c.Model
	return llama.Config{
		Layers: m.Layers, Dim: m.Dim, Heads: m.Heads, KVHeads: m.KVHeads, HeadDim: m.HeadDim, HiddenDim: m.HiddenDim,
		Vocab: vocab, Context: m.Context, NormEps: m.NormEps, RopeTheta: m.RopeTheta, TiedEmbeddings: !m.Untied,
	}
}
