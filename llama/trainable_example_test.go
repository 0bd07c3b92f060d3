package llama_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/tensor"
)

// A new model of two layers, saved as a Hugging Face folder that is opened again.
func ExampleNew() {
	shape := llama.Config{Layers: 2, Dim: 64, Heads: 4, KVHeads: 2, HeadDim: 16, HiddenDim: 128, Vocab: 300, Context: 128,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true}
	model, err := llama.New(context.Background(), shape, nil, llama.Init{Seed: 1}, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	dir, err := os.MkdirTemp("", "herd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := model.Save(context.Background(), filepath.Join(dir, "new"), llama.SaveOptions{Type: backend.BF16}); err != nil {
		log.Fatal(err)
	}
	info, err := llama.ReadInfo(context.Background(), filepath.Join(dir, "new"), llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	training, err := model.Training()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Config.Dim, len(training.Trainable()), training.Params()[0].Name)
	// Output: 64 20 model.embed_tokens.weight
}

// The forward pass of training, without a tape: the log-probabilities of two texts that
// lie in one step. Package train puts a loop around it.
func ExampleModel_Training() {
	model, err := llama.Open(context.Background(), smallModel, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	training, err := model.Training()
	if err != nil {
		log.Fatal(err)
	}
	c, err := training.NewContext(tensor.Options{Precision: backend.PrecisionF32})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ids := []int32{512, 196, 304, 512, 7}
	err = c.Step(context.Background(), backend.Documents(3, 2), training.KV(), func() error {
		h, err := training.Forward(c, ids, llama.ForwardOptions{})
		if err != nil {
			return err
		}
		logp, _ := tensor.LogProb(c, h, []int32{196, 304, 0, 7, 0}, training.Output())
		fmt.Println(h.Shape(), logp.Shape())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [5 96] [5]
}

// An adapter to be trained on a model whose own weights stay as they are.
func ExampleModel_AddAdapter() {
	model, err := llama.Open(context.Background(), smallModel, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	config := peft.Config{Rank: 4, Alpha: 8, Targets: []string{"q_proj", "v_proj"}}
	if err := model.AddAdapter(context.Background(), config, 1); err != nil {
		log.Fatal(err)
	}
	training, err := model.Training()
	if err != nil {
		log.Fatal(err)
	}
	list := training.Trainable()
	fmt.Println(len(list), list[0].Name)
	// Output: 12 model.layers.0.self_attn.q_proj.lora_A.weight
}
