package safetensors_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/safetensors"
)

// ones is a 2 x 2 matrix of float32.
func ones() []safetensors.Source {
	b := bytes.Repeat(binary.LittleEndian.AppendUint32(nil, 0x3f800000), 4)
	return []safetensors.Source{{Name: "weight", Type: backend.F32, Shape: []int{2, 2}, Data: bytes.NewReader(b)}}
}

func list(f *safetensors.File) {
	for _, t := range f.Tensors() {
		fmt.Println(t.Name, t.Type, t.Shape, t.Bytes)
	}
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "model.safetensors")
	if err := safetensors.WriteFile(path, ones(), nil); err != nil {
		log.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	list(f)
	// Output: weight F32 [2 2] 16
}

func ExampleOpenFS() {
	var b bytes.Buffer
	if err := safetensors.Write(&b, ones(), nil); err != nil {
		log.Fatal(err)
	}
	fsys := fstest.MapFS{"model.safetensors": {Data: b.Bytes()}} // or an embed.FS
	f, err := safetensors.OpenFS(fsys, "model.safetensors")
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	list(f)
	// Output: weight F32 [2 2] 16
}

func ExampleWrite() {
	var b bytes.Buffer
	if err := safetensors.Write(&b, ones(), map[string]string{"format": "pt"}); err != nil {
		log.Fatal(err)
	}
	f, err := safetensors.New(bytes.NewReader(b.Bytes()), int64(b.Len()), "buffer")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Metadata()["format"])
	list(f)
	// Output:
	// pt
	// weight F32 [2 2] 16
}

func ExampleWriteDir() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	two := append(ones(), ones()...)
	two[1].Name = "other"
	files, err := safetensors.WriteDir(dir, two, nil, 20) // bytes of data in one shard
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range files {
		fmt.Println(name)
	}
	// Output:
	// model-00001-of-00002.safetensors
	// model-00002-of-00002.safetensors
	// model.safetensors.index.json
}
