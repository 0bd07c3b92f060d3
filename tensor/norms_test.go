package tensor_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/tensor"
)

// TestRowNorms: norms of rows, and what 1 divided by those of changed rows is, written to a
// parameter.
func TestRowNorms(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const rows, cols, rank, scale = 5, 37, 2, -0.5
		w, a, f := random(rows*cols), random(rank*cols), random(rows*rank)
		var norms, changed, inverse []number
		for n := range rows {
			square, other := 0.0, 0.0
			for k := range cols {
				x := float64(w[n*cols+k])
				square += x * x
				for r := range rank {
					x += scale * float64(f[n*rank+r]) * float64(a[r*cols+k])
				}
				other += x * x
			}
			norms = append(norms, relative(math.Sqrt(square), 4))
			changed = append(changed, relative(math.Sqrt(other), 64))
			inverse = append(inverse, relative(1/math.Sqrt(other), 64))
		}
		pw, to := matrix(b, w, rows, cols), vector(t, b, make([]float32, rows), 1)
		alone(t, b, func(c *tensor.Context) {
			compare(t, "norms", read(c, tensor.RowNorms(c, pw, nil, nil, 0)), norms)
			pa, pf := matrix(b, a, rank, cols), matrix(b, f, rows, rank)
			compare(t, "changed", read(c, tensor.RowNorms(c, pw, pa, pf, scale)), changed)
			tensor.InverseRowNorms(c, to, pw, pa, pf, scale)
			compare(t, "inverse", read(c, to.Value()), inverse)
		})
	})
}

func ExampleRowNorms() {
	w := matrix(cpu.Default(), []float32{3, 4, 0, 0}, 2, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		fmt.Println(read(c, tensor.RowNorms(c, w, nil, nil, 0)))
	})
	// Output: [5 0]
}

func ExampleInverseRowNorms() {
	b := cpu.Default()
	w, to := matrix(b, []float32{3, 0, 0, 1}, 2, 2), values(b, 0, 0)
	first, second := matrix(b, []float32{0, 2}, 1, 2), matrix(b, []float32{4, 0}, 2, 1)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tensor.InverseRowNorms(c, to, w, first, second, 0.5) // of [3 4] and [0 1]
		fmt.Println(read(c, to.Value()))
	})
	// Output: [0.2 1]
}
