package llama_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
	dirs := golden.Glob(t, "models/*")
	if testing.Short() {
		dirs = dirs[:1]
	}
	for i, dir := range dirs {
		in := filepath.Join(dir, "model.gguf")
		source := openGGUF(t, in)
		for _, mix := range quantize.Mixes() {
			t.Run(golden.Name(dir)+"/"+mix.String(), func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "out.gguf")
				r, err := llama.Quantize(context.Background(), in, out, llama.QuantizeOptions{Rules: quantize.Rules{Mix: mix}, Workers: i % 4})
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

// TestQuantizeFolder: a Hugging Face folder becomes the tensors that the same model's GGUF
// file becomes.
func TestQuantizeFolder(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*") {
		tmp := t.TempDir()
		o := llama.QuantizeOptions{Rules: quantize.Rules{Mix: quantize.Q4_0}}
		var made [2]*gguf.File
		for i, in := range []string{"model.gguf", "hf"} {
			out := filepath.Join(tmp, in+".out")
			if _, err := llama.Quantize(context.Background(), filepath.Join(dir, in), out, o); err != nil {
				t.Fatal(err)
			}
			made[i] = openGGUF(t, out)
		}
		if a, b := len(made[0].Tensors()), len(made[1].Tensors()); a != b {
			t.Errorf("%s: %d tensors and %d", dir, a, b)
		}
		for _, x := range made[0].Tensors() {
			if !x.Type.Quantized() { // rope_freqs is computed
				continue
			}
			a, _, _ := ggufTensor(t, made[0], x.Name)
			b, _, _ := ggufTensor(t, made[1], x.Name)
			if !slices.Equal(a, b) {
				t.Errorf("%s: %s differs", dir, x.Name)
			}
		}
	}
}

// TestQuantizeImportance encodes with the mean squares of the importance matrix, and
// reports the error that they weigh.
func TestQuantizeImportance(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*") {
		in, out := filepath.Join(dir, "model.gguf"), filepath.Join(t.TempDir(), "out.gguf")
		m := open(t, in, llama.Options{})
		ids := make([]int32, 64)
		for i := range ids {
			ids[i] = int32(i * 7 % m.Config().Vocab)
		}
		im, err := m.Imatrix(context.Background(), ids, llama.ImatrixOptions{Context: 16})
		if err != nil {
			t.Fatal(err)
		}
		o := llama.QuantizeOptions{Rules: quantize.Rules{Mix: quantize.Q4_0, Pure: true}, Imatrix: im}
		r, err := llama.Quantize(context.Background(), in, out, o)
		if err != nil {
			t.Fatal(err)
		}
		source, made := openGGUF(t, in), openGGUF(t, out)
		if n, err := made.Uint("quantize.imatrix.entries_count"); err != nil || int(n) != len(im.Entries) {
			t.Errorf("%d entries are noted, %v", n, err)
		}
		for _, got := range r.Tensors {
			w := im.Entries[got.Name].Mean()
			if len(w) == 0 {
				if got.Weighted == got.Weighted {
					t.Errorf("%s: weighted error %v", got.Name, got.Weighted)
				}
				continue
			}
			_, x, _ := ggufTensor(t, source, got.Name)
			raw, y, info := ggufTensor(t, made, got.Name)
			want, cols := make([]byte, len(raw)), len(w)
			size := len(raw) * cols / len(x)
			square, norm := 0.0, 0.0
			for i := 0; i*cols < len(x); i++ {
				if err := block.EncodeRow(info.Type, want[i*size:][:size], x[i*cols:][:cols], w); err != nil {
					t.Fatal(err)
				}
				for j, v := range w {
					a, b := float64(x[i*cols+j]), float64(y[i*cols+j])
					square += float64(v) * (a - b) * (a - b)
					norm += float64(v) * a * a
				}
			}
			if !slices.Equal(raw, want) {
				t.Errorf("%s: %s differs", dir, got.Name)
			}
			if want := math.Sqrt(square / norm); math.Abs(got.Weighted-want) > 1e-12*want {
				t.Errorf("%s: weighted error %v, want %v", got.Name, got.Weighted, want)
			}
		}
		m.Close()
	}
}

// resumable is a file to quantise, and what becomes of it in one go.
type resumable struct {
	in, out string
	o       llama.QuantizeOptions
	want    []byte
	report  llama.QuantizeReport
}

func newResumable(t *testing.T) *resumable {
	t.Helper()
	tmp := t.TempDir()
	in := filepath.Join(tmp, "in.gguf")
	b, err := os.ReadFile(golden.Glob(t, "models/*/model.gguf")[0])
	if err == nil {
		err = os.WriteFile(in, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return resumableOf(t, in, filepath.Join(tmp, "out.gguf"))
}

// resumableOf makes the whole file once, to know it.
func resumableOf(t *testing.T, in, out string) *resumable {
	t.Helper()
	r := &resumable{in: in, out: out, o: llama.QuantizeOptions{Rules: quantize.Rules{Mix: quantize.Q8_0}}}
	var err error
	if r.report, err = llama.Quantize(context.Background(), r.in, r.out, r.o); err == nil {
		r.want, err = os.ReadFile(r.out)
	}
	if err = errors.Join(err, os.Remove(r.out)); err != nil {
		t.Fatal(err)
	}
	return r
}

// interrupt ends a run once a share of the input has been read.
func (r *resumable) interrupt(t *testing.T, share float64) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	some := r.o
	some.Progress = func(p llama.Progress) {
		if float64(p.Done) >= share*float64(p.Total) {
			stop()
		}
	}
	if _, err := llama.Quantize(ctx, r.in, r.out, some); !errors.Is(err, context.Canceled) {
		t.Fatalf("after the end of the context: %v", err)
	}
	if exists(r.out) || !exists(r.out+".partial") {
		t.Fatal("an interrupted run left a file at its place, or no folder beside")
	}
}

// finish runs to the end, and tells whether what was there before must have been used.
func (r *resumable) finish(t *testing.T, what string, o llama.QuantizeOptions, resumed bool) {
	t.Helper()
	report, err := llama.Quantize(context.Background(), r.in, r.out, o)
	if err != nil {
		t.Fatal(err)
	}
	if resumed != (report.Resumed > 0) || exists(r.out+".partial") {
		t.Errorf("%s: %d tensors were taken over; folder left: %v", what, report.Resumed, exists(r.out+".partial"))
	}
	if o.Mix == r.o.Mix {
		if got, err := os.ReadFile(r.out); err != nil || !slices.Equal(got, r.want) {
			t.Errorf("%s: the file differs, %v", what, err)
		}
		same := func(a, b llama.QuantizedTensor) bool { return a.RMSE == b.RMSE && a.Relative == b.Relative }
		if !slices.EqualFunc(report.Tensors, r.report.Tensors, same) {
			t.Errorf("%s: the report differs", what)
		}
	}
	if err := os.Remove(r.out); err != nil {
		t.Fatal(err)
	}
}

// TestQuantizeResumes: a run that ends after any part of its work leaves nothing at its
// place, and the next with the same settings makes the same file without doing all of it
// again; one with others, or after the input has changed, begins anew.
func TestQuantizeResumes(t *testing.T) {
	r := newResumable(t)
	for _, share := range []float64{0.2, 0.4, 0.6} {
		r.interrupt(t, share)
		r.finish(t, "again", r.o, true)
	}
	r.interrupt(t, 0.3)
	r.interrupt(t, 0.6)
	r.finish(t, "a third time", r.o, true)

	r.interrupt(t, 0.6)
	other := r.o
	other.Mix = quantize.Q4_0
	r.finish(t, "another mix", other, false)
	r.interrupt(t, 0.6)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(r.in, later, later); err != nil {
		t.Fatal(err)
	}
	r.finish(t, "a changed input", r.o, false)

	r.interrupt(t, 0.6) // what the disk lost is written again
	data := filepath.Join(r.out+".partial", "data")
	made, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	made[len(made)/2] ^= 1
	if err := os.WriteFile(data, made, 0o644); err != nil {
		t.Fatal(err)
	}
	r.finish(t, "damaged pieces", r.o, true)
}

// TestQuantizeResumesInFolder: a run goes on where the file is made in the folder that is
// read.
func TestQuantizeResumesInFolder(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		dir := copyFolder(t, base)
		r := resumableOf(t, dir, filepath.Join(dir, "out.gguf"))
		r.interrupt(t, 0.6)
		r.finish(t, "again", r.o, true)
	})
}

// TestQuantizeRefuses leaves nothing behind, and says which tensor is wrong.
func TestQuantizeRefuses(t *testing.T) {
	tmp := t.TempDir()
	models := golden.Glob(t, "models/*/model.gguf")
	in, out := models[0], filepath.Join(tmp, "out.gguf")
	whole, err := os.ReadFile(in)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(tmp, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m := open(t, models[len(models)-1], llama.Options{})
	im, err := m.Imatrix(context.Background(), make([]int32, 16), llama.ImatrixOptions{Context: 8})
	if err != nil {
		t.Fatal(err)
	}
	q8 := quantize.Rules{Mix: quantize.Q8_0}
	for says, c := range map[string]struct {
		in, out string
		o       llama.QuantizeOptions
	}{
		"Mix is":              {in, out, llama.QuantizeOptions{}},
		"matches no matrix":   {in, out, llama.QuantizeOptions{Rules: quantize.Rules{Mix: quantize.Q8_0, Keep: []quantize.Keep{{Pattern: "blk.99", Type: backend.F16}}}}},
		"Keep":                {in, out, llama.QuantizeOptions{Rules: quantize.Rules{Mix: quantize.Q8_0, Keep: []quantize.Keep{{Pattern: "blk", Type: backend.IQ1_S}}}}},
		"no such file":        {in, filepath.Join(tmp, "no", "out.gguf"), llama.QuantizeOptions{Rules: q8}},
		"is a folder":         {in, tmp, llama.QuantizeOptions{Rules: q8}},
		"is of another model": {in, out, llama.QuantizeOptions{Rules: q8, Imatrix: im}},
		"row ":                {write("nan.gguf", withNaN(t, in, whole, "blk.0.attn_q.weight")), out, llama.QuantizeOptions{Rules: q8}},
		"norm.weight":         {write("vector.gguf", withNaN(t, in, whole, "output_norm.weight")), out, llama.QuantizeOptions{Rules: q8}},
		"cut.gguf":            {write("cut.gguf", whole[:len(whole)-100]), out, llama.QuantizeOptions{Rules: q8}},
		"in the way":          {in, write("taken", nil), llama.QuantizeOptions{Rules: q8, Replace: true}},
		"is read":             {in, link(t, in, filepath.Join(tmp, "link.gguf")), llama.QuantizeOptions{Rules: q8, Replace: true}},
		"quantised already":   {quantised(t, in, filepath.Join(tmp, "q8.gguf")), out, llama.QuantizeOptions{Rules: q8}},
		"file already exists": {in, write("there.gguf", nil), llama.QuantizeOptions{Rules: q8}},
	} {
		if says == "in the way" {
			if err := os.MkdirAll(filepath.Join(c.out+".partial", "mine"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_, err := llama.Quantize(context.Background(), c.in, c.out, c.o)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		if says == "row " && !strings.Contains(err.Error(), "blk.0.attn_q.weight") {
			t.Errorf("%v does not name the tensor", err)
		}
		if exists(out) || exists(out+".partial") {
			t.Errorf("%q left something behind", says)
		}
	}
}

// withNaN is a file whose tensor of that name begins with a NaN.
func withNaN(t *testing.T, path string, whole []byte, name string) []byte {
	t.Helper()
	raw, _, info := ggufTensor(t, openGGUF(t, path), name)
	at := bytes.Index(whole, raw)
	bad := slices.Clone(whole)
	for i := range info.Type.BlockBytes() {
		bad[at+i] = 0xff
	}
	return bad
}

func link(t *testing.T, path, name string) string {
	t.Helper()
	if err := os.Symlink(path, name); err != nil {
		t.Skip(err)
	}
	return name
}

func quantised(t *testing.T, in, out string) string {
	t.Helper()
	if _, err := llama.Quantize(context.Background(), in, out, llama.QuantizeOptions{Rules: quantize.Rules{Mix: quantize.Q8_0}}); err != nil {
		t.Fatal(err)
	}
	return out
}
