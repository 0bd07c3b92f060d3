package nn

import (
	"context"
	"math/rand/v2"
	"runtime"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/tensor"
)

// maskRows are the rows of a mask that are on the host at once.
const maskRows = 256

// dropout returns x [R,in] with each element made zero with probability p = Dropout. It
// multiplies the others by 1/(1-p), so that the mean stays
// (https://arxiv.org/abs/1207.0580). The step's noise, the layer and the row's place in the
// layout decide which elements are zero; the number of rows computed at once does not.
// Without noise dropout returns x.
func (l *LoRA) dropout(c *tensor.Context, x *tensor.Tensor, rows *tensor.Rows) *tensor.Tensor {
	if l.Dropout == 0 || c.Noise() == 0 {
		return x
	}
	mask := c.New(backend.F32, x.Shape())
	in := x.Cols()
	limit := uint32(float64(l.Dropout) * (1 << 32))
	keep := float32(1 / (1 - float64(l.Dropout)))
	host := make([]float32, min(maskRows, x.Rows())*in)
	for first := 0; first < x.Rows(); first += maskRows {
		n := min(maskRows, x.Rows()-first)
		_ = parallel.Ranges(context.Background(), runtime.GOMAXPROCS(0), n, maskRows/8, func(_, from, to int) error {
			for r := from; r < to; r++ {
				draw(host[r*in:(r+1)*in], rand.NewPCG(c.Noise()^l.Stream, uint64(rows.At(first+r))), limit, keep)
			}
			return nil
		})
		c.Write(tensor.SliceRows(c, mask, first, n), host[:n*in])
	}
	return tensor.Mul(c, x, mask)
}

// draw fills a row of a mask: zero for numbers of 32 bits below limit, keep else.
func draw(row []float32, rng *rand.PCG, limit uint32, keep float32) {
	for i := 0; i < len(row); i += 2 {
		x := rng.Uint64()
		for k := i; k < min(i+2, len(row)); k++ {
			row[k] = keep
			if uint32(x) < limit {
				row[k] = 0
			}
			x >>= 32
		}
	}
}
