package tensor_test

import (
	"math"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// TestOptimizer: AdamW changes what the layers read, of vectors and of matrices, whose
// version it moves; SumSquares adds up.
func TestOptimizer(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const rows, cols = 3, 5
		w, g := random(rows*cols), random(rows*cols)
		grad := vector(t, b, g, 1).Value().View()
		grad = backend.Contiguous(grad.Buf, backend.F32, grad.Off, backend.Dims(rows, cols))
		numbers := vector(t, b, w, 1).Value().View()
		numbers = backend.Contiguous(numbers.Buf, backend.F32, numbers.Off, backend.Dims(rows, cols))
		f, err := b.Float("w", numbers)
		if err != nil {
			t.Fatal(err)
		}
		p := tensor.NewParam(rows, cols)
		p.BindMatrix(f, numbers)
		if p.Grad().Present() {
			t.Error("a parameter without a gradient has one")
		}
		p.BindGrad(grad)
		buf, err := b.Alloc(2 * 4 * rows * cols)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(buf.Free)
		m, v := backend.Contiguous(buf, backend.F32, 0, p.Shape), backend.Contiguous(buf, backend.F32, rows*cols, p.Shape)
		s := backend.AdamWArgs{LR: 0.1, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Scale: 1, Correct1: 0.1, Correct2: 0.05}
		alone(t, b, func(c *tensor.Context) {
			square := 0.0
			for _, x := range g {
				square += float64(x) * float64(x)
			}
			compare(t, "SumSquares", read(c, tensor.SumSquares(c, p.Grad())), []number{relative(square, 4)})
			tensor.AdamW(c, p, m, v, s)
		})
		if f.Version() != 1 {
			t.Errorf("version %d after one change", f.Version())
		}
		got := make([]float32, cols)
		f.Tile(got, 1, 1, 0, cols)
		for i, x := range got { // the first step is of size LR
			if want := float64(w[cols+i]) - 0.1*math.Copysign(1, float64(g[cols+i])); math.Abs(float64(x)-want) > 1e-5 {
				t.Errorf("element %d is %g, want %g", i, x, want)
			}
		}
	})
}
