package llama_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
)

// An adapter as PEFT writes it goes on a model of any format and type; Convert
// merges it instead and says how well.
func ExampleAdapter() {
	dir, err := os.MkdirTemp("", "herd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const width = 96
	lora, ones := filepath.Join(dir, "lora"), slices.Repeat([]float32{0.5}, width)
	err = peft.Write(lora, peft.Config{Rank: 1, Alpha: 1, Targets: []string{"q_proj"}}, []peft.Module{
		{Name: "model.layers.0.self_attn.q_proj", A: peft.Tensor(ones, 1, width), B: peft.Tensor(ones, width, 1)}})
	if err != nil {
		log.Fatal(err)
	}
	adapters := []llama.Adapter{{Path: lora, Scale: 0.5}}
	model, err := llama.Open(context.Background(), smallModel, llama.Options{Adapters: adapters})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	report, err := llama.Convert(context.Background(), smallModel, filepath.Join(dir, "merged"),
		llama.ConvertOptions{To: "safetensors", Type: backend.F32, Adapters: adapters})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range report.Merged {
		fmt.Println(m.Name, m.Max < 1e-7)
	}
	// Output: model.layers.0.self_attn.q_proj true
}

// Sessions of one model have adapters of their own.
func ExampleModel_Adapters() {
	dir, err := os.MkdirTemp("", "herd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const width = 96
	var adapters []llama.Adapter
	for i, name := range []string{"poems", "letters"} {
		path, numbers := filepath.Join(dir, name), slices.Repeat([]float32{float32(i) - 0.5}, width)
		err := peft.Write(path, peft.Config{Rank: 1, Alpha: 1, Targets: []string{"q_proj"}}, []peft.Module{
			{Name: "model.layers.0.self_attn.q_proj", A: peft.Tensor(numbers, 1, width), B: peft.Tensor(numbers, width, 1)}})
		if err != nil {
			log.Fatal(err)
		}
		adapters = append(adapters, llama.Adapter{Path: path, Name: name})
	}
	model, err := llama.Open(context.Background(), smallModel, llama.Options{Adapters: adapters})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	fmt.Println(model.Adapters())
	for _, names := range [][]string{{"poems"}, {"letters"}, {}, {"prose"}} {
		session, err := model.NewSession(llama.SessionOptions{Adapters: names})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("a session with", names)
		session.Close()
	}
	// Output:
	// [poems letters]
	// a session with [poems]
	// a session with [letters]
	// a session with []
	// llama: SessionOptions.Adapters: the model has no adapter "prose": it has ["poems" "letters"]
}
