package kernel

import (
	"fmt"
	"testing"

	"github.com/herd-ml/herd/backend"
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
	benchmark(b, 4*k*Panel, k, func(s *Set, rows int) { s.F32(out, Panel, x, k+16, w, Panel, rows, k, false) })
}

func BenchmarkF16(b *testing.B) {
	const k = 4096
	out, x, w := make([]float32, MaxRows*Panel), make([]float32, MaxRows*(k+16)), make([]uint16, k*Panel)
	benchmark(b, 2*k*Panel, k, func(s *Set, rows int) { s.F16(out, Panel, x, k+16, w, Panel, rows, k, false) })
}

func BenchmarkBF16(b *testing.B) {
	const k = 4096
	out, x, w := make([]float32, MaxRows*Panel), make([]float32, MaxRows*(k+16)), make([]uint16, k*Panel)
	benchmark(b, 2*k*Panel, k, func(s *Set, rows int) { s.BF16(out, Panel, x, k+16, w, Panel, rows, k, false) })
}

func BenchmarkFormat(b *testing.B) {
	const k = 1024 // what MatMul unpacks at once
	for _, typ := range backend.DTypes() {
		if f := Best().Format(typ); f != nil {
			b.Run(typ.String(), func(b *testing.B) { benchmarkFormat(b, typ, k) })
		}
	}
}

// benchmarkFormat unpacks a part of a panel and multiplies rows with it: one
// row is a decode step, where unpacking counts, 96 are a prefill.
func benchmarkFormat(b *testing.B, typ backend.DType, k int) {
	for _, v := range Variants() {
		if v.Set == nil || v.Set.Format(typ) == nil {
			continue
		}
		f := v.Set.Format(typ)
		src, codes, scales := make([]byte, k/f.Block*f.Bytes), make([]byte, k*Panel), make([]float32, f.Scales(k))
		for _, rows := range []int{1, 4, 12, 96} {
			b.Run(fmt.Sprintf("%s/%d", v.Name, rows), func(b *testing.B) {
				b.SetBytes(int64(len(src)))
				out, x, meta := make([]float32, rows*Panel), make([]int8, rows*(k+64)), make([]Meta, rows*k/f.Sub)
				var c Call
				for b.Loop() {
					f.Unpack(codes, scales, src, k)
					f.Product(&c, 1, out, Panel, x, k+64, meta, k/f.Sub, codes, scales, rows, k, false)
				}
				b.ReportMetric(float64(b.N)*2*Panel*float64(k*rows)/b.Elapsed().Seconds()/1e9, "GOP/s")
			})
		}
		if f.Panels() < 2 {
			continue
		}
		const rows = 96
		b.Run(v.Name+"/pair", func(b *testing.B) {
			out, x, meta := make([]float32, rows*2*Panel), make([]int8, rows*(k+64)), make([]Meta, rows*k/f.Sub)
			var c Call
			for b.Loop() { // two panels of half the inputs
				f.Product(&c, 2, out, 2*Panel, x, k+64, meta, k/f.Sub, codes, scales, rows, k/2, false)
			}
			b.ReportMetric(float64(b.N)*2*Panel*float64(k*rows)/b.Elapsed().Seconds()/1e9, "GOP/s")
		})
	}
}

func BenchmarkRoundI8(b *testing.B) {
	const k = 4096
	x, codes, d, sums := make([]float32, k), make([]int8, k), make([]float32, k/32), make([]int32, k/sumLen)
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
				v.Set.RoundI8(codes, d, sums, x, 32)
			}
		})
	}
}

func BenchmarkPeak(b *testing.B) {
	for _, v := range Variants() {
		if v.Set == nil {
			continue
		}
		for name, peak := range map[string]func() (Peak, bool){"F32": v.Set.PeakF32, "Int8": v.Set.PeakInt8} {
			if p, ok := peak(); ok {
				b.Run(v.Name+"/"+name, func(b *testing.B) {
					for b.Loop() {
						p.Run(1000)
					}
					b.ReportMetric(float64(b.N)*1000*float64(p.Ops)/b.Elapsed().Seconds()/1e9, "GOP/s")
				})
			}
		}
	}
}
