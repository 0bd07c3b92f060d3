package optim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
)

// vector makes a parameter of numbers with a gradient of ones, as a model and its
// backward pass would.
func vector(b backend.Backend, numbers ...float32) *tensor.Param {
	memory, err := b.Alloc(int64(8 * len(numbers)))
	if err != nil {
		log.Fatal(err)
	}
	p := tensor.NewParam(len(numbers))
	p.BindValue(backend.Contiguous(memory, backend.F32, 0, p.Shape))
	p.BindGrad(backend.Contiguous(memory, backend.F32, len(numbers), p.Shape))
	ones := slices.Repeat([]float32{1}, len(numbers))
	if err := errors.Join(tensor.Upload(b, p.Numbers(), numbers), tensor.Upload(b, p.Grad(), ones)); err != nil {
		log.Fatal(err)
	}
	return p
}

// start makes an optimizer of one parameter.
func start() (*optim.AdamW, *tensor.Context, *tensor.Param) {
	b := cpu.Default()
	p := vector(b, 0.5, -0.5, 1, 0)
	o, err := optim.NewAdamW(b, []nn.Named{{Name: "model.norm.weight", Param: p}}, optim.AdamWConfig{ClipNorm: 1})
	if err != nil {
		log.Fatal(err)
	}
	c, err := tensor.NewContext(b, tensor.Options{})
	if err != nil {
		log.Fatal(err)
	}
	return o, c, p
}

func ExampleNewAdamW() {
	o, c, _ := start()
	defer o.Close()
	defer c.Close()
	for _, s := range o.Settings() {
		fmt.Println(s.Name, "learning rate x", s.LRScale, "decay", s.WeightDecay)
	}
	// Output: model.norm.weight learning rate x 1 decay 0
}

func ExampleAdamW_Step() {
	o, c, p := start()
	defer o.Close()
	defer c.Close()
	norm, err := o.Step(context.Background(), c, 0.1) // gradients of 1: the first step is of size 0.1
	if err != nil {
		log.Fatal(err)
	}
	values := make([]float32, 4)
	if err := tensor.Download(c.Backend(), values, p.Numbers()); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("norm %v, numbers %.2f\n", norm, values)
	if err := o.ZeroGrad(context.Background(), c); err != nil {
		log.Fatal(err)
	}
	norm, err = o.Step(context.Background(), c, 0)
	fmt.Println("norm", norm, err)
	// Output:
	// norm 2, numbers [0.40 -0.60 0.90 -0.10]
	// norm 0 <nil>
}

func ExampleAdamW_Save() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path, ctx := filepath.Join(dir, "optimizer.safetensors"), context.Background()
	o, c, _ := start()
	defer o.Close()
	defer c.Close()
	if _, err := o.Step(ctx, c, 0.1); err != nil {
		log.Fatal(err)
	}
	if err := o.Save(ctx, c, path, map[string]string{"tokens": "4096"}); err != nil {
		log.Fatal(err)
	}
	again, c2, _ := start()
	defer again.Close()
	defer c2.Close()
	saved, err := again.Load(ctx, c2, path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("step", again.Steps(), "tokens", saved.Metadata["tokens"], "beta2", saved.Config.Beta2)
	// Output: step 1 tokens 4096 beta2 0.95
}

func ExampleSchedule() {
	s := optim.Schedule{Kind: optim.Cosine, Peak: 3e-4, Warmup: 2, Total: 6, Floor: 3e-5}
	if err := s.Validate(); err != nil {
		log.Fatal(err)
	}
	for step := range 8 {
		fmt.Printf("%.2g ", s.At(step))
	}
	// Output: 0 0.00015 0.0003 0.00026 0.00016 7e-05 3e-05 3e-05
}

func ExampleAverage() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var inputs []string
	for i, x := range []float32{1, 2, 6} {
		raw := make([]byte, 4)
		block.Encode(backend.F32, raw, []float32{x})
		path := filepath.Join(dir, fmt.Sprintf("step-%d.safetensors", i))
		if err := safetensors.WriteFile(path, []safetensors.Source{{Name: "w", Type: backend.F32, Shape: []int{1}, Data: bytes.NewReader(raw)}}, nil); err != nil {
			log.Fatal(err)
		}
		inputs = append(inputs, path)
	}
	out := filepath.Join(dir, "average.safetensors")
	if err := optim.Average(context.Background(), out, inputs, optim.AverageOptions{}); err != nil {
		log.Fatal(err)
	}
	f, err := safetensors.Open(out)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	raw, x := make([]byte, 4), make([]float32, 1)
	if _, err := f.Tensor("w").ReadAt(raw, 0); err != nil {
		log.Fatal(err)
	}
	block.Decode(backend.F32, x, raw)
	fmt.Println(x)
	// Output: [3]
}
