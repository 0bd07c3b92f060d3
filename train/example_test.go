package train_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/herd-ml/herd/llama/tokenizer"
	"github.com/herd-ml/herd/train"
)

// ExampleOpenData packs three short documents into sequences of six tokens.
func ExampleOpenData() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	rows := `{"text": "ab"}` + "\n" + `{"text": "abb"}` + "\n" + `{"text": "b"}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(rows), 0o644); err != nil {
		fmt.Println(err)
		return
	}
	end := int32(0)
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{
		Model: "gpt2", Tokens: []string{"<end>", "a", "b"}, Types: []int32{3, 1, 1}, EOS: &end,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	data, err := train.OpenData(train.DataConfig{Files: []string{dir}, Ordered: true, Epochs: 1}, tok)
	if err != nil {
		fmt.Println(err)
		return
	}
	it, err := data.Train(1, 6, 0) // one sequence a batch; a seed for shuffling
	if err != nil {
		fmt.Println(err)
		return
	}
	defer it.Close()
	for {
		batch, err := it.Next(context.Background())
		if err == io.EOF {
			break
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(batch.IDs, batch.Targets, batch.Docs, batch.Tokens)
	}
	// Output:
	// [1 2 0 1 2 2] [2 0 -1 2 2 0] [3 3] 5
	// [0 2 0 0 0 0] [-1 0 -1 -1 -1 -1] [1 2 3] 1
}

// ExampleIterator_Restore goes on where another iterator stood.
func ExampleIterator_Restore() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("abbaabbbaa"), 0o644); err != nil {
		fmt.Println(err)
		return
	}
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a", "b"}, Types: []int32{1, 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	data, err := train.OpenData(train.DataConfig{Files: []string{dir}}, tok)
	if err != nil {
		fmt.Println(err)
		return
	}
	first, _ := data.Train(1, 4, 0)
	batch, _ := first.Next(context.Background())
	fmt.Println(batch.IDs)
	position := first.Position() // saved as JSON beside the weights
	first.Close()

	second, _ := data.Train(1, 4, 0)
	defer second.Close()
	if err := second.Restore(context.Background(), position); err != nil {
		fmt.Println(err)
		return
	}
	batch, _ = second.Next(context.Background())
	fmt.Println(batch.IDs)
	// Output:
	// [0 1 1 0]
	// [0 1 1 1]
}

// ExampleIterator_RestoreNear goes on where a file was changed before the position.
func ExampleIterator_RestoreNear() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a", "b", "<|end|>"}, Types: []int32{1, 1, 3}})
	if err != nil {
		fmt.Println(err)
		return
	}
	open := func(text string) *train.Iterator {
		if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte(text), 0o644); err != nil {
			fmt.Println(err)
		}
		data, err := train.OpenData(train.DataConfig{Files: []string{dir}, Separator: "\n", Ordered: true}, tok)
		if err != nil {
			fmt.Println(err)
		}
		it, err := data.Train(1, 2, 0)
		if err != nil {
			fmt.Println(err)
		}
		return it
	}
	first := open("aa\nab\nba\n")
	first.Next(context.Background())
	position := first.Position()
	first.Close()

	second := open("bb\nab\nba\n")
	defer second.Close()
	err = second.Restore(context.Background(), position)
	fmt.Println(errors.Is(err, train.ErrInexact))
	if err := second.RestoreNear(context.Background(), position); err != nil {
		fmt.Println(err)
		return
	}
	batch, err := second.Next(context.Background())
	fmt.Println(batch.IDs, err)
	// Output:
	// true
	// [0 1] <nil>
}

// ExampleIterator_Spelled counts the names of control tokens that stay text.
func ExampleIterator_Spelled() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("ab[end]ba[end]"), 0o644); err != nil {
		fmt.Println(err)
		return
	}
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{Model: "gpt2",
		Tokens: []string{"a", "b", "e", "n", "d", "[", "]", "[end]"}, Types: []int32{1, 1, 1, 1, 1, 1, 1, 3}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, special := range []string{"never", "always"} {
		data, err := train.OpenData(train.DataConfig{Files: []string{dir}, Special: special}, tok)
		if err != nil {
			fmt.Println(err)
			return
		}
		it, err := data.Train(1, 14, 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		batch, err := it.Next(context.Background())
		fmt.Println(batch.IDs[:batch.Docs[0]], it.Spelled(), err)
		it.Close()
	}
	// Output:
	// [0 1 5 2 3 4 6 1 0 5 2 3 4 6] {2 1 [end]} <nil>
	// [0 1 7 1 0 7] {0 0 } <nil>
}

func ExampleEstimator() {
	var e train.Estimator
	fmt.Println(e.Left(100)) // nothing is known yet
	// Output: 0s
}
