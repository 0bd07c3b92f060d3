package train_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// A training loop of one's own: a model learns a batch by heart.
func ExampleTrainer() {
	shape := llama.Config{Layers: 2, Dim: 64, Heads: 4, KVHeads: 2, HeadDim: 16, HiddenDim: 128, Vocab: 100, Context: 16,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true}
	model, err := llama.New(context.Background(), shape, nil, llama.Init{Seed: 1}, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	trainer, err := train.NewTrainer(model, train.TrainerOptions{
		Precision: backend.PrecisionBF16,
		Optimizer: optim.AdamWConfig{ClipNorm: 1},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer trainer.Close()
	batch := train.Batch{ // two documents in one step
		IDs:     []int32{3, 1, 4, 1, 5, 9, 2, 6},
		Targets: []int32{1, 4, 1, 5, train.NoTarget, 2, 6, train.NoTarget},
		Docs:    []int{5, 3},
	}
	schedule := optim.Schedule{Kind: optim.Cosine, Peak: 1e-2, Warmup: 5, Total: 60}
	var report train.StepReport
	for step := range 60 {
		if report, err = trainer.Step(context.Background(), []train.Batch{batch}, schedule.At(step+1)); err != nil {
			log.Fatal(err)
		}
	}
	nll, tokens, err := trainer.Eval(context.Background(), []train.Batch{batch})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Tokens, report.Loss < 0.1, nll < 0.1, tokens)
	// Output: 6 true true 6
}

// A run from a configuration: what `herd train` does.
func ExampleRun() {
	dir, err := os.MkdirTemp("", "herd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	text := filepath.Join(dir, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("a rose is a rose is a rose.\n", 40)), 0o644); err != nil {
		log.Fatal(err)
	}
	report, err := train.Run(context.Background(), train.Config{
		Out:       filepath.Join(dir, "run"),
		Steps:     120,
		Model:     train.ModelConfig{Tokenizer: "../examples/train/bytes", Layers: 1, Dim: 48, Heads: 2},
		Data:      train.DataConfig{Files: []string{text}},
		Batch:     train.BatchConfig{Rows: 2, SeqLen: 64},
		Optimizer: train.OptimizerConfig{LR: 1e-2},
		Sample:    train.SampleConfig{Every: 120, Prompt: "a rose", Tokens: 16},
	}, train.Options{Event: func(e train.Event) {
		if e.Kind == train.EventSample {
			fmt.Println(e.Step, strings.HasPrefix(e.Text, "a rose"))
		}
	}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Steps, filepath.Base(report.Checkpoint))
	// Output:
	// 120 true
	// 120 step-00000120
}

// A loss of one's own, and training that is saved and goes on: the policy is to find a
// token likelier than others after two.
func ExampleTrainer_Run() {
	ctx := context.Background()
	shape := llama.Config{Layers: 1, Dim: 32, Heads: 2, KVHeads: 1, HeadDim: 16, HiddenDim: 64, Vocab: 50, Context: 16,
		NormEps: 1e-5, RopeTheta: 10000}
	model, err := llama.New(ctx, shape, nil, llama.Init{Seed: 1}, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	trainer, err := train.NewTrainer(model, train.TrainerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer trainer.Close()
	layout := backend.Documents(2)
	layout.Logits = []int32{1} // of the last row
	var logp [1]float32
	pass := train.Pass{IDs: []int32{3, 1}, Layout: layout, Loss: func(c *tensor.Context, h *tensor.Tensor) ([]tensor.Seed, error) {
		y, _ := tensor.LogProb(c, h, []int32{4}, trainer.Output())
		c.Read(logp[:], y)
		return []tensor.Seed{{Y: tensor.Scale(c, y, -1)}}, nil
	}}
	for range 30 {
		if err := trainer.ZeroGrad(ctx); err != nil {
			log.Fatal(err)
		}
		if err := trainer.Run(ctx, pass); err != nil {
			log.Fatal(err)
		}
		if _, err := trainer.Update(ctx, 1e-2); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(logp[0] > -0.1)
	// Output: true
}

// A trainer that goes on where another has stopped.
func ExampleTrainer_Save() {
	ctx := context.Background()
	shape := llama.Config{Layers: 1, Dim: 32, Heads: 2, KVHeads: 1, HeadDim: 16, HiddenDim: 64, Vocab: 50, Context: 16,
		NormEps: 1e-5, RopeTheta: 10000}
	dir, err := os.MkdirTemp("", "herd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	saved := filepath.Join(dir, "saved")
	batches := []train.Batch{{IDs: []int32{3, 1, 4}, Targets: []int32{1, 4, train.NoTarget}, Docs: []int{3}}}
	// steps takes some, and tells the last one's loss.
	steps := func(trainer *train.Trainer, n int) (loss float64) {
		for range n {
			report, err := trainer.Step(ctx, batches, 1e-3)
			if err != nil {
				log.Fatal(err)
			}
			loss = report.Loss
		}
		return loss
	}
	model, err := llama.New(ctx, shape, nil, llama.Init{Seed: 1}, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	first, err := train.NewTrainer(model, train.TrainerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer first.Close()
	steps(first, 3)
	if err := first.Save(ctx, saved); err != nil {
		log.Fatal(err)
	}
	again, err := llama.Open(ctx, saved, llama.Options{Trainable: true})
	if err != nil {
		log.Fatal(err)
	}
	defer again.Close()
	second, err := train.NewTrainer(again, train.TrainerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	if err := second.Load(ctx, saved); err != nil {
		log.Fatal(err)
	}
	fmt.Println(steps(first, 2) == steps(second, 2))
	// Output: true
}
