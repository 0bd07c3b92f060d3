package optim

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/safetensors"
)

// source is a tensor of a file.
func source(name string, typ backend.DType, shape []int, values []float32) safetensors.Source {
	raw := make([]byte, len(values)*typ.BlockBytes())
	block.Encode(typ, raw, values)
	return safetensors.Source{Name: name, Type: typ, Shape: shape, Data: bytes.NewReader(raw)}
}

// file writes tensors to a file of a folder.
func file(t *testing.T, dir, name string, ts ...safetensors.Source) string {
	t.Helper()
	path := filepath.Join(dir, name)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, safetensors.WriteFile(path, ts, nil))
	return path
}

// tensorOf reads a tensor of a file.
func tensorOf(t *testing.T, path, name string) (*safetensors.Tensor, []float32) {
	t.Helper()
	f, err := safetensors.Open(path)
	check(t, err)
	defer f.Close()
	x := f.Tensor(name)
	if x == nil {
		t.Fatalf("%s: no tensor %s", path, name)
	}
	raw := make([]byte, x.Bytes)
	if n, err := x.ReadAt(raw, 0); int64(n) < x.Bytes {
		t.Fatal(err)
	}
	values := make([]float32, len(raw)/x.Type.BlockBytes())
	block.Decode(x.Type, values, raw)
	return x, values
}

func flat(m [][]float64) (x []float32) {
	for _, row := range m {
		for _, v := range row {
			x = append(x, float32(v))
		}
	}
	return x
}

// TestAverageGolden takes every case of the golden file.
func TestAverageGolden(t *testing.T) {
	var golds struct {
		Cases []struct {
			Name   string
			Params struct {
				Weights []float64
				Decay   float64
			}
			Inputs   struct{ Models [][][]float64 }
			Expected struct {
				Average [][]float64
				After   [][][]float64 `json:"after_each_update"`
			}
		}
	}
	golden.JSON(t, golden.Glob(t, "losses/averaging.json")[0], &golds)
	if len(golds.Cases) == 0 {
		t.Fatalf("%d cases", len(golds.Cases))
	}
	for _, c := range golds.Cases {
		dir := t.TempDir()
		var paths []string
		for i, m := range c.Inputs.Models {
			name := string(rune('a'+i)) + ".safetensors"
			paths = append(paths, file(t, dir, name, source("w", backend.F32, []int{len(m), len(m[0])}, flat(m))))
		}
		compare := func(inputs []string, want [][]float64) {
			out := filepath.Join(t.TempDir(), "out.safetensors")
			check(t, Average(t.Context(), out, inputs, AverageOptions{Weights: c.Params.Weights, EMA: c.Params.Decay}))
			x, got := tensorOf(t, out, "w")
			if !slices.Equal(x.Shape, []int{len(want), len(want[0])}) || x.Type != backend.F32 {
				t.Errorf("%s: %v %v", c.Name, x.Type, x.Shape)
			}
			if !slices.Equal(got, flat(want)) { // inputs are exact and the sum is rounded once
				t.Errorf("%s of %d: %v, want %v", c.Name, len(inputs), got, flat(want))
			}
		}
		if c.Expected.Average != nil {
			compare(paths, c.Expected.Average)
		}
		for i, want := range c.Expected.After {
			compare(paths[:len(paths)-len(c.Expected.After)+1+i], want)
		}
	}
}

// TestAverageTypes: every type in, every type out, over the blocks of a tensor.
func TestAverageTypes(t *testing.T) {
	const n = 2*blockElems + 77
	x, y := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], y[i] = float32(i%251)-100, float32(i%127)/2
	}
	dir := t.TempDir()
	for _, in := range []backend.DType{backend.F32, backend.F16, backend.BF16} {
		a := file(t, dir, "a.safetensors", source("w", backend.F32, []int{n}, x), source("empty", backend.F32, []int{0, 3}, nil), source("scalar", backend.F32, nil, []float32{3}))
		b := file(t, dir, "b.safetensors", source("scalar", in, nil, []float32{4}), source("w", in, []int{n}, y), source("empty", in, []int{0, 3}, nil))
		for _, out := range []backend.DType{backend.Invalid, backend.F32, backend.F16, backend.BF16} {
			want := make([]float32, n)
			for i := range want {
				want[i] = (x[i] + 3*y[i]) / 4 // 9 bits of quarters of halves: exact
			}
			as := out
			if out == backend.Invalid {
				as = in
			}
			raw := make([]byte, n*as.BlockBytes())
			block.Encode(as, raw, want)
			block.Decode(as, want, raw)
			path := filepath.Join(t.TempDir(), "out.safetensors")
			done, total := int64(0), int64(0)
			check(t, Average(t.Context(), path, []string{a, b}, AverageOptions{Weights: []float64{1, 3}, Type: out,
				Progress: func(d, n int64) { done, total = d, n }}))
			got, values := tensorOf(t, path, "w")
			if got.Type != as || !slices.Equal(values, want) {
				t.Errorf("F32 and %v to %v: %v, or numbers that differ", in, as, got.Type)
			}
			if _, values := tensorOf(t, path, "scalar"); math.Abs(float64(values[0])-3.75) > 0.01 {
				t.Errorf("the scalar is %v", values)
			}
			if done != total || total != 4*(n+1)+int64(in.BlockBytes()*(n+1)) {
				t.Errorf("progress says %d of %d", done, total)
			}
		}
	}
}

// TestAverageFolders: of shards and one file, with what lies beside the last.
func TestAverageFolders(t *testing.T) {
	dir := t.TempDir()
	folder := func(name string, size float32, limit int64) string {
		path := filepath.Join(dir, name)
		check(t, os.Mkdir(path, 0o755))
		two := []safetensors.Source{source("a", backend.BF16, []int{2, 2}, []float32{size, 2, 3, 4}), source("b", backend.BF16, []int{3}, []float32{5, 6, size})}
		_, err := safetensors.WriteDir(path, two, nil, limit)
		check(t, err)
		for file, text := range map[string]string{"config.json": `{"torch_dtype": "bfloat16", "name": "` + name + `"}`, "tokenizer.json": name, "other.txt": name} {
			check(t, os.WriteFile(filepath.Join(path, file), []byte(text), 0o644))
		}
		return path
	}
	inputs := []string{folder("one", 1, 0), folder("two", 2, 8)}
	out := filepath.Join(dir, "out")
	check(t, Average(t.Context(), out, inputs, AverageOptions{Type: backend.F32}))
	_, a := tensorOf(t, filepath.Join(out, "model.safetensors"), "a")
	_, b := tensorOf(t, filepath.Join(out, "model.safetensors"), "b")
	if !slices.Equal(append(a, b...), []float32{1.5, 2, 3, 4, 5, 6, 1.5}) {
		t.Errorf("averages %v %v", a, b)
	}
	entries, err := os.ReadDir(out)
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"config.json", "model.safetensors", "tokenizer.json"}) {
		t.Errorf("the folder holds %v", names)
	}
	text, err := os.ReadFile(filepath.Join(out, "config.json"))
	if err != nil || string(text) != `{"torch_dtype": "float32", "name": "two"}` {
		t.Errorf("config %s, %v", text, err)
	}
	if err := Average(t.Context(), out, inputs, AverageOptions{}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "not an empty folder") {
		t.Errorf("a folder that is there: %v", err)
	}
	// Nor is a file replaced, an input least of all, or a link, wherever that leads.
	link := filepath.Join(dir, "link.safetensors")
	check(t, os.Symlink(filepath.Join(dir, "nowhere"), link))
	for _, out := range []string{filepath.Join(inputs[0], "model.safetensors"), file(t, dir, "there.safetensors"), link} {
		was, _ := os.ReadFile(out)
		if err := Average(t.Context(), out, inputs, AverageOptions{}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), out) {
			t.Errorf("a file that is there: %v", err)
		}
		if is, _ := os.ReadFile(out); !bytes.Equal(is, was) {
			t.Errorf("%s was replaced", out)
		}
	}
	// What is cut short leaves nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, out := range []string{"cut", "cut.safetensors"} {
		if err := Average(ctx, filepath.Join(dir, out), inputs, AverageOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that has ended: %v", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*cut*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left)+len(hidden) > 0 {
		t.Errorf("%v %v are left", left, hidden)
	}
}

// TestAverageRefused: all that differs is said before anything is written.
func TestAverageRefused(t *testing.T) {
	dir := t.TempDir()
	a := file(t, dir, "a.safetensors", source("x", backend.F32, []int{2, 1}, []float32{1, 2}), source("y", backend.F32, nil, []float32{1}))
	b := file(t, dir, "b.safetensors", source("x", backend.F32, []int{1, 2}, []float32{1, 2}), source("z", backend.F32, nil, []float32{1}),
		safetensors.Source{Name: "ids", Type: backend.I32, Shape: []int{1}, Data: strings.NewReader("1234")})
	out := filepath.Join(dir, "out.safetensors")
	err := Average(t.Context(), out, []string{a, b}, AverageOptions{})
	var m *MismatchError
	if !errors.As(err, &m) || len(m.Differs) != 5 {
		t.Errorf("inputs that differ: %v", err)
	}
	for _, c := range []struct {
		inputs []string
		o      AverageOptions
		want   []string
	}{
		{nil, AverageOptions{}, []string{"no inputs"}},
		{[]string{a}, AverageOptions{Weights: []float64{1, 2}, EMA: 1, Type: backend.Q8_0}, []string{"2 weights for 1", "EMA 1", "Q8_0"}},
		{[]string{a, a}, AverageOptions{Weights: []float64{-1, math.NaN()}, EMA: 0.5}, []string{"weight 1 is -1", "weight 2 is NaN", "the sum of the weights is NaN", "beside an EMA"}},
		{[]string{a}, AverageOptions{Weights: []float64{0}}, []string{"the sum of the weights is 0"}},
		{[]string{dir}, AverageOptions{}, []string{"has neither"}},
		{[]string{filepath.Join(dir, "none")}, AverageOptions{}, []string{"none"}},
	} {
		err := Average(t.Context(), out, c.inputs, c.o)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v does not say %q", err, w)
			}
		}
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

// BenchmarkAverage is two checkpoints of 16M numbers; the bytes are those read.
func BenchmarkAverage(b *testing.B) {
	const n = 1 << 24
	dir := b.TempDir()
	var inputs []string
	for _, name := range []string{"a.safetensors", "b.safetensors"} {
		path := filepath.Join(dir, name)
		check(b, safetensors.WriteFile(path, []safetensors.Source{source("w", backend.BF16, []int{n}, make([]float32, n))}, nil))
		inputs = append(inputs, path)
	}
	out := filepath.Join(dir, "out.safetensors")
	b.SetBytes(2 * 2 * n)
	for b.Loop() {
		check(b, Average(b.Context(), out, inputs, AverageOptions{}))
		check(b, os.Remove(out))
	}
}
