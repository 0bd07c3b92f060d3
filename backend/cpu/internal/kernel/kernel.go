package kernel

const (
	// Panel is the number of outputs of a panel.
	Panel = 16
	// MaxRows is the number of rows that use the registers best. Calls take
	// any number of rows; a multiple of MaxRows is fastest.
	MaxRows = 12
	// Q8Bytes is the size of a block of a Q8_0 panel.
	Q8Bytes = Panel * (2 + blockLen)

	blockLen = 32 // inputs of a Q8_0 block
	sumLen   = 16 // codes of a sum of RoundI8

	// No assembly runs longer than 100 us without a safepoint of Go: a pass
	// covers MaxRows rows and this many inputs. 256 KiB of F32 weights take
	// 50 us even at 5 GB/s, 12 rows of avx2 int8 about as long.
	chunkLen    = 4096
	chunkBlocks = 256
)

// A Set is the kernels of one variant. It is immutable.
type Set struct {
	name  string
	f32   product[float32]
	f16   product[uint16]
	bf16  product[uint16]
	q8    productQ8
	round func(codes []int8, d []float32, sums []int32, x []float32, group int)
}

// Name is "generic", "avx2" or "avx512".
func (s *Set) Name() string { return s.name }

// A Variant is one way to run the kernels. Set is nil where Err says why it
// cannot run here.
type Variant struct {
	Name string
	Set  *Set
	Err  error
}

// Generic returns the kernels in plain Go.
func Generic() *Set {
	return &Set{
		name:  "generic",
		f32:   product[float32]{MaxRows, f32Generic},
		f16:   product[uint16]{MaxRows, f16Generic},
		bf16:  product[uint16]{MaxRows, bf16Generic},
		q8:    productQ8{MaxRows, q8Generic},
		round: roundGeneric,
	}
}

// Variants lists all variants, slowest first.
func Variants() []Variant {
	list := []Variant{{Name: "generic", Set: Generic()}, {Name: "avx2"}, {Name: "avx512"}}
	list[1].Set, list[1].Err = AVX2()
	list[2].Set, list[2].Err = AVX512()
	return list
}

// Best returns the fastest variant that runs here.
func Best() *Set {
	best := Generic()
	for _, v := range Variants() {
		if v.Set != nil {
			best = v.Set
		}
	}
	return best
}

// F32 multiplies rows by a panel of F32 weights:
//
//	out[r*outStride+j] = (accumulate ? out[r*outStride+j] : 0)
//	                     + sum_i x[r*xStride+i] * w[i*16+j],  r < rows, i < k, j < 16.
//
// out must not overlap x or w. Slices too short for that panic.
func (s *Set) F32(out []float32, outStride int, x []float32, xStride int, w []float32, rows, k int, accumulate bool) {
	multiply(s.f32, out, outStride, x, xStride, w, rows, k, accumulate)
}

// F16 is F32 for IEEE half-precision weights, which are widened exactly.
func (s *Set) F16(out []float32, outStride int, x []float32, xStride int, w []uint16, rows, k int, accumulate bool) {
	multiply(s.f16, out, outStride, x, xStride, w, rows, k, accumulate)
}

// BF16 is F32 for bfloat16 weights, which are widened exactly.
func (s *Set) BF16(out []float32, outStride int, x []float32, xStride int, w []uint16, rows, k int, accumulate bool) {
	multiply(s.bf16, out, outStride, x, xStride, w, rows, k, accumulate)
}

// Q8_0 multiplies rounded rows by a panel of Q8_0 weights. With wd[b][j] and
// wq[b][i/4][j][i%4] the scales and codes of block b of the panel w,
//
//	dot = sum_i xq[r*xqStride+b*32+i] * wq[b][i/4][j][i%4]        (exact, i < 32)
//	out[r*outStride+j] = (accumulate ? out[r*outStride+j] : 0)
//	                     + sum_b (xd[r*xdStride+b] * wd[b][j]) * dot,  b < blocks.
//
// Codes of x lie in -127..127, those of w in -128..127. xsum holds the sums of
// 16 codes of x each, as RoundI8 writes them. out must not overlap an input.
// Slices too short for that panic.
func (s *Set) Q8_0(out []float32, outStride int, xq []int8, xqStride int, xd []float32, xdStride int, xsum []int32, xsumStride int, w []byte, rows, blocks int, accumulate bool) {
	if rows < 0 || blocks < 0 {
		panic("kernel: negative rows or blocks")
	}
	if !fits(len(out), rows, outStride, Panel) {
		panic("kernel: output too short")
	}
	if rows > 0 && blocks > min(len(w)/Q8Bytes, len(xq)/blockLen) {
		panic("kernel: Q8_0 weight or input too short") // also bounds the products below
	}
	if !fits(len(xq), rows, xqStride, blocks*blockLen) || !fits(len(xd), rows, xdStride, blocks) || !fits(len(xsum), rows, xsumStride, 2*blocks) {
		panic("kernel: Q8_0 input too short")
	}
	if blocks == 0 {
		clearRows(out, outStride, rows, accumulate)
		return
	}
	for r := 0; r < rows; r += s.q8.rows {
		for b := 0; b < blocks; b += chunkBlocks {
			s.q8.call(out[r*outStride:], outStride, xq[r*xqStride+b*blockLen:], xqStride,
				xd[r*xdStride+b:], xdStride, xsum[r*xsumStride+2*b:], xsumStride, w[b*Q8Bytes:],
				min(s.q8.rows, rows-r), min(chunkBlocks, blocks-b), accumulate || b > 0)
		}
	}
}

// RoundI8 rounds one row x [K] in groups of group elements to codes [K] in
// -127..127. With m = max |x| of a group,
//
//	d = m / 127,  codes = x * (127 / m) to nearest even, all in F32;
//
// d [K/group]. A group of zeros, or so close to zero that 127/m overflows, has
// d = 0 and codes 0; one with a NaN or an infinity has d = NaN and codes 0. sums [K/16] are the sums of 16 codes. group is a multiple of 16
// that divides K; other lengths panic.
func (s *Set) RoundI8(codes []int8, d []float32, sums []int32, x []float32, group int) {
	k := len(x)
	if group <= 0 || group%sumLen != 0 || k%group != 0 {
		panic("kernel: RoundI8 of a row that is not whole groups")
	}
	if len(codes) < k || len(d) < k/group || len(sums) < k/sumLen {
		panic("kernel: RoundI8 output too short")
	}
	for i := 0; i < k; {
		n := min(k-i, max(chunkLen/group, 1)*group)
		s.round(codes[i:], d[i/group:], sums[i/sumLen:], x[i:i+n], group)
		i += n
	}
}

// product is a float kernel of one variant, for at most rows rows and chunkLen
// inputs, at least one of each.
type product[W float32 | uint16] struct {
	rows int
	run  func(out []float32, outStride int, x []float32, xStride int, w []W, rows, k int, accumulate bool)
}

// call is a framed function of its own so that Go has a safepoint between two
// runs of assembly.
//
//go:noinline
func (f product[W]) call(out []float32, outStride int, x []float32, xStride int, w []W, rows, k int, accumulate bool) {
	f.run(out, outStride, x, xStride, w, rows, k, accumulate)
}

// productQ8 is the int8 kernel of one variant, for at most rows rows and
// chunkBlocks blocks, at least one of each.
type productQ8 struct {
	rows int
	run  func(out []float32, outStride int, xq []int8, xqStride int, xd []float32, xdStride int, xsum []int32, xsumStride int, w []byte, rows, blocks int, accumulate bool)
}

//go:noinline
func (f productQ8) call(out []float32, outStride int, xq []int8, xqStride int, xd []float32, xdStride int, xsum []int32, xsumStride int, w []byte, rows, blocks int, accumulate bool) {
	f.run(out, outStride, xq, xqStride, xd, xdStride, xsum, xsumStride, w, rows, blocks, accumulate)
}

// multiply checks the operands and runs f over tiles of its rows and
// chunkLen inputs.
func multiply[W float32 | uint16](f product[W], out []float32, outStride int, x []float32, xStride int, w []W, rows, k int, accumulate bool) {
	if rows < 0 || k < 0 {
		panic("kernel: negative rows or inputs")
	}
	if !fits(len(out), rows, outStride, Panel) {
		panic("kernel: output too short")
	}
	if !fits(len(x), rows, xStride, k) {
		panic("kernel: input too short")
	}
	if rows > 0 && k > len(w)/Panel {
		panic("kernel: weight too short")
	}
	if k == 0 {
		clearRows(out, outStride, rows, accumulate)
		return
	}
	for r := 0; r < rows; r += f.rows {
		for i := 0; i < k; i += chunkLen {
			f.call(out[r*outStride:], outStride, x[r*xStride+i:], xStride, w[i*Panel:],
				min(f.rows, rows-r), min(chunkLen, k-i), accumulate || i > 0)
		}
	}
}

// fits reports whether rows of the given width, stride apart, lie in have
// elements.
func fits(have, rows, stride, width int) bool {
	switch {
	case rows == 0:
		return true
	case have < width:
		return false
	case rows == 1 || width == 0:
		return true
	}
	return stride >= width && (have-width)/stride >= rows-1
}

// clearRows is a product of no inputs.
func clearRows(out []float32, outStride, rows int, accumulate bool) {
	for r := 0; r < rows && !accumulate; r++ {
		clear(out[r*outStride:][:Panel])
	}
}
