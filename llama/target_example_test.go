package llama_test

import (
	"fmt"
	"path/filepath"

	"github.com/herd-ml/herd/llama"
)

// A program that writes a file of its own leaves the model's alone.
func ExampleCheckNotRead() {
	folder := filepath.Dir(smallModel)
	for _, name := range []string{filepath.Base(smallModel), "notes.txt"} {
		fmt.Println(llama.CheckNotRead(filepath.Join(folder, name), smallModel) != nil)
	}
	// Output:
	// true
	// false
}
