package pth_test

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/pth"
)

// weights is a 2 x 3 matrix of bytes.
func weights() []pth.Source {
	return []pth.Source{{Name: "weight", Type: backend.I8, Shape: []int{2, 3}, Data: bytes.NewReader([]byte{1, 2, 3, 4, 5, 6})}}
}

// show prints the second row of every matrix.
func show(f *pth.File) {
	for _, t := range f.Tensors() {
		row := make([]byte, t.Bytes/int64(t.Shape[0]))
		if _, err := t.ReadAt(row, int64(len(row))); err != nil {
			log.Fatal(err)
		}
		fmt.Println(t.Name, t.Type, t.Shape, row)
	}
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "consolidated.00.pth")
	if err := pth.WriteFile(path, weights()); err != nil {
		log.Fatal(err)
	}
	f, err := pth.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	show(f)
	// Output: weight I8 [2 3] [4 5 6]
}

func ExampleOpenFS() {
	var b bytes.Buffer
	if err := pth.Write(&b, weights()); err != nil {
		log.Fatal(err)
	}
	fsys := fstest.MapFS{"consolidated.00.pth": {Data: b.Bytes()}} // or an embed.FS
	f, err := pth.OpenFS(fsys, "consolidated.00.pth")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	show(f)
	// Output: weight I8 [2 3] [4 5 6]
}

func ExampleWrite() {
	two := append(weights(), weights()...)
	two[1].Name = "other"
	var b bytes.Buffer
	if err := pth.Write(&b, two); err != nil {
		log.Fatal(err)
	}
	f, err := pth.New(bytes.NewReader(b.Bytes()), int64(b.Len()), "buffer")
	if err != nil {
		log.Fatal(err)
	}
	show(f)
	fmt.Println(f.Tensor("weight").SameData(f.Tensor("other")))
	// Output:
	// weight I8 [2 3] [4 5 6]
	// other I8 [2 3] [4 5 6]
	// false
}
