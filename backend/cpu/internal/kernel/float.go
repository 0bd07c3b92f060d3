package kernel

// F32 multiplies rows by panels of F32 weights:
//
//	out[r*outStride+p*16+j] = (accumulate ? out[r*outStride+p*16+j] : 0)
//	                          + sum_i x[r*xStride+i] * w[p*wStep+i*wStride+j],
//	r < rows, p < panels, i < k, j < 16.
//
// Each sum runs over i in ascending order, whatever rows and panels are. out must
// not overlap x or w. Slices too short for that panic.
func (s *Set) F32(panels int, out []float32, outStride int, x []float32, xStride int, w []float32, wStride, wStep, rows, k int, accumulate bool) {
	s.f32.multiply(1, panels, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

// F16 is F32 for IEEE half-precision weights, which are widened exactly.
func (s *Set) F16(panels int, out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	s.f16.multiply(1, panels, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

// BF16Pairs is F32 for bfloat16 weights, which are widened exactly, in panels that hold two inputs of an output side by side,
// w[p*wStep+i/2*wStride+2*j+i%2]. k is even.
func (s *Set) BF16Pairs(panels int, out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	s.bf16Pairs.multiply(2, panels, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

// HasBF16Dot reports whether BF16Dot exists.
func (s *Set) HasBF16Dot() bool { return s.bf16Dot != nil }

// BF16Dot is BF16Pairs for inputs that are bfloat16 too. The processor takes
// denormal numbers for zeros and adds the products of a pair, the second first,
// rounding to nearest even (VDPBF16PS, Intel SDM volume 2). In amx a tile adds the
// products of even and of odd inputs of 32 apart, then both to the sum (TDPBF16PS):
// calls that accumulate start at multiples of 32.
func (s *Set) BF16Dot(panels int, out []float32, outStride int, x []uint16, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	s.bf16Dot.multiply(2, panels, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

// product is the float kernels of a kind: tiles, the widest first.
type product[X, W float32 | uint16] []tile[X, W]

// A tile is a kernel for so many panels and at most so many rows: as many, or a
// power of two.
type tile[X, W float32 | uint16] struct {
	panels, rows int
	run          func(out []float32, outStride int, x []X, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool)
}

// call is a framed function of its own so that Go has a safepoint between two
// runs of assembly.
//
//go:noinline
func (t *tile[X, W]) call(out []float32, outStride int, x []X, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool) {
	t.run(out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

// multiply checks the operands and runs tiles over them. unit is the inputs of a
// step.
func (f product[X, W]) multiply(unit, panels int, out []float32, outStride int, x []X, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool) {
	checkProduct(unit, panels, len(out), outStride, len(x), xStride, len(w), wStride, wStep, rows, k)
	if k == 0 {
		clearRows(out, outStride, rows, panels*Panel, accumulate)
		return
	}
	for p := 0; p < panels; {
		t := f.widest(panels-p, rows)
		n := chunkLen / t.panels / unit * unit
		for r := 0; r < rows; {
			m := tileRows(t.rows, rows-r)
			for i := 0; i < k; i += n {
				t.call(out[r*outStride+p*Panel:], outStride, x[r*xStride+i:], xStride, w[p*wStep+i/unit*wStride:], wStride, wStep,
					m, min(n, k-i)/unit, accumulate || i > 0)
			}
			r += m
		}
		p += t.panels
	}
}

// checkProduct panics where the lengths of the operands do not do.
func checkProduct(unit, panels, out, outStride, x, xStride, w, wStride, wStep, rows, k int) {
	if rows < 0 || k < 0 || panels < 0 || k%unit != 0 {
		panic("kernel: negative rows, panels or inputs, or half a pair")
	}
	if !fits(out, rows, outStride, panels*Panel) {
		panic("kernel: output too short")
	}
	if !fits(x, rows, xStride, k) {
		panic("kernel: input too short")
	}
	if rows > 0 && panels > 0 && k > 0 && (wStep < 0 || w < (panels-1)*wStep || !fits(w-(panels-1)*wStep, k/unit, wStride, Panel*unit)) {
		panic("kernel: weight too short")
	}
}

// widest is the tile for at most so many panels that suits the rows: those for
// one row are slow for more.
func (f product[X, W]) widest(panels, rows int) *tile[X, W] {
	for i := range f {
		if t := &f[i]; t.panels <= panels && (t.rows > 1 || rows == 1) {
			return t
		}
	}
	panic("kernel: no tile of one panel")
}
