package main

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// script is a step that makes the model say given tokens, reply after reply.
type script struct {
	replies [][]int32
	at      int // in the first of replies
}

func (s *script) Apply(c *sample.Candidates) {
	for i, id := range c.IDs {
		if id != s.replies[0][s.at] {
			c.Logits[i] = float32(math.Inf(-1))
		}
	}
	if s.at++; s.at == len(s.replies[0]) {
		s.replies, s.at = s.replies[1:], 0
	}
}

func TestAnswer(t *testing.T) {
	model, err := llama.Open(t.Context(), golden.Committed("models/tied-rope8/model.gguf"), llama.Options{Context: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	ask := func(replies ...string) (string, error) {
		s := &script{}
		for _, text := range replies {
			ids, err := model.Tokenizer().Encode(text+"<|eot_id|>", tokenizer.EncodeOptions{Special: true})
			if err != nil {
				t.Fatal(err)
			}
			s.replies = append(s.replies, ids)
		}
		var out bytes.Buffer
		err := answer(t.Context(), &out, model, "Weather in Oslo?", llama.ChatOptions{GenerateOptions: llama.GenerateOptions{Steps: []sample.Step{s}}})
		return out.String(), err
	}
	got, err := ask(`{"name": "get_weather", "parameters": {"place": "Oslo"}}`, `Rain.`)
	want := "\nget_weather {\"place\": \"Oslo\"}: {\"celsius\":7,\"place\":\"Oslo\",\"sky\":\"rain\"}\nRain.\n"
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	// What goes wrong is told to the model, which may try again.
	got, err = ask(`{"name": "get_weather", "parameters": {}}`, `Where?`)
	if err != nil || !strings.Contains(got, "no place given") || !strings.HasSuffix(got, "Where?\n") {
		t.Errorf("a bad argument: %q, %v", got, err)
	}
	if _, err = ask(`{"name": "get_weather", "parameters": {"place": }}`); err == nil || !strings.Contains(err.Error(), "malformed tool call") {
		t.Errorf("a malformed call: %v", err)
	}
}
