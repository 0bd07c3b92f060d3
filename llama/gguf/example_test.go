package gguf_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"strings"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/gguf"
)

// small returns a file with two keys and one tensor.
func small() []byte {
	var w gguf.Writer
	if err := w.Set("general.architecture", "llama"); err != nil {
		log.Fatal(err)
	}
	if err := w.Set("llama.block_count", uint32(2)); err != nil {
		log.Fatal(err)
	}
	if err := w.Add("codes", backend.I8, []int{2, 3}, strings.NewReader("abcdef")); err != nil {
		log.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := w.WriteTo(&out); err != nil {
		log.Fatal(err)
	}
	return out.Bytes()
}

func ExampleNew() {
	b := small()
	f, err := gguf.New(bytes.NewReader(b), int64(len(b)), "small.gguf")
	if err != nil {
		log.Fatal(err)
	}
	for _, key := range f.Keys() {
		v, _ := f.Lookup(key)
		fmt.Println(key, v.Kind(), v)
	}
	t := f.Tensor("codes")
	row := make([]byte, 3)
	if _, err := t.ReadAt(row, 3); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s %v %v: second row %s\n", t.Name, t.Type, t.Shape, row)
	_, err = f.String("llama.block_count")
	fmt.Println(err)
	// Output:
	// general.architecture str "llama"
	// llama.block_count u32 2
	// codes I8 [2 3]: second row def
	// gguf: small.gguf: key "llama.block_count": wanted str, got u32 2
}

func ExampleOpen() {
	_, err := gguf.Open("no-such-model.gguf")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// true
}

func ExampleOpenFS() {
	fsys := fstest.MapFS{"models/small.gguf": {Data: small()}}
	f, err := gguf.OpenFS(fsys, "models/small.gguf")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	blocks, err := f.Uint("llama.block_count")
	fmt.Println(blocks, err, len(f.Tensors()))
	// Output:
	// 2 <nil> 1
}

func ExampleWriter() {
	var w gguf.Writer
	if err := w.Set("general.name", "small"); err != nil {
		log.Fatal(err)
	}
	err := w.Add("codes", backend.Q4_0, []int{2, 33}, strings.NewReader(""))
	fmt.Println(err)
	var out bytes.Buffer
	n, err := w.WriteTo(&out)
	fmt.Println(n, err)
	// Output:
	// gguf: tensor "codes": cannot be written: a row of 33 elements is not a whole number of Q4_0 blocks of 32
	// 64 <nil>
}

// A long list, of a vocabulary for one, need not be in memory as strings.
func ExampleFile_StringList() {
	var w gguf.Writer
	if err := w.Set("tokenizer.ggml.tokens", []string{"a", "bc"}); err != nil {
		log.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := w.WriteTo(&out); err != nil {
		log.Fatal(err)
	}
	f, err := gguf.New(bytes.NewReader(out.Bytes()), int64(out.Len()), "tokens.gguf")
	if err != nil {
		log.Fatal(err)
	}
	list, err := f.StringList("tokenizer.ggml.tokens")
	if err != nil {
		log.Fatal(err)
	}
	for i, s := range list.All() {
		fmt.Println(i, s)
	}
	fmt.Println(list.Len(), "strings,", list.Bytes(), "bytes")
	// Output:
	// 0 a
	// 1 bc
	// 2 strings, 3 bytes
}

func ExampleListOf() {
	fmt.Println(gguf.ListOf([]string{"a", "bc"}).Bytes())
	// Output: 3
}

func ExampleFile_WithoutMetadata() {
	b := small()
	f, err := gguf.New(bytes.NewReader(b), int64(len(b)), "small.gguf")
	if err != nil {
		log.Fatal(err)
	}
	f = f.WithoutMetadata()
	fmt.Println(len(f.Keys()), "keys,", len(f.Tensors()), "tensor")
	// Output: 0 keys, 1 tensor
}
