package tokenizer_test

import (
	"errors"
	"fmt"
	"testing/fstest"

	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// small is a SentencePiece vocabulary as GGUF has it.
var small = tokenizer.VocabGGUF{
	Model:  "llama",
	Tokens: []string{"<unk>", "<s>", "</s>", "▁", "a", "▁a"},
	Types:  []int32{2, 3, 3, 1, 1, 1},
	Scores: []float32{0, 0, 0, -2, -3, -1},
}

func ExampleTokenizer_SetGGUF() {
	tok, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: []byte(`{
	  "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
	  "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
	  "model": {"type": "BPE", "vocab": {"▁": 0, "a": 1, "▁a": 2}, "merges": [["▁", "a"]]}}`)}}, ".")
	if err != nil {
		fmt.Println(err)
		return
	}
	var w gguf.Writer
	if err := tok.SetGGUF(&w, 4); err != nil { // the model has one more row
		fmt.Println(err)
		return
	}
	// w.Add(...) the tensors, then w.WriteFile(path)
	fmt.Println("written")
	// Output: written
}

func ExampleTokenizer_JSON() {
	tok, err := tokenizer.FromVocab(small)
	if err != nil {
		fmt.Println(err)
		return
	}
	data, err := tok.JSON()
	if err != nil { // errors.Is(err, tokenizer.ErrInexact): data is there all the same
		fmt.Println(err)
		return
	}
	config, err := tok.ConfigJSON("")
	if err != nil {
		fmt.Println(err)
		return
	}
	back, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.json": {Data: data}, "tokenizer_config.json": {Data: config}}, ".")
	if err != nil {
		fmt.Println(err)
		return
	}
	ids, _ := back.Encode("a aa", tokenizer.EncodeOptions{AddBOS: true})
	fmt.Println(back.Info().Merges, ids)
	// Output: 1 [1 5 5 4]
}

func ExampleTokenizer_ConfigJSON() {
	tok, err := tokenizer.FromVocab(small)
	if err != nil {
		fmt.Println(err)
		return
	}
	config, err := tok.ConfigJSON("{{ messages[0].content }}")
	fmt.Print(string(config))
	fmt.Println(err)
	// Output:
	// {
	//   "add_bos_token": true,
	//   "add_eos_token": false,
	//   "bos_token": "<s>",
	//   "chat_template": "{{ messages[0].content }}",
	//   "clean_up_tokenization_spaces": false,
	//   "eos_token": "</s>",
	//   "tokenizer_class": "PreTrainedTokenizerFast",
	//   "unk_token": "<unk>"
	// }
	// <nil>
}

func ExampleTokenizer_ModelFile() {
	tok, err := tokenizer.FromVocab(small)
	if err != nil {
		fmt.Println(err)
		return
	}
	data, err := tok.ModelFile()
	if errors.Is(err, tokenizer.ErrInexact) { // a warning: data is there all the same
		fmt.Println(err)
	} else if err != nil {
		fmt.Println(err)
		return
	}
	back, err := tokenizer.OpenFS(fstest.MapFS{"tokenizer.model": {Data: data}}, ".")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(back.Info())
	// Output:
	// tokenizer: SentencePiece model: written, with differences: neighbouring unknown characters are one unknown token
	// sentencepiece, BPE by score, split none, 6 tokens (3 special), 0 merges
}
