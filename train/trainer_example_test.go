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
