package llama_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
)

func logits(t testing.TB, s *llama.Session, ids []int32) []float32 {
	t.Helper()
	x, err := s.Logits(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func save(t testing.TB, s *llama.Session) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "session")
	if err := s.Save(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSaveAndLoad: a session that goes on from a file, of the same model or of another one
// of the same weights, holds the ids and gives the bits that it has without, in every type
// of keys and values and around the ends of pages; saved again it is the same file.
func TestSaveAndLoad(t *testing.T) {
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		t.Run(golden.Name(path), func(t *testing.T) {
			for _, kv := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
				o := llama.Options{KVType: kv}
				if _, err := llama.Estimate(path, o); errors.Is(err, llama.ErrUnsupported) {
					continue // heads that the type cannot hold
				}
				m, other := open(t, path, o), open(t, path, o)
				ids := randomIDs(m.Config(), 140)
				for _, n := range []int{1, 63, 64, 65, 130} {
					s := session(t, m)
					logits(t, s, ids[:n])
					file := save(t, s)
					want := logits(t, s, ids)
					for _, to := range []*llama.Model{m, other} {
						l := session(t, to)
						logits(t, l, ids[100:])
						if err := l.Load(t.Context(), file); err != nil {
							t.Fatalf("%v, %d positions: %v", kv, n, err)
						}
						if !slices.Equal(l.IDs(), ids[:n]) {
							t.Fatalf("%v: %d ids become %v", kv, n, l.IDs())
						}
						again := save(t, l)
						before := l.Usage().PrefillTokens
						if got := logits(t, l, ids); !slices.Equal(got, want) {
							t.Errorf("%v, %d positions: other logits than without the file", kv, n)
						}
						if computed := l.Usage().PrefillTokens - before; computed > len(ids)-n {
							t.Errorf("%v: of %d tokens after %d in the file %d are computed", kv, len(ids)-n, n, computed)
						}
						if !bytes.Equal(readFile(t, file), readFile(t, again)) {
							t.Errorf("%v, %d positions: saved again it is another file", kv, n)
						}
					}
				}
			}
		})
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLoadShares: pages of a file are shared as those that were computed are, and of what is
// there already none are made.
func TestLoadShares(t *testing.T) {
	path, ids := tiny(t, 200)
	s := session(t, open(t, path, llama.Options{}))
	want := logits(t, s, ids)
	file := save(t, s)
	m := open(t, path, llama.Options{})
	l := session(t, m)
	if err := l.Load(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	other := session(t, m)
	if got := logits(t, other, ids); !slices.Equal(got, want) {
		t.Error("other logits than where the pages were computed")
	}
	if n := other.Usage().ReusedTokens; n != 192 {
		t.Errorf("%d tokens of 192 in whole pages come from the file", n)
	}
}

// flipped is a file with one bit changed.
func flipped(file []byte, bit int) []byte {
	b := bytes.Clone(file)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

// header is a file with something else in its header, and the checksum that belongs to it.
func header(t *testing.T, file []byte, from, to string) []byte {
	t.Helper()
	n := binary.LittleEndian.Uint32(file[12:])
	text := strings.Replace(string(file[16:16+n]), from, to, 1)
	if text == string(file[16:16+n]) {
		t.Fatalf("%q is not in the header %q", from, text)
	}
	b := binary.LittleEndian.AppendUint32(bytes.Clone(file[:12]), uint32(len(text)))
	b = append(append(b, text...), file[16+n:len(file)-sha256.Size]...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// TestLoadDamaged: what is not the whole of what Save wrote is refused with a *FileError,
// and the session holds what it held.
func TestLoadDamaged(t *testing.T) {
	file := smallest(t)
	m, err := llama.OpenReader(t.Context(), bytes.NewReader(file), int64(len(file)), "smallest", llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s := session(t, m)
	logits(t, s, []int32{1, 3, 3})
	good := readFile(t, save(t, s))
	dir := t.TempDir()
	refused := func(name string, b []byte, damaged bool, want ...string) {
		t.Helper()
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.Load(t.Context(), path)
		var of *llama.FileError
		if !errors.As(err, &of) || of.File != path {
			t.Fatalf("%s: %v, want an error of the file", name, err)
		}
		if errors.Is(err, vfs.ErrDamaged) != damaged {
			t.Errorf("%s: %v is damage: %v, want %v", name, err, !damaged, damaged)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", name, err, w)
			}
		}
		if ids := s.IDs(); !slices.Equal(ids, []int32{1, 3, 3}) {
			t.Fatalf("%s: the session holds %v now", name, ids)
		}
	}
	for n := range good {
		refused(fmt.Sprintf("the first %d bytes", n), good[:n], true)
	}
	refused("a byte more", append(bytes.Clone(good), 0), true)
	refused("all twice", append(bytes.Clone(good), good...), true)
	head := 16 + int(binary.LittleEndian.Uint32(good[12:]))
	for bit := 8 * head; bit < 8*len(good); bit += 3 {
		refused(fmt.Sprintf("bit %d", bit), flipped(good, bit), true)
	}
	for bit := 0; bit < 8*head; bit += 5 { // of a header, any reason is good
		b := flipped(good, bit)
		if err := os.WriteFile(filepath.Join(dir, "bad"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Load(t.Context(), filepath.Join(dir, "bad")); err == nil {
			t.Errorf("bit %d of the header: loaded", bit)
		}
	}
	refused("a model", file, false, "no saved session", "GGUF")
	refused("a text", bytes.Repeat([]byte("x"), 100), false, "no saved session")
	refused("another version", flipped(good, 8*8+1), false, "version 3, want 1")
	refused("a long header", flipped(good, 8*15+7), true, "header")
	for _, n := range []string{"-1", "2", "4", "4611686018427387904", "9223372036854775807"} {
		refused(n+" positions", header(t, good, `"positions":3`, `"positions":`+n), true)
	}
	refused("positions that are no number", header(t, good, `"positions":3`, `"positions":"a"`), true, "whole number")
	for _, c := range [][3]string{
		{`"layers":1`, `"layers":9`, "layers 9, not 1"}, {`"type":"F32"`, `"type":"F16"`, "F16"},
		{`"precision":"auto"`, `"precision":"f32"`, "precision f32"}, {`"device":"`, `"device":"x`, "device x"},
		{`"variant":"`, `"variant":"` + strings.Repeat("v", 1000), "kernels v"}, {`"heads":1`, `"heads":2`, "heads 2"},
		{`"head_dim":2`, `"head_dim":4`, "head size 4"}, {`"model":"`, `"model":"x`, "other weights"},
	} {
		refused(c[2], header(t, good, c[0], c[1]), false, c[2])
	}
	if err := s.Load(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := s.Load(t.Context(), dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder: %v", err)
	}
}

// writeAdapter writes an adapter of one matrix that changes what a model says, by a number.
func writeAdapter(t *testing.T, c llama.Config, by float32) string {
	t.Helper()
	a, b := make([]float32, c.Dim), make([]float32, c.KVHeads*c.HeadDim)
	for i := range a {
		a[i] = by * float32(i%7-3)
	}
	for i := range b {
		b[i] = float32(i%5-2) / 4
	}
	dir := filepath.Join(t.TempDir(), "adapter")
	err := peft.Write(dir, peft.Config{Rank: 1, Alpha: 1, Targets: []string{"v_proj"}}, []peft.Module{
		{Name: "model.layers.0.self_attn.v_proj", A: peft.Tensor(a, 1, c.Dim), B: peft.Tensor(b, len(b), 1)}})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLoadOfAnotherModel: a file is refused by a model with one other bit in one weight, with
// other settings, kernels or adapters, and by a session that is too short for it.
func TestLoadOfAnotherModel(t *testing.T) {
	path, ids := tiny(t, 70)
	m := open(t, path, llama.Options{})
	s := session(t, m)
	logits(t, s, ids)
	file := save(t, s)
	refused := func(name string, m *llama.Model, why error) {
		t.Helper()
		if err := withAdapters(t, m, nil).Load(t.Context(), file); !errors.Is(err, why) {
			t.Errorf("%s: %v, want %v", name, err, why)
		}
	}
	refused("a short session", open(t, path, llama.Options{Context: 69}), llama.ErrContextFull)
	refused("another type of keys", open(t, path, llama.Options{KVType: backend.BF16}), llama.ErrOtherModel)
	refused("another precision", open(t, path, llama.Options{Precision: llama.PrecisionBF16}), llama.ErrOtherModel)
	b, err := cpu.New(cpu.Options{Variant: "generic"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Describe().Variant != cpu.Default().Describe().Variant {
		refused("other kernels", open(t, path, llama.Options{Backend: b}), llama.ErrOtherModel)
	}
	p := takeApart(t, path)
	for _, part := range []int{0, len(p.tensors) / 2, len(p.tensors) - 1} {
		p := takeApart(t, path)
		data, err := io.ReadAll(p.tensors[part].data)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)-1-len(data)%2] ^= 1
		p.tensors[part].data = bytes.NewReader(data)
		refused("a bit of "+p.tensors[part].name, open(t, p.write(t), llama.Options{}), llama.ErrOtherModel)
	}

	adapter := writeAdapter(t, m.Config(), 1)
	with := open(t, path, llama.Options{Adapters: []llama.Adapter{{Path: adapter}}})
	refused("an adapter", with, llama.ErrOtherModel)
	l := session(t, with)
	logits(t, l, ids)
	file = save(t, l)
	refused("no adapter", open(t, path, llama.Options{}), llama.ErrOtherModel)
	refused("another scale", open(t, path, llama.Options{Adapters: []llama.Adapter{{Path: adapter, Scale: 0.5}}}), llama.ErrOtherModel)
	if err := session(t, open(t, path, llama.Options{Adapters: []llama.Adapter{{Path: adapter}}})).Load(t.Context(), file); err != nil {
		t.Errorf("the same adapter: %v", err)
	}
}

// TestSaveOfTrained: positions of weights that have changed are not saved, and those of a
// file are not loaded after a change.
func TestSaveOfTrained(t *testing.T) {
	path, ids := tiny(t, 70)
	m := open(t, path, llama.Options{})
	s := session(t, m)
	logits(t, s, ids)
	file := save(t, s)
	if err := m.AddAdapter(t.Context(), peft.Config{Rank: 2, Alpha: 2, Targets: []string{"q_proj"}}, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), file); !errors.Is(err, llama.ErrStale) {
		t.Errorf("saving after a change: %v, want ErrStale", err)
	}
	if err := s.Load(t.Context(), file); !errors.Is(err, llama.ErrOtherModel) {
		t.Errorf("loading after a change: %v, want ErrOtherModel", err)
	}
	logits(t, s, ids)
	if err := s.Load(t.Context(), save(t, s)); err != nil {
		t.Error(err)
	}
}

// TestSaveKeepsTheOld: where saving fails, by its context for one, the file is what it was
// and nothing lies beside it.
func TestSaveKeepsTheOld(t *testing.T) {
	path, ids := tiny(t, 70)
	s := session(t, open(t, path, llama.Options{}))
	logits(t, s, ids)
	file := save(t, s)
	want := readFile(t, file)
	logits(t, s, ids[:5])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Save(ctx, file); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
	if err := s.Load(ctx, file); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 || !bytes.Equal(readFile(t, file), want) {
		t.Errorf("%v beside the file, or it has changed: %v", entries, err)
	}
	if err := s.Save(t.Context(), filepath.Join(file, "below")); err == nil {
		t.Error("saved below a file")
	}
}

// FuzzLoad loads damaged sessions.
func FuzzLoad(f *testing.F) {
	file := smallest(f)
	b, err := cpu.New(cpu.Options{Workers: 1, Variant: "generic"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { b.Close() })
	m, err := llama.OpenReader(context.Background(), bytes.NewReader(file), int64(len(file)), "smallest", llama.Options{Backend: b, Context: 100})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { m.Close() })
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []int{1, 70} {
		logits(f, s, slices.Repeat([]int32{3}, n))
		f.Add(readFile(f, save(f, s)), false)
	}
	path := filepath.Join(f.TempDir(), "session")
	f.Fuzz(func(t *testing.T, file []byte, sign bool) {
		if n := len(file) - sha256.Size; n >= 0 && sign { // what is damaged may be signed
			sum := sha256.Sum256(file[:n])
			copy(file[n:], sum[:])
		}
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Load(t.Context(), path); err == nil && s.Len() > 0 && s.Len() < s.Context() {
			logits(t, s, append(s.IDs(), 1))
		}
	})
}
