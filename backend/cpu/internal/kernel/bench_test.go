package kernel

import (
	"fmt"
	"testing"
)

// The benchmarks multiply one row, some rows and a full tile by a panel of 4096
// inputs, which stays in the second-level cache, and report 10^9 operations a
// second (two for a product) and, as MB/s, how fast the panel is read. Rows are
// a cache line longer than k: rows a power of two apart compete for the same
// lines of the first-level cache.

func benchmark(b *testing.B, panel int64, k int, call func(s *Set, rows int)) {
	for _, v := range Variants() {
		if v.Set == nil {
			continue
		}
		for _, rows := range []int{1, 4, MaxRows} {
			b.Run(fmt.Sprintf("%s/%d", v.Name, rows), func(b *testing.B) {
				b.SetBytes(panel)
				for b.Loop() {
					call(v.Set, rows)
				}
				b.ReportMetric(float64(b.N)*2*Panel*float64(k*rows)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

func BenchmarkF32(b *testing.B) {
	const k = 4096
	out, x, w := make([]float32, MaxRows*Panel), make([]float32, MaxRows*(k+16)), make([]float32, k*Panel)
	benchmark(b, 4*k*Panel, k, func(s *Set, rows int) { s.F32(out, Panel, x, k+16, w, rows, k, false) })
}

func BenchmarkF16(b *testing.B) {
	const k = 4096
	out, x, w := make([]float32, MaxRows*Panel), make([]float32, MaxRows*(k+16)), make([]uint16, k*Panel)
	benchmark(b, 2*k*Panel, k, func(s *Set, rows int) { s.F16(out, Panel, x, k+16, w, rows, k, false) })
}

func BenchmarkBF16(b *testing.B) {
	const k = 4096
	out, x, w := make([]float32, MaxRows*Panel), make([]float32, MaxRows*(k+16)), make([]uint16, k*Panel)
	benchmark(b, 2*k*Panel, k, func(s *Set, rows int) { s.BF16(out, Panel, x, k+16, w, rows, k, false) })
}

func BenchmarkQ8_0(b *testing.B) {
	const k, blocks = 4096, 4096 / blockLen
	out, xd, w := make([]float32, MaxRows*Panel), make([]float32, MaxRows*blocks), make([]byte, blocks*Q8Bytes)
	xq, xsum := make([]int8, MaxRows*(k+64)), make([]int32, MaxRows*2*blocks)
	benchmark(b, blocks*Q8Bytes, k, func(s *Set, rows int) {
		s.Q8_0(out, Panel, xq, k+64, xd, blocks, xsum, 2*blocks, w, rows, blocks, false)
	})
}

func BenchmarkRoundI8(b *testing.B) {
	const k = 4096
	x, codes, d, sums := make([]float32, k), make([]int8, k), make([]float32, k/blockLen), make([]int32, k/sumLen)
	for i := range x {
		x[i] = float32(i%100) - 50
	}
	for _, v := range Variants() {
		if v.Set == nil {
			continue
		}
		b.Run(v.Name, func(b *testing.B) {
			b.SetBytes(4 * k)
			for b.Loop() {
				v.Set.RoundI8(codes, d, sums, x, blockLen)
			}
		})
	}
}
