package kernel

import (
	"math"

	"github.com/herd-ml/herd/backend/block"
)

func f32Generic(out []float32, outStride int, x []float32, xStride int, w []float32, wStride, _, rows, k int, accumulate bool) {
	same := func(w []float32) [Panel]float32 { return [Panel]float32(w) }
	productGeneric(same, out, outStride, x, xStride, w, wStride, rows, k, accumulate)
}

func f16Generic(out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, _, rows, k int, accumulate bool) {
	widen := func(w []uint16) (y [Panel]float32) { block.DecodeF16(y[:], w[:Panel]); return y }
	productGeneric(widen, out, outStride, x, xStride, w, wStride, rows, k, accumulate)
}

func bf16Generic(out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, _, rows, k int, accumulate bool) {
	widen := func(w []uint16) (y [Panel]float32) { block.DecodeBF16(y[:], w[:Panel]); return y }
	productGeneric(widen, out, outStride, x, xStride, w, wStride, rows, k, accumulate)
}

// bf16PairsGeneric takes the inputs of a pair one after the other.
func bf16PairsGeneric(out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, _, rows, k int, accumulate bool) {
	for i := range 2 * k {
		widen := func(w []uint16) (y [Panel]float32) {
			for j := range y {
				y[j] = block.BF16ToF32(w[2*j])
			}
			return y
		}
		productGeneric(widen, out, outStride, x[i:], xStride, w[i/2*wStride+i%2:], wStride, rows, 1, accumulate || i > 0)
	}
}

// productGeneric widens the weights of one input at a time, for all rows. The
// conversion of the product keeps the compiler from fusing it with the sum, so
// that all platforms give the same bits.
func productGeneric[W float32 | uint16](widen func([]W) [Panel]float32, out []float32, outStride int, x []float32, xStride int, w []W, wStride, rows, k int, accumulate bool) {
	clearRows(out, outStride, rows, Panel, accumulate)
	for i := range k {
		wi := widen(w[i*wStride:])
		for r := range rows {
			acc, v := (*[Panel]float32)(out[r*outStride:]), x[r*xStride+i]
			for j := range acc {
				acc[j] += float32(v * wi[j])
			}
		}
	}
}

func roundI8Generic(codes []int8, d []float32, sums []int32, x []float32, group int) {
	clear(codes[:len(x)])
	clear(sums[:len(x)/sumLen])
	for g := range len(x) / group {
		m := uint32(0) // bits of absolute values order as integers, NaN above infinity
		for _, v := range x[g*group:][:group] {
			m = max(m, math.Float32bits(v)&^(1<<31))
		}
		largest := math.Float32frombits(m)
		scale := 127 / largest
		switch {
		case !(largest <= math.MaxFloat32):
			d[g] = float32(math.NaN())
			continue
		case scale > math.MaxFloat32:
			d[g] = 0
			continue
		}
		d[g] = largest / 127
		for i := g * group; i < (g+1)*group; i++ {
			codes[i] = int8(math.RoundToEven(float64(x[i] * scale)))
			sums[i/sumLen] += int32(codes[i])
		}
	}
}
