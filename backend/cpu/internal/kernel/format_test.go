package kernel

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// inputCodes makes codes of inputs, of which the wild ones are often the largest.
func inputCodes(rnd *rand.Rand, wild bool) func() int8 {
	if wild && rnd.IntN(3) == 0 {
		return func() int8 { return -127 } // the largest sums
	}
	return func() int8 {
		if wild && rnd.IntN(2) == 0 {
			return []int8{-127, 127, 0}[rnd.IntN(3)]
		}
		return int8(rnd.IntN(255) - 127)
	}
}

// formatProblem multiplies rounded rows by random blocks; codes and scales of x
// are at their extremes where wild.
func formatProblem(rnd *rand.Rand, f *Format, rows, groups int, wild bool) *problem {
	extra := rnd.IntN(2) * 3
	per := f.Group / f.Sub // metas of a group
	k := groups * f.Group
	outStride, qStride, metaStride := Panel+extra, k+16*extra, groups*per+extra
	v, last := values(rnd, wild), max(0, rows-1)
	xq, wholeQ := guarded(last*qStride+k, inputCodes(rnd, wild))
	meta, wholeM := guarded(last*metaStride+groups*per, func() Meta { return Meta{rnd.Int32(), v(), v()} })
	d := make([]float32, rows*groups)
	for r := range rows {
		sums := make([]int32, k/sumLen)
		for i := range sums {
			for _, c := range xq[r*qStride+i*sumLen:][:sumLen] {
				sums[i] += int32(c)
			}
		}
		for g := range groups {
			d[r*groups+g] = v()
		}
		f.Metas(meta[r*metaStride:][:groups*per], sums, d[r*groups:][:groups])
	}
	blocks := (k + f.Block - 1) / f.Block // of which the last may have groups that are not multiplied
	src := make([]byte, blocks*f.Bytes)
	for i := range src {
		src[i] = byte(rnd.Uint32())
		if wild && rnd.IntN(8) == 0 {
			src[i] = 0xff
		}
	}
	codes, wholeC := guarded(k*Panel, func() byte { return byte(rnd.Uint32()) })
	scales, wholeS := guarded(f.Scales(k), v)
	weights := make([]float32, k*Panel)
	allCodes, allScales := make([]byte, blocks*f.Block*Panel), make([]float32, f.Scales(blocks*f.Block))
	f.Unpack(allCodes, allScales, src, blocks*f.Block)
	copy(codes, allCodes)
	copy(scales, allScales)
	for i, s := range scales { // keep what is added together finite
		if scales[i] = float32(math.Mod(float64(s), 4)); s != s || math.IsInf(float64(s), 0) {
			scales[i] = 1
		}
	}
	f.Tile(weights, codes, scales, k)
	return &problem{
		rows: rows, steps: groups, outStride: outStride,
		inputs: [][]byte{raw(wholeQ), raw(wholeM), raw(wholeC), raw(wholeS)},
		tiny:   0x1p-149 * float64(f.Group) * 128 * 127 * 64, // products of scales may underflow
		run: func(s *Set, out []float32, r, rows, from, to int, accumulate bool) {
			var c Call
			f.Product(&c, 1, out, outStride, xq[min(r*qStride+from*f.Group, len(xq)):], qStride,
				meta[min(r*metaStride+from*per, len(meta)):], metaStride, codes[from*f.Group*Panel:], scales[f.Scales(from*f.Group):],
				rows, (to-from)*f.Group, accumulate)
		},
		term: func(r, j, g int) float64 {
			dot := 0.0
			for i, c := range xq[r*qStride+g*f.Group:][:f.Group] {
				dot += float64(c) * float64(weights[(g*f.Group+i)*Panel+j])
			}
			return float64(d[r*groups+g]) * dot
		},
		// The scale and the minimum of a sub-block are multiplied apart.
		size: func(r, j, g int) float64 {
			sum := 0.0
			for i := range f.Group {
				at := (g*f.Group + i) / f.Sub * f.Scales(f.Sub)
				w := 255 * math.Abs(float64(scales[at+j]))
				if f.Mins {
					w += math.Abs(float64(scales[at+Panel+j]))
				}
				sum += 127 * w
			}
			return float64(per+2) * math.Abs(float64(d[r*groups+g])) * sum
		},
	}
}

// formats calls f with every format of a variant.
func formats(t *testing.T, s *Set, f func(t *testing.T, typ backend.DType, f *Format)) {
	for _, typ := range backend.DTypes() {
		if format := s.Format(typ); format != nil {
			t.Run(typ.String(), func(t *testing.T) { f(t, typ, format) })
		}
	}
}

func TestProduct(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		formats(t, s, func(t *testing.T, _ backend.DType, f *Format) {
			rnd := rand.New(rand.NewPCG(3, 4))
			grid(9, []int{17, 5, 16, 1}, func(rows, groups int) {
				for i := range 4 {
					formatProblem(rnd, f, rows, groups, i%2 == 1).check(t, s, rnd, i < 2)
				}
			})
		})
	})
}

// TestProductRows wants of rows that are multiplied without unpacking the bits of
// Product.
func TestProductRows(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		formats(t, s, func(t *testing.T, _ backend.DType, f *Format) {
			if !f.Fused() {
				t.Skip("no product of few rows of its own")
			}
			rnd := rand.New(rand.NewPCG(7, 8))
			for i, k := range []int{0, f.Block, 3 * f.Block, rowChunk, rowChunk + 2*f.Block} {
				for rows := 1; rows <= 2; rows++ {
					for _, panels := range []int{1, 2, 5} {
						productRows(t, rnd, f, panels, rows, k, i, false)
						productRows(t, rnd, f, panels, rows, k, i, true)
					}
				}
			}
		})
	})
}

// productRows has large sums where extreme: all inputs alike and nearly the largest
// codes, beside which two bytes of a float16 stay a number.
func productRows(t *testing.T, rnd *rand.Rand, f *Format, panels, rows, k, extra int, extreme bool) {
	xStride, metaStride, outStride := k+extra, k/f.Sub+extra, panels*Panel+extra
	x, wholeX := guarded((rows-1)*xStride+k, func() int8 {
		if extreme {
			return -127
		}
		return int8(rnd.IntN(255) - 127)
	})
	meta := make([]Meta, (rows-1)*metaStride+k/f.Sub)
	for r := range rows {
		sums, d := make([]int32, k/sumLen), make([]float32, k/f.Group)
		for i, c := range x[r*xStride:][:k] {
			sums[i/sumLen] += int32(c)
		}
		for i := range d {
			d[i] = rnd.Float32()
		}
		f.Metas(meta[r*metaStride:][:k/f.Sub], sums, d)
	}
	size := k / f.Block * f.Bytes
	src := make([]byte, panels*size)
	for i := range src {
		if src[i] = byte(rnd.Uint32()); extreme {
			src[i] = []byte{0xff, 0xfb}[i%2]
		}
	}
	codes, scales := make([]byte, k*Panel), make([]float32, f.Scales(k))
	want := make([]float32, (rows-1)*outStride+panels*Panel)
	var c Call
	for p := range panels {
		f.Unpack(codes, scales, src[p*size:], k)
		f.Product(&c, 1, want[p*Panel:], outStride, x, xStride, meta, metaStride, codes, scales, rows, k, false)
	}
	got, whole := guarded(len(want), func() float32 { return 7 })
	room, wholeRoom := guarded(f.Scales(f.Block), func() float32 { return 7 })
	before := bytes.Clone(raw(wholeX))
	f.ProductRows(&c, panels, got, outStride, x, xStride, meta, metaStride, src, room, rows, k)
	for i := range want {
		if w := want[i]; i%outStride < panels*Panel && !same(got[i], w) || i%outStride >= panels*Panel && got[i] != 7 {
			t.Fatalf("%d panels, %d rows, %d inputs: output %d is %g, want %g", panels, rows, k, i, got[i], w)
		}
	}
	for i := range guard {
		for _, w := range [][]float32{whole, wholeRoom} {
			if w[i] != 7 || w[len(w)-1-i] != 7 {
				t.Fatalf("%d inputs: written outside of the output or the scratch", k)
			}
		}
	}
	if !bytes.Equal(before, raw(wholeX)) {
		t.Fatalf("%d inputs: the input was written", k)
	}
	if text := panics(func() {
		f.ProductRows(&c, panels, got, outStride, x, xStride, meta, metaStride, src[min(1, k):], room, rows, k)
	}); k > 0 && !strings.HasPrefix(text, "kernel: ") {
		t.Errorf("a short weight panics with %q", text)
	}
}

// TestProductPair wants of two panels at once the bits of each alone.
func TestProductPair(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		formats(t, s, func(t *testing.T, _ backend.DType, f *Format) {
			if f.Panels() < 2 {
				t.Skip("no product of two panels of its own")
			}
			rnd := rand.New(rand.NewPCG(9, 10))
			for rows := range 15 {
				k, stride := (1+rows%3)*f.Group, 2*Panel+rows%2*3
				last := max(0, rows-1)
				x, meta := make([]int8, rows*k), make([]Meta, rows*k/f.Sub)
				for i := range x {
					x[i] = int8(rnd.IntN(255) - 127)
				}
				for i := range meta {
					meta[i] = Meta{rnd.Int32N(2000) - 1000, float32(rnd.NormFloat64()), float32(rnd.NormFloat64())}
				}
				codes, scales := make([]byte, 2*k*Panel), make([]float32, 2*f.Scales(k))
				for i := range codes {
					codes[i] = byte(rnd.Uint32())
				}
				for i := range scales {
					scales[i] = float32(rnd.NormFloat64())
				}
				got, whole := guarded(last*stride+2*Panel, func() float32 { return 7 })
				want := bytes.Clone(raw(whole))
				wantOut := append([]float32(nil), whole...)[guard:]
				var c Call
				for _, accumulate := range []bool{false, true} {
					for p := range 2 {
						if rows > 0 {
							f.Product(&c, 1, wantOut[p*Panel:], stride, x, k, meta, k/f.Sub, codes[p*k*Panel:], scales[p*f.Scales(k):], rows, k, accumulate)
						}
					}
					f.Product(&c, 2, got, stride, x, k, meta, k/f.Sub, codes, scales, rows, k, accumulate)
				}
				for i := range got {
					if !same(got[i], wantOut[i]) {
						t.Fatalf("%d rows, %d inputs: element %d is %g, want %g", rows, k, i, got[i], wantOut[i])
					}
				}
				if n := 4 * guard; !bytes.Equal(want[:n], raw(whole)[:n]) || !bytes.Equal(want[len(want)-n:], raw(whole)[len(want)-n:]) {
					t.Fatalf("%d rows: written outside of the output", rows)
				}
				if text := panics(func() { f.Product(&c, 2, got, stride, x, k, meta, k/f.Sub, codes[1:], scales, rows, k, false) }); !strings.HasPrefix(text, "kernel: ") {
					t.Errorf("a short weight panics with %q", text)
				}
			}
		})
	})
}

// TestIntegers: with scales of 1 and sums below 2^24 products are exact, so
// every variant gives the same bits.
func TestIntegers(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		formats(t, s, func(t *testing.T, typ backend.DType, f *Format) {
			rnd := rand.New(rand.NewPCG(5, 6))
			src, x := make([]byte, f.Bytes), make([]int8, f.Group)
			for round := range 20 {
				for i := range src {
					src[i] = byte(rnd.Uint32())
				}
				for i := range x {
					if x[i] = int8(rnd.IntN(255) - 127); round%4 == 3 {
						x[i] = int8(127 - 254*(round/4%2))
					}
				}
				codes, scales := make([]byte, f.Block*Panel), make([]float32, f.Scales(f.Block))
				f.Unpack(codes, scales, src, f.Block)
				for i := range scales {
					scales[i] = 1
					if f.Mins && i/Panel%2 == 1 {
						scales[i] = 0
					}
				}
				sums := make([]int32, f.Group/sumLen)
				for i, c := range x {
					sums[i/sumLen] += int32(c)
				}
				meta, out := make([]Meta, f.Group/f.Sub), make([]float32, Panel)
				f.Metas(meta, sums, []float32{1})
				var c Call
				f.Product(&c, 1, out, Panel, x, f.Group, meta, len(meta), codes, scales, 1, f.Group, false)
				for j, got := range out {
					want := 0
					for i, c := range x {
						w := int(codes[i/4*4*Panel+4*j+i%4])
						if f.flip != 0 {
							w = int(int8(w))
						}
						want += int(c) * (w - int(f.Offset))
					}
					if float32(want) != got {
						t.Fatalf("%v: output %d is %v, want %d", typ, j, got, want)
					}
				}
			}
		})
	})
}

// TestShortFormat takes one element from one operand at a time.
func TestShortFormat(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		formats(t, s, func(t *testing.T, _ backend.DType, f *Format) {
			const rows = 3
			k := 2 * f.Group
			for bad := range 12 {
				n := func(i, n int) int {
					if i == bad {
						return n - 1
					}
					return n
				}
				var c Call
				subs := k / f.Sub
				product := panics(func() {
					f.Product(&c, 1, make([]float32, n(0, 2*20+16)), 20, make([]int8, n(1, 2*(k+5)+k)), k+5,
						make([]Meta, n(2, 3*subs)), subs, make([]byte, n(3, k*Panel)), make([]float32, n(4, f.Scales(k))), rows, n(5, k), false)
				})
				unpack := panics(func() {
					f.Unpack(make([]byte, n(6, k*Panel)), make([]float32, n(7, f.Scales(k))), make([]byte, n(8, k/f.Block*f.Bytes)), k)
				})
				tile := panics(func() {
					f.Tile(make([]float32, n(9, k*Panel)), make([]byte, n(10, k*Panel)), make([]float32, n(11, f.Scales(k))), k)
				})
				for i, got := range []string{product, unpack, tile} {
					want := []bool{bad < 6, bad >= 6 && bad < 9, bad >= 9}[i]
					if want != strings.HasPrefix(got, "kernel: ") || !want && got != "" {
						t.Errorf("operand %d spoilt: function %d panics with %q", bad, i, got)
					}
				}
			}
		})
	})
}
