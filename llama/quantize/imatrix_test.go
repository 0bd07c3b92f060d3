package quantize_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/quantize"
)

// dat builds a file of the older form: numbers are int32 or float32, texts have their
// length in front.
func dat(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			binary.Write(&b, binary.LittleEndian, int32(len(s)))
			b.WriteString(s)
			continue
		}
		if n, ok := p.(int); ok {
			p = int32(n)
		}
		if err := binary.Write(&b, binary.LittleEndian, p); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// twoEntries is a file of two matrices, over 4 chunks.
func twoEntries() []byte {
	return dat(2, "blk.0.attn_q.weight", 4, 3, []float32{4, 8, 0}, "blk.0.ffn_down.weight", 2, 2, []float32{1, 3}, 4, "wiki.txt")
}

// tensors builds a GGUF file of F32 tensors.
func tensors(t *testing.T, keys map[string]any, list map[string][]float32) []byte {
	t.Helper()
	w := &gguf.Writer{}
	for _, k := range []string{"general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"} {
		if v, ok := keys[k]; ok {
			if err := w.Set(k, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, x := range list {
		var b bytes.Buffer
		binary.Write(&b, binary.LittleEndian, x)
		if err := w.Add(name, backend.F32, []int{1, len(x)}, &b); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(b []byte) (*quantize.Imatrix, error) {
	return quantize.ReadImatrix(bytes.NewReader(b), int64(len(b)), "im")
}

// TestImatrixFiles reads both forms, built by hand, and writes each as each.
func TestImatrixFiles(t *testing.T) {
	old, err := read(twoEntries())
	if err != nil {
		t.Fatal(err)
	}
	if old.Chunks != 4 || !reflect.DeepEqual(old.Datasets, []string{"wiki.txt"}) {
		t.Errorf("%d chunks of %q", old.Chunks, old.Datasets)
	}
	means := map[string][]float32{"blk.0.attn_q.weight": {1, 2, 0}, "blk.0.ffn_down.weight": {0.5, 1.5}}
	check := func(what string, m *quantize.Imatrix) {
		t.Helper()
		if len(m.Entries) != len(means) {
			t.Errorf("%s: %d entries", what, len(m.Entries))
		}
		for name, want := range means {
			if got := m.Entries[name].Mean(); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s is %v, want %v", what, name, got, want)
			}
		}
	}
	check("old form", old)
	keys := map[string]any{"general.type": "imatrix", "imatrix.datasets": []string{"a", "b"}, "imatrix.chunk_count": uint32(4), "imatrix.chunk_size": uint32(10)}
	made, err := read(tensors(t, keys, map[string][]float32{
		"blk.0.attn_q.weight.in_sum2": {40, 80, 0}, "blk.0.attn_q.weight.counts": {40},
		"blk.0.ffn_down.weight.in_sum2": {7.5, 22.5}, "blk.0.ffn_down.weight.counts": {15},
	}))
	if err != nil {
		t.Fatal(err)
	}
	check("GGUF", made)
	if made.Chunks != 4 || made.ChunkSize != 10 || !reflect.DeepEqual(made.Datasets, []string{"a", "b"}) {
		t.Errorf("%d chunks of %d of %q", made.Chunks, made.ChunkSize, made.Datasets)
	}
	path := filepath.Join(t.TempDir(), "im")
	for what, m := range map[string]*quantize.Imatrix{"old form": old, "GGUF": made} {
		for as, write := range map[string]func(string) error{"GGUF": m.WriteGGUF, "old form": m.WriteDat} {
			if err := write(path); err != nil {
				t.Fatal(err)
			}
			back, err := quantize.OpenImatrix(path)
			if err != nil {
				t.Fatal(err)
			}
			check(what+" as "+as, back)
			if what == as && as == "GGUF" && !reflect.DeepEqual(back, m) {
				t.Errorf("%v came back as %v", m, back)
			}
		}
	}
	if err := old.WriteDat(path); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, twoEntries()) {
		t.Errorf("the old form came back as %q, %v", b, err)
	}
	// 15 rows are two calls of chunks of 10: the sums are the means times 2.
	if err := made.WriteDat(path); err != nil {
		t.Fatal(err)
	}
	want := dat(2, "blk.0.attn_q.weight", 4, 3, []float32{4, 8, 0}, "blk.0.ffn_down.weight", 2, 2, []float32{1, 3}, 4, "b")
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
		t.Errorf("GGUF became %q, %v; want %q", b, err, want)
	}
}

// TestImatrixAdd adds the sums of two texts.
func TestImatrixAdd(t *testing.T) {
	a := &quantize.Imatrix{Entries: map[string]quantize.Entry{"x": {Sums: []float32{1, 2}, Count: 1}}, Chunks: 1, ChunkSize: 8, Datasets: []string{"a"}}
	b := &quantize.Imatrix{Entries: map[string]quantize.Entry{"x": {Sums: []float32{5, 0}, Count: 3}, "y": {Sums: []float32{1}, Count: 1}}, Chunks: 3, Datasets: []string{"b"}}
	if err := a.Add(b); err != nil {
		t.Fatal(err)
	}
	want := &quantize.Imatrix{Entries: map[string]quantize.Entry{"x": {Sums: []float32{6, 2}, Count: 4}, "y": {Sums: []float32{1}, Count: 1}},
		Chunks: 4, ChunkSize: 8, Datasets: []string{"a", "b"}}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("the sum is %v", a)
	}
	err := a.Add(&quantize.Imatrix{Entries: map[string]quantize.Entry{"x": {Sums: []float32{1}, Count: 1}}})
	if err == nil || !reflect.DeepEqual(a, want) {
		t.Errorf("another width gives %v, %v", err, a)
	}
}

// TestBadImatrix refuses what is no importance matrix, with the name of what is wrong.
func TestBadImatrix(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	keys := map[string]any{"general.type": "imatrix", "imatrix.chunk_count": uint32(1), "imatrix.chunk_size": uint32(1)}
	for what, c := range map[string]struct {
		file []byte
		says string
	}{
		"empty":             {nil, "no importance matrix"},
		"no entries":        {dat(0), "of nothing"},
		"negative count":    {dat(-1), "is -1"},
		"many entries":      {dat(math.MaxInt32), "cut short"},
		"long name":         {dat(1, math.MaxInt32, 0), "cut short"},
		"negative name":     {dat(1, -5, 0), "is -5"},
		"many columns":      {dat(1, "x", 1, math.MaxInt32, []float32{1}), "cut short"},
		"cut in numbers":    {dat(1, "x", 1, 2, []float32{1}), "cut short"},
		"twice":             {dat(2, "x", 1, 1, []float32{1}, "x", 1, 1, []float32{1}), "twice"},
		"NaN":               {dat(1, "blk.7", 1, 2, []float32{1, nan}), `"blk.7": has NaN in column 1`},
		"infinity":          {dat(1, "blk.7", 1, 1, []float32{inf}), `"blk.7": has +Inf`},
		"negative":          {dat(1, "blk.7", 1, 1, []float32{-1}), `"blk.7": has -1`},
		"cut at the end":    {dat(1, "x", 1, 1, []float32{1}, 3, 9), "cut short"},
		"more at the end":   {dat(1, "x", 1, 1, []float32{1}, 3, "a", 0), "4 bytes come after"},
		"another GGUF":      {tensors(t, map[string]any{"general.type": "model"}, nil), "another GGUF"},
		"no keys":           {tensors(t, map[string]any{"general.type": "imatrix"}, nil), "imatrix.chunk"},
		"no counts":         {tensors(t, keys, map[string][]float32{"x.in_sum2": {1}}), "counts"},
		"experts":           {tensors(t, keys, map[string][]float32{"x.in_sum2": {1, 1}, "x.counts": {1, 1}}), "experts"},
		"no inputs":         {tensors(t, keys, map[string][]float32{"x.in_sum2": {1}, "x.counts": {0}}), `"x": is of 0 inputs`},
		"GGUF NaN":          {tensors(t, keys, map[string][]float32{"x.in_sum2": {nan}, "x.counts": {1}}), `"x": has NaN`},
		"GGUF NaN count":    {tensors(t, keys, map[string][]float32{"x.in_sum2": {1}, "x.counts": {nan}}), `"x": is of NaN`},
		"GGUF without sums": {tensors(t, keys, nil), "of nothing"},
	} {
		m, err := read(c.file)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "im") {
			t.Errorf("%s: %v, %v; want %q", what, m, err, c.says)
		}
	}
	whole := twoEntries()
	for n := range whole {
		m, err := read(whole[:n])
		if ends := len(whole) - len(dat(4, "wiki.txt")); (err == nil) != (n == ends) { // older files end there
			t.Errorf("cut at %d of %d: %v, %v", n, len(whole), m, err)
		}
	}
	if _, err := quantize.OpenImatrix(filepath.Join(t.TempDir(), "absent")); !os.IsNotExist(unwrapped(err)) {
		t.Errorf("of no file: %v", err)
	}
}

func unwrapped(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		err = u.Unwrap()
	}
}

// TestImportance refuses a matrix of another model, and gives the means of what is
// quantised.
func TestImportance(t *testing.T) {
	m, err := read(twoEntries())
	if err != nil {
		t.Fatal(err)
	}
	matrices := []quantize.Matrix{{Name: "token_embd.weight", Cols: 3}, {Name: "blk.0.attn_q.weight", Cols: 3}, {Name: "blk.0.ffn_down.weight", Cols: 2}}
	types := []backend.DType{backend.Q4_0, backend.Q4_0, backend.F16}
	got, err := m.Importance(matrices, types)
	if want := [][]float32{nil, {1, 2, 0}, nil}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for says, change := range map[string]func([]quantize.Matrix) []quantize.Matrix{
		"blk.0.attn_q.weight has 3 columns there and 4": func(x []quantize.Matrix) []quantize.Matrix { x[1].Cols = 4; return x },
		`no matrix "blk.0.attn_q.weight"`:               func(x []quantize.Matrix) []quantize.Matrix { x[1].Name = "output.weight"; return x },
		"blk.1.attn_q.weight is not in it": func(x []quantize.Matrix) []quantize.Matrix {
			return append(x, quantize.Matrix{Name: "blk.1.attn_q.weight", Cols: 3})
		},
	} {
		all := append(types, backend.Q4_0)
		_, err := m.Importance(change(append([]quantize.Matrix(nil), matrices...)), all)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "another model") {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// FuzzReadImatrix reads anything without harm: what it takes is valid.
func FuzzReadImatrix(f *testing.F) {
	f.Add(twoEntries())
	f.Add(dat(0))
	f.Add([]byte("GGUF\x03\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := read(b)
		if err != nil {
			return
		}
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}
