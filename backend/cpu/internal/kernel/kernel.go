package kernel

import "sync"

const (
	// Panel is the number of outputs of a panel.
	Panel = 16
	// MaxRows is the number of rows that use the registers best. Calls take
	// any number of rows; a multiple of MaxRows is fastest.
	MaxRows = 12
	// MaxPanels is the number of panels that one row is fastest with.
	MaxPanels = 4
	// Pair is the number of panels that several rows are fastest with.
	Pair = 2

	sumLen = 16 // codes of a sum of RoundI8

	// No assembly runs longer than 100 us without a safepoint of Go: a pass
	// covers MaxRows rows and this many inputs. 256 KiB of F32 weights take
	// 50 us even at 5 GB/s.
	chunkLen = 4096
)

// A Set is the kernels of one variant. It is immutable.
type Set struct {
	name string
	functions
	extras
}

// Name is "generic", "avx2", "avx512" or "amx".
func (s *Set) Name() string { return s.name }

// A Variant is one way to run the kernels. Set is nil where Err says why it
// cannot run here.
type Variant struct {
	Name string
	Set  *Set
	Err  error
}

// builders are how each variant is had, slowest first.
func builders() []builder {
	return []builder{
		{"generic", func() (*Set, error) { return Generic(), nil }, true},
		{"avx2", AVX2, true},
		{"avx512", AVX512, true},
		{"amx", AMX, false},
	}
}

type builder struct {
	name  string
	build func() (*Set, error)
	// proven says that the tests have passed on a machine that has all that the
	// variant needs, as bench/LOG.md records.
	proven bool
}

func (b builder) variant() Variant {
	s, err := b.build()
	return Variant{b.name, s, err}
}

// Variants lists all variants, slowest first.
func Variants() []Variant {
	var list []Variant
	for _, b := range builders() {
		list = append(list, b.variant())
	}
	return list
}

// Find returns the variant of that name; ok is false where there is none.
func Find(name string) (v Variant, ok bool) {
	for _, b := range builders() {
		if b.name == name {
			return b.variant(), true
		}
	}
	return Variant{}, false
}

// Best returns the fastest variant that runs here, of those that are known to work.
func Best() *Set { return best() }

// best builds a set once: it has tables of formats and of codebooks.
var best = sync.OnceValue(func() *Set {
	best := Generic()
	for _, b := range builders() {
		if b.proven {
			if v := b.variant(); v.Set != nil {
				best = v.Set
			}
		}
	}
	return best
})

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

// Reads reads mem, whole units of ReadUnit, as fast as one core can: along 16
// streams or in order. ok is false for the generic variant.
func (s *Set) Reads(mem []byte, inOrder bool) (ok bool) {
	if s.read == nil {
		return false
	}
	mem = mem[:len(mem)/ReadUnit*ReadUnit]
	if inOrder {
		for ; len(mem) > 0; mem = mem[min(readChunk, len(mem)):] {
			callReadAhead(s.readAhead, &mem[0], min(readChunk, len(mem)))
		}
		return true
	}
	stride := len(mem) / readStreams
	for at := 0; at < stride; at += readChunk / readStreams {
		callRead(s.read, &mem[at], stride, min(readChunk/readStreams, stride-at))
	}
	return true
}

const (
	readStreams = 16
	readChunk   = 1 << 17 // bytes between two safepoints
	// ReadUnit is a line of the cache for each stream of Reads.
	ReadUnit = readStreams * 64
)

//go:noinline
func callRead(f func(*byte, int, int), p *byte, stride, n int) { f(p, stride, n) }

//go:noinline
func callReadAhead(f func(*byte, int), p *byte, n int) { f(p, n) }

// PeakF32 is the peak of the products of floats; ok is false for the generic
// variant.
func (s *Set) PeakF32() (p Peak, ok bool) { return s.peakF32, s.peakF32.run != nil }

// PeakBF16 is the peak of the products of bfloat16 pairs; ok is false where there
// are none.
func (s *Set) PeakBF16() (p Peak, ok bool) { return s.peakBF16, s.peakBF16.run != nil }

// PeakInt8 is the peak of the products of codes.
func (s *Set) PeakInt8() (p Peak, ok bool) { return s.peakInt8, s.peakInt8.run != nil }

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
		s.roundI8(codes[i:], d[i/group:], sums[i/sumLen:], x[i:i+n], group)
		i += n
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
