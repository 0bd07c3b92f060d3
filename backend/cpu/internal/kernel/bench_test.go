package kernel

import (
	"fmt"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// The benchmarks multiply one row, some rows and full tiles by panels of 4096
// inputs, which stay in the second-level cache, and report 10^9 operations a
// second (two for a product) and, as MB/s, how fast a panel is read. Rows are
// a cache line longer than k: rows a power of two apart compete for the same
// lines of the first-level cache.

func benchmark[X, W float32 | uint16](b *testing.B, unit, bytes int, call func(s *Set, panels int, out []float32, outStride int, x []X, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool)) {
	const k = 4096
	for _, v := range Variants() {
		if v.Set == nil {
			continue
		}
		for _, n := range []struct{ panels, rows int }{{1, 1}, {4, 1}, {1, 4}, {1, MaxRows}, {2, MaxRows}, {2, 8 * MaxRows}} {
			out, x, w := make([]float32, n.rows*n.panels*Panel), make([]X, n.rows*(k+16)), make([]W, n.panels*k*Panel)
			b.Run(fmt.Sprintf("%s/%dx%d", v.Name, n.panels, n.rows), func(b *testing.B) {
				b.SetBytes(int64(bytes * n.panels * k * Panel))
				for b.Loop() {
					for i := 0; i < k; i += 2048 { // as MatMul has it
						call(v.Set, n.panels, out, n.panels*Panel, x[i:], k+16, w[i*Panel:], Panel*unit, k*Panel, n.rows, 2048, i > 0)
					}
				}
				b.ReportMetric(float64(b.N)*2*Panel*float64(k*n.rows*n.panels)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}

func BenchmarkF32(b *testing.B)       { benchmark(b, 1, 4, (*Set).F32) }
func BenchmarkF16(b *testing.B)       { benchmark(b, 1, 2, (*Set).F16) }
func BenchmarkBF16(b *testing.B)      { benchmark(b, 1, 2, bf16Panels) }
func BenchmarkBF16Pairs(b *testing.B) { benchmark(b, 2, 2, (*Set).BF16Pairs) }

func BenchmarkBF16Dot(b *testing.B) {
	if !Best().HasBF16Dot() {
		b.Skip("no AVX512_BF16")
	}
	benchmark(b, 2, 2, func(s *Set, panels int, out []float32, outStride int, x []uint16, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
		if s.HasBF16Dot() {
			s.BF16Dot(panels, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
		}
	})
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

// BenchmarkRow multiplies one row, and two, by panels that lie in the second-level cache or
// in memory, as a step of decoding does.
func BenchmarkRow(b *testing.B) {
	for _, v := range Variants() {
		if v.Set == nil {
			continue
		}
		for _, typ := range backend.DTypes() {
			if f := v.Set.Format(typ); f != nil && f.Fused() {
				b.Run(fmt.Sprintf("%s/%v", v.Name, typ), func(b *testing.B) { benchmarkRow(b, f) })
			}
		}
	}
}

func benchmarkRow(b *testing.B, f *Format) {
	const k = 2048
	size := k / f.Block * f.Bytes
	for _, panels := range []int{4, 4096} {
		src := make([]byte, panels*size)
		for i := range src {
			src[i] = byte(i % 61)
		}
		for _, n := range []int{1, 2} {
			b.Run(fmt.Sprintf("%dMB/%d", len(src)>>20, n), func(b *testing.B) {
				b.SetBytes(int64(len(src)))
				out, x, meta, scales := make([]float32, n*panels*Panel), make([]int8, n*k), make([]Meta, n*k/f.Sub), make([]float32, f.Scales(f.Block))
				var c Call
				for b.Loop() {
					f.ProductRows(&c, panels, out, panels*Panel, x, k, meta, k/f.Sub, src, scales, n, k)
				}
			})
		}
	}
}
