package kernel

const (
	// Panel is the number of outputs of a panel.
	Panel = 16
	// MaxRows is the number of rows that use the registers best. Calls take
	// any number of rows; a multiple of MaxRows is fastest.
	MaxRows = 12

	sumLen = 16 // codes of a sum of RoundI8

	// No assembly runs longer than 100 us without a safepoint of Go: a pass
	// covers MaxRows rows and this many inputs. 256 KiB of F32 weights take
	// 50 us even at 5 GB/s.
	chunkLen = 4096
)

// A Set is the kernels of one variant. It is immutable.
type Set struct {
	name  string
	f32   product[float32]
	f16   product[uint16]
	bf16  product[uint16]
	round func(codes []int8, d []float32, sums []int32, x []float32, group int)
	// formats is indexed by backend.DType; nil for types on portable code.
	formats []*Format

	peakF32, peakInt8 Peak

	read func(p *byte, stride, n int) // reads n bytes of each of 16 streams

	vector bool // there is assembly for the functions of exp.go
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

// A Peak is the arithmetic that one core does at most, with operands that never
// leave the registers: in a round of run, Ops operations (two for a product).
type Peak struct {
	Ops int
	run func(rounds int)
}

// Run runs rounds of at most some nanoseconds each.
func (p Peak) Run(rounds int) {
	for ; rounds > 0; rounds -= 1000 { // with a safepoint of Go now and then
		callPeak(p.run, min(rounds, 1000))
	}
}

//go:noinline
func callPeak(f func(int), n int) { f(n) }

// Reads reads a part of mem, whole units of ReadUnit, as fast as one core can.
// ok is false for the generic variant.
func (s *Set) Reads(mem []byte) (ok bool) {
	const streams, most = 16, 8 << 10 // bytes of a stream between two safepoints
	stride := len(mem) / ReadUnit * ReadUnit / streams
	for at := 0; at < stride && s.read != nil; at += most {
		callRead(s.read, &mem[at], stride, min(most, stride-at))
	}
	return s.read != nil
}

// ReadUnit is a line of the cache for each stream of Reads.
const ReadUnit = 16 * 64

//go:noinline
func callRead(f func(*byte, int, int), p *byte, stride, n int) { f(p, stride, n) }

// PeakF32 is the peak of the products of floats; ok is false for the generic
// variant.
func (s *Set) PeakF32() (p Peak, ok bool) { return s.peakF32, s.peakF32.run != nil }

// PeakInt8 is the peak of the products of codes.
func (s *Set) PeakInt8() (p Peak, ok bool) { return s.peakInt8, s.peakInt8.run != nil }

// F32 multiplies rows by a panel of F32 weights:
//
//	out[r*outStride+j] = (accumulate ? out[r*outStride+j] : 0)
//	                     + sum_i x[r*xStride+i] * w[i*wStride+j],  r < rows, i < k, j < 16.
//
// out must not overlap x or w. Slices too short for that panic.
func (s *Set) F32(out []float32, outStride int, x []float32, xStride int, w []float32, wStride, rows, k int, accumulate bool) {
	multiply(s.f32, out, outStride, x, xStride, w, wStride, rows, k, accumulate)
}

// F16 is F32 for IEEE half-precision weights, which are widened exactly.
func (s *Set) F16(out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, rows, k int, accumulate bool) {
	multiply(s.f16, out, outStride, x, xStride, w, wStride, rows, k, accumulate)
}

// BF16 is F32 for bfloat16 weights, which are widened exactly.
func (s *Set) BF16(out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, rows, k int, accumulate bool) {
	multiply(s.bf16, out, outStride, x, xStride, w, wStride, rows, k, accumulate)
}

// RoundI8 rounds one row x [K] in groups of group elements to codes [K] in
// -127..127. With m = max |x| of a group,
//
//	d = m / 127,  codes = x * (127 / m) to nearest even, all in F32;
//
// d [K/group]. A group of zeros, or so close to zero that 127/m overflows, has
// d = 0 and codes 0; one with a NaN or an infinity has d = NaN and codes 0.
// sums [K/16] are the sums of 16 codes. group is a multiple of 16 that divides
// K; other lengths panic.
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
	run  func(out []float32, outStride int, x []float32, xStride int, w []W, wStride, rows, k int, accumulate bool)
}

// call is a framed function of its own so that Go has a safepoint between two
// runs of assembly.
//
//go:noinline
func (f product[W]) call(out []float32, outStride int, x []float32, xStride int, w []W, wStride, rows, k int, accumulate bool) {
	f.run(out, outStride, x, xStride, w, wStride, rows, k, accumulate)
}

// multiply checks the operands and runs f over tiles of its rows and
// chunkLen inputs.
func multiply[W float32 | uint16](f product[W], out []float32, outStride int, x []float32, xStride int, w []W, wStride, rows, k int, accumulate bool) {
	if rows < 0 || k < 0 {
		panic("kernel: negative rows or inputs")
	}
	if !fits(len(out), rows, outStride, Panel) {
		panic("kernel: output too short")
	}
	if !fits(len(x), rows, xStride, k) {
		panic("kernel: input too short")
	}
	if rows > 0 && !fits(len(w), k, wStride, Panel) {
		panic("kernel: weight too short")
	}
	if k == 0 {
		clearRows(out, outStride, rows, Panel, accumulate)
		return
	}
	for r := 0; r < rows; r += f.rows {
		for i := 0; i < k; i += chunkLen {
			f.call(out[r*outStride:], outStride, x[r*xStride+i:], xStride, w[i*wStride:], wStride,
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

// clearRows clears rows of out unless accumulate.
func clearRows(out []float32, outStride, rows, width int, accumulate bool) {
	for r := 0; r < rows && !accumulate; r++ {
		clear(out[r*outStride:][:width])
	}
}
