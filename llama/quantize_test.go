package llama_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/quantize"
)

// ggufTensor is the bytes of a tensor of a GGUF file and its numbers.
func ggufTensor(t *testing.T, f *gguf.File, name string) (raw []byte, values []float32, info *gguf.Tensor) {
	t.Helper()
	if info = f.Tensor(name); info == nil {
		t.Fatalf("no tensor %s", name)
	}
	raw = make([]byte, info.Bytes)
	if _, err := info.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	n := 1
	for _, d := range info.Shape {
		n *= d
	}
	values = make([]float32, n)
	block.DecodeRows(info.Type, values, raw, info.Shape[len(info.Shape)-1])
	return raw, values, info
}

func openGGUF(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestQuantize writes every model in every mix, and looks at each byte: the numbers of the
// source's rows encoded one by one. What the report says of errors is computed again.
func TestQuantize(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*") {
		in := filepath.Join(dir, "model.gguf")
		source := openGGUF(t, in)
		for _, mix := range quantize.Mixes() {
			t.Run(golden.Name(dir)+"/"+mix.String(), func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "out.gguf")
				r, err := llama.Quantize(context.Background(), in, out, llama.QuantizeOptions{Rules: quantize.Rules{Mix: mix}})
				if errors.Is(err, llama.ErrUnsupported) {
					t.Skip(err)
				}
				if err != nil {
					t.Fatal(err)
				}
				made := openGGUF(t, out)
				if len(made.Tensors()) != len(source.Tensors()) {
					t.Errorf("%d tensors, want %d", len(made.Tensors()), len(source.Tensors()))
				}
				if n, err := made.Uint("general.file_type"); err != nil || uint32(n) != mix.FileType() {
					t.Errorf("general.file_type is %d, %v", n, err)
				}
				for _, got := range r.Tensors {
					checkQuantized(t, source, made, got)
				}
				m := open(t, out, llama.Options{})
				logits, err := session(t, m).Logits(context.Background(), []int32{1, 2, 3})
				if err != nil || slices.ContainsFunc(logits, func(x float32) bool { return x-x != 0 }) {
					t.Errorf("logits: %v", err)
				}
			})
		}
	}
}

// checkQuantized compares a tensor with the encoding of the source's rows, and what the
// report says of it.
func checkQuantized(t *testing.T, source, made *gguf.File, got llama.QuantizedTensor) {
	t.Helper()
	_, x, from := ggufTensor(t, source, got.Name)
	raw, y, info := ggufTensor(t, made, got.Name)
	if from.Type != got.Before || info.Type != got.After || info.Bytes != got.Bytes || !slices.Equal(info.Shape, got.Shape) {
		t.Errorf("%s: %v from %v, reported as %+v", got.Name, info, from, got)
	}
	cols := info.Shape[len(info.Shape)-1]
	size, err := info.Type.RowBytes(int64(cols))
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	for i := 0; i*cols < len(x); i++ {
		if err := block.EncodeRow(info.Type, want, x[i*cols:][:cols], nil); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(raw[int64(i)*size:][:size], want) {
			t.Fatalf("%s: row %d differs", got.Name, i)
		}
	}
	square, norm := 0.0, 0.0
	for i := range x {
		d := float64(x[i]) - float64(y[i])
		square += d * d
		norm += float64(x[i]) * float64(x[i])
	}
	near := func(got, want float64) bool { return math.Abs(got-want) <= 1e-12*want } // sums in another order
	if want := math.Sqrt(square / float64(len(x))); !near(got.RMSE, want) {
		t.Errorf("%s: RMSE %v, want %v", got.Name, got.RMSE, want)
	}
	if want := math.Sqrt(square / norm); !near(got.Relative, want) {
		t.Errorf("%s: relative error %v, want %v", got.Name, got.Relative, want)
	}
	if exact := info.Type == backend.F32; exact && got.RMSE != 0 {
		t.Errorf("%s: RMSE %v of what did not change", got.Name, got.RMSE)
	}
	if got.Weighted == got.Weighted {
		t.Errorf("%s: weighted error %v without an importance matrix", got.Name, got.Weighted)
	}
}
