package tokenizer_test

import (
	"fmt"
	"testing/fstest"

	"github.com/herd-ml/herd/llama/tokenizer"
)

// tiny is a tokenizer.json with three letters and one merge.
const tiny = `{
  "added_tokens": [{"id": 4, "content": "<end>", "special": true}],
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3}, "merges": [["a", "b"]]}
}`

func ExampleOpenFS() {
	tok, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: []byte(tiny)}}, ".")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(tok.Info())
	// Output: tokenizer.json, BPE over characters, split none, 5 tokens (1 special), 1 merges
}

func ExampleTokenizer_Encode() {
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{
		Model:  "llama",
		Tokens: []string{"<unk>", "<s>", "</s>", "▁", "a", "▁a"},
		Types:  []int32{2, 3, 3, 1, 1, 1},
		Scores: []float32{0, 0, 0, -2, -3, -1},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ids, _ := tok.Encode("a aa", tokenizer.EncodeOptions{AddBOS: true})
	fmt.Println(ids, tok.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: true}))
	// Output: [1 5 5 4] a aa
}

func ExampleTokenizer_NewDecoder() {
	tok, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: []byte(tiny)}}, ".")
	if err != nil {
		fmt.Println(err)
		return
	}
	d := tok.NewDecoder(tokenizer.DecodeOptions{})
	for _, id := range []int32{3, 2, 4} {
		fmt.Print(d.Write(id))
	}
	fmt.Println(d.Flush())
	// Output: abc<end>
}
