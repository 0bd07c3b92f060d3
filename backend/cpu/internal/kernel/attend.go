package kernel

import (
	"unsafe"

	"github.com/herd-ml/herd/backend/block"
)

// The products of attention for few rows: those of F32, F16 and BF16 to the bit,
// for panels side by side, which lie wStride apart. Meanwhile they ask for next,
// the memory that is to be read after w, if it is long enough to matter.

// F32Ahead is F32 with wStep 16.
func (s *Set) F32Ahead(panels int, out []float32, outStride int, x []float32, xStride int, w []float32, wStride int, next []byte, rows, k int, accumulate bool) {
	ahead(s.f32, s.f32Ahead, panels, out, outStride, x, xStride, w, wStride, next, rows, k, accumulate)
}

// F16Ahead is F16 with wStep 16.
func (s *Set) F16Ahead(panels int, out []float32, outStride int, x []float32, xStride int, w []uint16, wStride int, next []byte, rows, k int, accumulate bool) {
	ahead(s.f16, s.f16Ahead, panels, out, outStride, x, xStride, w, wStride, next, rows, k, accumulate)
}

// BF16Ahead is BF16 with wStep 16.
func (s *Set) BF16Ahead(panels int, out []float32, outStride int, x []float32, xStride int, w []uint16, wStride int, next []byte, rows, k int, accumulate bool) {
	ahead(s.bf16, s.bf16Ahead, panels, out, outStride, x, xStride, w, wStride, next, rows, k, accumulate)
}

// aheadPanels is the number of panels of an aheadRun, which takes 1, 2, 3, 4 or 6
// rows.
const aheadPanels = 4

type aheadRun[W float32 | uint16] func(out []float32, outStride int, x []float32, xStride int, w []W, wStride, wStep int, next *byte, rows, k int, accumulate bool)

// call is a safepoint, as that of tile.
//
//go:noinline
func (f aheadRun[W]) call(out []float32, outStride int, x []float32, xStride int, w []W, wStride int, next *byte, rows, k int, accumulate bool) {
	f(out, outStride, x, xStride, w, wStride, Panel, next, rows, k, accumulate)
}

func ahead[W float32 | uint16](f product[float32, W], run aheadRun[W], panels int, out []float32, outStride int, x []float32, xStride int, w []W, wStride int, next []byte, rows, k int, accumulate bool) {
	if run == nil || k == 0 || k > chunkLen/aheadPanels || rows == 0 || panels < aheadPanels {
		f.multiply(1, panels, out, outStride, x, xStride, w, wStride, Panel, rows, k, accumulate)
		return
	}
	checkProduct(1, panels, len(out), outStride, len(x), xStride, len(w), wStride, Panel, rows, k)
	p := 0
	for ; panels-p >= aheadPanels; p += aheadPanels {
		ask := (*byte)(unsafe.Pointer(&w[p*Panel])) // is there already: costs little
		bytes := k * aheadPanels * Panel * int(unsafe.Sizeof(w[0]))
		if at := p / aheadPanels * bytes; len(next) >= at+bytes {
			ask = &next[at]
		}
		for r := 0; r < rows; {
			n := aheadRows(rows - r)
			run.call(out[r*outStride+p*Panel:], outStride, x[r*xStride:], xStride, w[p*Panel:], wStride, ask, n, k, accumulate)
			r += n
		}
	}
	if p < panels {
		f.multiply(1, panels-p, out[p*Panel:], outStride, x, xStride, w[p*Panel:], wStride, Panel, rows, k, accumulate)
	}
}

// aheadRows is how many of n rows go at once.
func aheadRows(n int) int {
	switch {
	case n <= 4 || n == 6:
		return n
	case n == 5:
		return 3
	case n == 7:
		return 4
	case n%6 != 0 && n < 12:
		return 4
	}
	return 6
}

const (
	keyColumns = 64 // positions of a page
	q8Block    = 32
)

// WidenQ8Keys widens rows of 64 columns of codes, of which each 32 have a row of
// 64 scales, float16: exactly, to code times scale. It asks for next meanwhile.
// The length of dst is a multiple of 2048.
func (s *Set) WidenQ8Keys(dst []float32, codes []int8, scales []uint16, next []byte) {
	const size = q8Block * keyColumns
	codes, scales = codes[:len(dst)], scales[:len(dst)/q8Block]
	if len(dst)%size != 0 {
		panic("kernel: WidenQ8Keys of rows that are not whole blocks")
	}
	if len(dst) == 0 {
		return
	}
	s.widenQ8Keys(dst, codes, scales, next)
}

func widenQ8KeysGeneric(dst []float32, codes []int8, scales []uint16, _ []byte) {
	const size = q8Block * keyColumns
	for i := range dst {
		dst[i] = float32(codes[i]) * block.F16ToF32(scales[i/size*keyColumns+i%keyColumns])
	}
}

// WidenQ8 widens blocks of 32 codes with a scale each, as WidenQ8Keys. The length
// of dst is a multiple of 32.
func (s *Set) WidenQ8(dst []float32, codes []int8, scales []uint16, next []byte) {
	codes, scales = codes[:len(dst)], scales[:len(dst)/q8Block]
	if len(dst)%q8Block != 0 {
		panic("kernel: WidenQ8 of codes that are not whole blocks")
	}
	if len(dst) == 0 {
		return
	}
	s.widenQ8(dst, codes, scales, next)
}

func widenQ8Generic(dst []float32, codes []int8, scales []uint16, _ []byte) {
	for i := range dst {
		dst[i] = float32(codes[i]) * block.F16ToF32(scales[i/q8Block])
	}
}

// Ask asks for memory, a few lines.
func (s *Set) Ask(mem []byte) {
	if len(mem) > 0 {
		s.ask(mem)
	}
}

// HasQ8 reports whether Q8Keys and Q8Values exist.
func (s *Set) HasQ8() bool { return s.q8Keys != nil }

type q8Run func(out []float32, outStride int, x []float32, xStride int, w []int8, wStride, wStep int, scales []float32, scaleStride int, next *byte, rows, k int, accumulate bool)

// call is a safepoint, as that of tile.
//
//go:noinline
func (f q8Run) call(out []float32, outStride int, x []float32, xStride int, w []int8, wStride int, scales []float32, scaleStride int, next *byte, rows, k int, accumulate bool) {
	f(out, outStride, x, xStride, w, wStride, Panel, scales, scaleStride, next, rows, k, accumulate)
}

// Q8Keys is F32 by 64 columns of k inputs, a multiple of 32, that WidenQ8Keys would
// give, with the scales as F32. It asks for next meanwhile.
func (s *Set) Q8Keys(out []float32, outStride int, x []float32, xStride int, codes []int8, scales []float32, next []byte, rows, k int) {
	codes, scales = codes[:k*keyColumns], scales[:k/q8Block*keyColumns]
	checkProduct(1, keyColumns/Panel, len(out), outStride, len(x), xStride, len(codes), keyColumns, Panel, rows, k)
	if k%q8Block != 0 {
		panic("kernel: Q8Keys of half a block")
	}
	for i := 0; i < k; i += q8Block {
		w := codes[i*keyColumns:]
		ask := askFor(next[min(i*keyColumns, len(next)):], w[:q8Block*keyColumns])
		for r := 0; r < rows; {
			n := aheadRows(rows - r)
			s.q8Keys.call(out[r*outStride:], outStride, x[r*xStride+i:], xStride, w, keyColumns, scales[i/q8Block*keyColumns:], 0, ask, n, q8Block, i > 0)
			r += n
		}
	}
}

// Q8Values is F32 by k inputs of width outputs, a multiple of 64, that WidenQ8 would
// give, with the scales as F32. It asks for next meanwhile.
func (s *Set) Q8Values(out []float32, outStride int, x []float32, xStride int, codes []int8, scales []float32, width int, next []byte, rows, k int, accumulate bool) {
	const step = aheadPanels * Panel
	codes, scales = codes[:k*width], scales[:k*(width/q8Block)]
	checkProduct(1, width/Panel, len(out), outStride, len(x), xStride, len(codes), width, Panel, rows, k)
	if width%step != 0 || k <= 0 || k > chunkLen/aheadPanels {
		panic("kernel: Q8Values of a width that is not whole steps, or of no or too many inputs")
	}
	for j := 0; j < width; j += step {
		ask := askFor(next[min(j*k, len(next)):], codes[:k*step])
		for r := 0; r < rows; {
			n := aheadRows(rows - r)
			s.q8Values.call(out[r*outStride+j:], outStride, x[r*xStride:], xStride, codes[j:], width, scales[j/q8Block:], width/q8Block, ask, n, k, accumulate)
			r += n
		}
	}
}

// askFor is next, or the codes themselves where next is too short to matter.
func askFor(next []byte, codes []int8) *byte {
	if len(next) < len(codes) {
		return (*byte)(unsafe.Pointer(&codes[0]))
	}
	return &next[0]
}
