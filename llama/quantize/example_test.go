package quantize_test

import (
	"fmt"
	"log"

	"github.com/herd-ml/herd/llama/quantize"
)

// The types of llama.cpp's mix Q4_K_M for some matrices of a model of 32 layers.
func ExampleRules_Types() {
	mix, err := quantize.ParseMix("q4_k_m")
	if err != nil {
		log.Fatal(err)
	}
	matrices := []quantize.Matrix{{Name: "token_embd.weight", Cols: 4096}, {Name: "blk.0.attn_v.weight", Cols: 4096},
		{Name: "blk.5.attn_v.weight", Cols: 4096}, {Name: "output.weight", Cols: 4096}}
	types, err := quantize.Rules{Mix: mix}.Types(quantize.Model{Layers: 32, Heads: 32, KVHeads: 8}, matrices)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(mix, types)
	// Output: Q4_K_M [Q4_K Q6_K Q4_K Q6_K]
}
