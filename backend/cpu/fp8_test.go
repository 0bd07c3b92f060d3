package cpu

import (
	"context"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/internal/golden"
)

// TestGoldenFP8: products of rows rounded to E4M3 with weights of E4M3, and a
// feed-forward layer of them, are those of the reference.
func TestGoldenFP8(t *testing.T) {
	backends := map[string]backend.Backend{"ref": ref.New()}
	for _, v := range kernel.Variants() {
		if v.Err == nil {
			backends[v.Name] = open(t, Options{Variant: v.Name, Workers: 2})
		}
	}
	for name, b := range backends {
		cases := 0
		for _, path := range golden.Glob(t, "multimodal/fp8/matmul.safetensors") {
			file := golden.Safetensors(t, path)
			for key, want := range file {
				which, ok := strings.CutSuffix(key, ".y")
				if !ok {
					continue
				}
				cases++
				w := e4m3(t, b, file[which+".w"])
				got := fp8(t, b, backend.MatMul, file[which+".x"].F32, w)
				for n := want.Shape[1]; len(got) > 0; got, want.F32 = got[n:], want.F32[n:] {
					if d, at := golden.MaxRelative(got[:n], want.F32[:n]); !(d <= 1e-5) && !nan(got[:n], want.F32[:n]) {
						t.Errorf("%s, %s: %g, want %g", name, which, got[at], want.F32[at])
					}
				}
			}
		}
		for _, path := range golden.Glob(t, "multimodal/fp8/ffn.safetensors") {
			cases++
			file := golden.Safetensors(t, path)
			z := fp8(t, b, backend.MatMulSwiGLU, file["x"].F32, e4m3(t, b, file["w1"]), e4m3(t, b, file["w3"]))
			y := fp8(t, b, backend.MatMul, z, e4m3(t, b, file["w2"]))
			// A code that noise moves over a border is 6 % of one value.
			if d, at := golden.MaxRelative(y, file["y_float_steps"].F32); !(d <= 3e-3) {
				t.Errorf("%s: y[%d] of the feed-forward layer is off by %g of the largest", name, at, d)
			}
		}
		if cases < 7 {
			t.Errorf("%s: %d cases", name, cases)
		}
	}
}

// nan reports whether two rows are NaN throughout.
func nan(a, b []float32) bool {
	for i := range a {
		if a[i] == a[i] || b[i] == b[i] {
			return false
		}
	}
	return true
}

// e4m3 packs a matrix rounded to E4M3.
func e4m3(t *testing.T, b backend.Backend, m golden.Tensor) backend.Weight {
	t.Helper()
	rows, cols := m.Shape[0], m.Shape[1]
	w, err := b.Pack(t.Context(), backend.WeightSource{Name: "w", Type: backend.E4M3, Rows: rows, Cols: cols,
		ReadRows: func(dst []byte, row, n int) error {
			for ; n > 0; dst, row, n = dst[4+cols:], row+1, n-1 {
				block.EncodeE4M3(dst[:4+cols], m.F32[row*cols:][:cols])
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Free)
	return w
}

// fp8 multiplies rows, rounded to E4M3, with weights.
func fp8(t *testing.T, b backend.Backend, op backend.Op, x []float32, ws ...backend.Weight) []float32 {
	t.Helper()
	e, err := b.NewExec()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	rows := len(x) / ws[0].Cols()
	y := make([]float32, rows*ws[0].Rows())
	err = backend.Step(context.Background(), e, func() error {
		a := backend.Args{Round: backend.RoundToE4M3}
		copy(a.W[:], ws)
		a.In[0], a.Out[0] = e.Alloc(backend.F32, backend.Dims(rows, ws[0].Cols())), e.Alloc(backend.F32, backend.Dims(rows, ws[0].Rows()))
		e.Write(a.In[0], x)
		e.Run(op, &a)
		e.Read(y, a.Out[0])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return y
}
