//go:build !noasm

package kernel

import (
	"math"
	"unsafe"
)

// Assembly of avx2 takes whole vectors, more than none: what is left goes to the loops of
// Go, which give the same bits. Assembly of avx512 takes any number of elements.

// half is what avx2 takes of the lanes at a time.
const half = lanes / 2

// wholes is how many of n elements are whole vectors of step.
func wholes(n, step int) int { return n / step * step }

func addVectors(y, a, b []float32) {
	n := wholes(len(y), half)
	if n > 0 {
		addAVX2(y[:n], a, b)
	}
	addGeneric(y[n:], a[n:], b[n:])
}

func mulVectors(y, a, b []float32) {
	n := wholes(len(y), half)
	if n > 0 {
		mulAVX2(y[:n], a, b)
	}
	mulGeneric(y[n:], a[n:], b[n:])
}

func scaleVectors(y, x []float32, scale float32) {
	n := wholes(len(y), half)
	if n > 0 {
		scaleAVX2(y[:n], x, scale)
	}
	scaleGeneric(y[n:], x[n:], scale)
}

func scaledVectors(y, x, w []float32, scale float32) {
	n := wholes(len(y), half)
	if n > 0 {
		scaledAVX2(y[:n], x, w, scale)
	}
	scaledGeneric(y[n:], x[n:], w[n:], scale)
}

func mixVectors(y, x []float32, p, q float32) {
	n := wholes(len(y), half)
	if n > 0 {
		mixAVX2(y[:n], x, p, q)
	}
	mixGeneric(y[n:], x[n:], p, q)
}

func swigluVectors(y, gate, up []float32) {
	n := wholes(len(y), half)
	if n > 0 {
		swigluAVX2(y[:n], gate, up)
	}
	swigluGeneric(y[n:], gate[n:], up[n:])
}

func swigluBackwardVectors(dgate, dup, gate, up, dy []float32) {
	n := wholes(len(gate), half)
	if n > 0 {
		swigluBackwardAVX2(dgate[:n], dup, gate, up, dy)
	}
	swigluBackwardGeneric(dgate[n:], dup[n:], gate[n:], up[n:], dy[n:])
}

func maxIntoVectors(m, x []float32) {
	n := wholes(len(x), half)
	if n > 0 {
		maxIntoAVX2(m[:n], x)
	}
	maxIntoGeneric(m[n:], x[n:])
}

func expIntoVectors(x, m, sum []float32) {
	n := wholes(len(x), half)
	if n > 0 {
		expIntoAVX2(x[:n], m, sum)
	}
	expIntoGeneric(x[n:], m[n:], sum[n:])
}

func scoreGradsVectors(scores, ds, lse, d []float32) {
	n := wholes(len(scores), half)
	if n > 0 {
		scoreGradsAVX2(scores[:n], ds, lse, d)
	}
	scoreGradsGeneric(scores[n:], ds[n:], lse[n:], d[n:])
}

func normBackwardVectors(dx, dw, x, w, dy []float32, scale, c float32) {
	n := wholes(len(x), half)
	if n > 0 {
		normBackwardAVX2(dx, dw, x[:n], w, dy, scale, c)
	}
	normBackwardGeneric(dx[n:], dw[n:], x[n:], w[n:], dy[n:], scale, c)
}

func adamWVectors(p AdamW, w, m, v, g []float32) {
	n := wholes(len(w), half)
	if n > 0 {
		adamWAVX2(w[:n], m, v, g, &p.scale)
	}
	adamWGeneric(p, w[n:], m[n:], v[n:], g[n:])
}

func measureScalesVectors(errs *[16]float32, x, w []float32, inverse, shift *[16]float32, most float32) {
	measureScalesAVX2(&errs[0], x, w, &inverse[0], &shift[0], most)
}

func adamWWide(p AdamW, w, m, v, g []float32) { adamWAVX512(w, m, v, g, &p.scale) }

func addSquaresVectors(t *Sums, x []float32) {
	n := wholes(len(x), lanes)
	if n > 0 {
		sumSquaresAVX2(x[:n], &t[0])
	}
	addSquaresGeneric(t, x[n:])
}

func addNormSumsVectors(t *[2]Sums, x, w, dy []float32) {
	n := wholes(len(x), lanes)
	if n > 0 {
		normSumsAVX2(x[:n], w, dy, &t[0][0])
	}
	addNormSumsGeneric(t, x[n:], w[n:], dy[n:])
}

func dotVectors(a, b []float32) float32 {
	var t [lanes]float32
	n := wholes(len(a), lanes)
	if n > 0 {
		dotAVX2(a[:n], b, &t[0])
	}
	addDots(&t, a[n:], b[n:])
	return total(&t)
}

func rotateVectors(y, x, cos, sin []float32) {
	if len(cos)%8 != 0 {
		rotateGeneric(y, x, cos, sin)
		return
	}
	rotateAVX2(cos, sin, y, x)
}

func rotateBackVectors(y, x, cos, sin []float32) {
	if len(cos)%8 != 0 {
		rotateBackGeneric(y, x, cos, sin)
		return
	}
	rotateBackAVX2(cos, sin, y, x)
}

func scaleMaxVectors(x []float32, scale float32) (top float32) {
	var m [lanes]float32
	for i := range m {
		m[i] = float32(math.Inf(-1))
	}
	n := wholes(len(x), half)
	for i := 0; i < min(n, lanes); i += half {
		scaleMaxAVX2(x[i:n], scale, &m[i])
	}
	top = scaleMaxGeneric(x[n:], scale)
	for _, v := range m {
		top = max(top, v)
	}
	return top
}

func expSumVectors(x []float32, from float32) (sum float32) {
	var t [lanes]float32
	n := wholes(len(x), half)
	for i := 0; i < min(n, lanes); i += half {
		expSumAVX2(x[i:n], from, &t[i])
	}
	addExps(&t, x, from, n)
	return total(&t)
}

func widenF16Vectors(dst []float32, src []uint16) {
	n := wholes(len(src), 8)
	if n > 0 {
		widenF16AVX2(dst, src[:n])
	}
	widenF16Generic(dst[n:], src[n:])
}

func widenBF16Vectors(dst []float32, src []uint16) {
	n := wholes(len(src), 8)
	if n > 0 {
		widenBF16AVX2(dst, src[:n])
	}
	widenBF16Generic(dst[n:], src[n:])
}

func roundF16Vectors(dst []uint16, x []float32) {
	n := wholes(len(x), 8)
	if n > 0 {
		roundF16AVX2(dst, x[:n])
	}
	roundF16Generic(dst[n:], x[n:])
}

func roundBF16Vectors(dst []uint16, x []float32) {
	n := wholes(len(x), 16)
	if n > 0 {
		roundBF16AVX2(dst, x[:n])
	}
	roundBF16Generic(dst[n:], x[n:])
}

func widenQ8Vectors(dst []float32, codes []int8, scales []uint16, next []byte) {
	widenQ8AVX2(dst, (*byte)(unsafe.Pointer(&codes[0])), &scales[0], askFor(next, codes))
}

func widenQ8KeysVectors(dst []float32, codes []int8, scales []uint16, next []byte) {
	widenQ8KeysAVX2(dst, (*byte)(unsafe.Pointer(&codes[0])), &scales[0], askFor(next, codes))
}

func askVectors(mem []byte) { askAVX2(&mem[0], len(mem)) }

func scaleBF16Wide(y []uint16, x []float32, scale float32) { scale16AVX512(x, y, scale) }

func interleaveWide(y, a, b []uint16) { interleaveAVX512(a, b, y) }

func packWordsVectors(dst, src []byte, stride, words, blocks, dstStep, srcStep int) {
	whole := wholes(words, 4)
	for at := 0; at < whole; at += packChunk {
		n := min(packChunk, whole-at)
		for b, m := 0, packChunk/n; b < blocks; b += m {
			callPack(&dst[b*dstStep+64*at], &src[b*srcStep+4*at], stride, n, min(m, blocks-b), dstStep, srcStep)
		}
	}
	if whole < words {
		packWordsGeneric(dst[64*whole:], src[4*whole:], stride, words-whole, blocks, dstStep, srcStep)
	}
}

// callPack is a framed function, as callProduct is.
//
//go:noinline
func callPack(dst, src *byte, stride, words, blocks, dstStep, srcStep int) {
	packWordsAVX2(dst, src, stride, words, blocks, dstStep, srcStep)
}

func transposeWordsVectors(dst []byte, dstStride int, src []byte, stride, words int) {
	whole := wholes(words, 4)
	for at := 0; at < whole; at += packChunk {
		callTranspose(&dst[at*dstStride], &src[4*at], dstStride, stride, min(packChunk, whole-at))
	}
	if whole < words {
		transposeWordsGeneric(dst[whole*dstStride:], dstStride, src[4*whole:], stride, words-whole)
	}
}

//go:noinline
func callTranspose(dst, src *byte, dstStride, stride, words int) {
	transposeWordsAVX2(dst, src, dstStride, stride, words)
}

func roundPairsVectors(dst []uint16, step int, a, b []float32) {
	groups := len(a) / Panel
	for i := 0; i < groups; i += packChunk {
		callRoundPairs(&dst[i*step], &a[i*Panel], &b[i*Panel], min(packChunk, groups-i), step)
	}
}

//go:noinline
func callRoundPairs(dst *uint16, a, b *float32, groups, step int) {
	roundPairsAVX2((*byte)(unsafe.Pointer(dst)), a, b, groups, 2*step)
}
