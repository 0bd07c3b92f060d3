package llama_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/quantize"
)

// A model is made small, all but its output layer.
func ExampleQuantize() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	report, err := llama.Quantize(context.Background(), smallModel, filepath.Join(dir, "small.gguf"), llama.QuantizeOptions{
		Rules: quantize.Rules{Mix: quantize.Q8_0, Keep: []quantize.Keep{{Pattern: "token_embd", Type: backend.F16}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range report.Tensors[:3] {
		fmt.Printf("%s: %v to %v, relative error below 1 %%: %t\n", t.Name, t.Before, t.After, t.Relative < 0.01)
	}
	// Output:
	// token_embd.weight: BF16 to F16, relative error below 1 %: true
	// blk.0.attn_norm.weight: F32 to F32, relative error below 1 %: true
	// blk.0.attn_q.weight: BF16 to Q8_0, relative error below 1 %: true
}

// The columns that matter are measured over a text, and weigh the errors.
func ExampleModel_Imatrix() {
	model, session := openSmall()
	defer model.Close()
	defer session.Close()
	ids := make([]int32, 64)
	for i := range ids {
		ids[i] = int32(i)
	}
	im, err := model.Imatrix(context.Background(), ids, llama.ImatrixOptions{Context: 32})
	if err != nil {
		log.Fatal(err)
	}
	e := im.Entries["blk.0.attn_q.weight"]
	fmt.Println(im.Chunks, "chunks,", e.Count, "rows,", len(e.Mean()), "columns")
	// Output: 2 chunks, 64 rows, 96 columns
}

// A model's distributions are kept, and another's, here the same, are compared with them.
func ExampleModel_Divergence() {
	model, session := openSmall()
	defer model.Close()
	defer session.Close()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	base, ids := filepath.Join(dir, "base"), make([]int32, 64)
	if _, err := model.SaveBase(context.Background(), ids, base, llama.PerplexityOptions{Context: 32}); err != nil {
		log.Fatal(err)
	}
	d, err := model.Divergence(context.Background(), ids, base, llama.PerplexityOptions{Context: 32})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("KL divergence", d.KL, "same top", d.SameTop, "of", d.Tokens)
	// Output: KL divergence 0 same top 1 of 30
}
