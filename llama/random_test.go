package llama

import (
	"bytes"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/nn"
)

// TestRandomRows: random rows are small numbers of any type that weights have, and do not
// depend on how many are read at once.
func TestRandomRows(t *testing.T) {
	for _, typ := range backend.DTypes() {
		if !typ.Float() && !typ.Quantized() {
			continue
		}
		const rows, cols = 70, 256
		src, err := randomSource("w", typ, rows, cols, 3)
		if err != nil {
			t.Fatal(err)
		}
		size, err := typ.RowBytes(cols)
		if err != nil {
			t.Fatal(err)
		}
		read := func(some int) []byte {
			all := make([]byte, rows*int(size))
			for row := 0; row < rows; row += some {
				n := min(some, rows-row)
				if err := src.ReadRows(all[row*int(size):][:n*int(size)], row, n); err != nil {
					t.Fatal(err)
				}
			}
			return all
		}
		want := read(rows)
		values := make([]float32, rows*cols)
		block.DecodeRows(typ, values, want, cols)
		if low, high := slices.Min(values), slices.Max(values); !(-8 < low && low < high && high < 8) {
			t.Errorf("%v: weights from %g to %g", typ, low, high)
		}
		for _, some := range []int{1, 7, 16, 48} {
			if !bytes.Equal(read(some), want) {
				t.Errorf("%v: rows read %d at a time differ from all at once", typ, some)
			}
		}
		for r := 1; r < rows; r++ {
			if bytes.Equal(want[r*int(size):][:size], want[(r-1)*int(size):][:size]) {
				t.Errorf("%v: rows %d and %d are equal", typ, r-1, r)
			}
		}
	}
}

// TestRandomE4M3: a model of 8-bit floats with row scales gives the oracle's logits.
func TestRandomE4M3(t *testing.T) {
	c := Config{
		Layers: 2, Dim: 48, Heads: 3, KVHeads: 1, HeadDim: 16, HiddenDim: 80, Vocab: 90, Context: 64,
		NormEps: 1e-5, RopeTheta: 10000,
	}
	var logits [2][]float32
	for i, b := range []backend.Backend{nil, ref.New()} {
		m, err := NewRandom(t.Context(), c, backend.E4M3, Options{Backend: b})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if w := m.net.Layers[0].FFN.Up.Weight.Weight(); w.Type() != backend.E4M3 {
			t.Errorf("weights are %v", w.Type())
		}
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if logits[i], err = s.Logits(t.Context(), []int32{5, 1, 88, 40}); err != nil {
			t.Fatal(err)
		}
	}
	if d, at := golden.MaxRelative(logits[0], logits[1]); !(d <= golden.F32Logits) {
		t.Errorf("logit %d is %g, the oracle's %g", at, logits[0][at], logits[1][at])
	}
}

// TestRandomWorkers: the weights of a random model do not depend on the number of
// goroutines that pack them.
func TestRandomWorkers(t *testing.T) {
	c := Config{
		Layers: 1, Dim: 256, Heads: 4, KVHeads: 2, HeadDim: 64, HiddenDim: 768, Vocab: 5000, Context: 64,
		NormEps: 1e-5, RopeTheta: 10000,
	}
	var want map[string][]byte
	for _, workers := range []int{1, 2, 5} {
		b, err := cpu.New(cpu.Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		m, err := NewRandom(t.Context(), c, backend.Q8_0, Options{Backend: b})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][]byte{}
		for _, p := range nn.Params(m.net) {
			if w := p.Param.Weight(); w != nil {
				size, err := w.Type().RowBytes(int64(w.Cols()))
				if err != nil {
					t.Fatal(err)
				}
				got[p.Name] = make([]byte, w.Rows()*int(size))
				w.Unpack(got[p.Name], 0, w.Rows())
			}
		}
		if want == nil {
			want = got
		}
		if len(got) < 8 {
			t.Fatalf("%d weights", len(got))
		}
		if len(got) != len(want) {
			t.Fatalf("%d workers: %d weights, want %d", workers, len(got), len(want))
		}
		for name, w := range want {
			if !bytes.Equal(got[name], w) {
				t.Errorf("%s packed with %d workers differs from 1", name, workers)
			}
		}
		m.Close()
		b.Close()
	}
}
