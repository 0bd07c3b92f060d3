package peft_test

import (
	"fmt"
	"log"
	"os"

	"github.com/herd-ml/herd/llama/peft"
)

// An adapter is written as PEFT reads it, and read again.
func ExampleWrite() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c := peft.Config{Rank: 1, Alpha: 2, Targets: []string{"q_proj"}}
	err = peft.Write(dir, c, []peft.Module{{
		Name: "model.layers.0.self_attn.q_proj",
		A:    peft.Tensor([]float32{1, 2, 3}, 1, 3),
		B:    peft.Tensor([]float32{4, 5}, 2, 1),
	}})
	if err != nil {
		log.Fatal(err)
	}
	a, err := peft.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	for _, m := range a.Modules {
		b, err := peft.Read(m.B)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(m.Name, "rank", m.Rank, "scale", m.Scale, "B", b)
	}
	// Output: model.layers.0.self_attn.q_proj rank 1 scale 2 B [4 5]
}

func ExampleConfig_Layer() {
	c := peft.Config{Rank: 8, Alpha: 16, Targets: []string{"q_proj", "v_proj"},
		Ranks: []peft.Override{{Pattern: "layers.0.self_attn.q_proj", Value: 4}}}
	fmt.Println(c.Layer("model.layers.0.self_attn.q_proj"))
	fmt.Println(c.Layer("model.layers.1.self_attn.q_proj"))
	fmt.Println(c.Layer("model.layers.1.self_attn.k_proj"))
	// Output:
	// true 4 4
	// true 8 2
	// false 8 2
}

func ExampleParseConfig() {
	_, err := peft.ParseConfig([]byte(`{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "fan_in_fan_out": true}`))
	fmt.Println(err)
	// Output: "fan_in_fan_out" is true, which is not supported: it may change what the adapter computes
}
