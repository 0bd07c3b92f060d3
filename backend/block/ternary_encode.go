package block

// The encoders of the types in ternary.go: d is the largest magnitude.

// encodeTQ1_0 writes five base-3 digits, or four, as the fraction that decodeTQ1_0 reads.
func encodeTQ1_0(_ *grid, dst []byte, src, _ []float32) {
	for ; len(src) > 0; dst, src = dst[54:], src[256:] {
		x, b := (*[256]float32)(src), (*[54]byte)(dst)
		d := largest(x[:])
		id := inverse(d)
		putF16(b[52:], d)
		putDigits(b[0:32], x[0:160], id)
		putDigits(b[32:48], x[160:240], id)
		putDigits(b[48:52], x[240:256], id)
	}
}

// putDigits writes the digits of x to q: digit k of all bytes, then digit k+1. Where x has
// four for each byte the fifth is 0.
func putDigits(q []byte, x []float32, id float32) {
	for j := range q {
		n, k := int32(0), j
		for range 5 {
			n *= 3
			if k < len(x) {
				n += roundAway(x[k], id) + 1
			}
			k += len(q)
		}
		q[j] = byte((n*256 + 242) / 243) // rounded up
	}
}

// encodeTQ2_0 writes codes 0, 1 and 2.
func encodeTQ2_0(g *grid, dst []byte, src, _ []float32) {
	for ; len(src) > 0; dst, src = dst[66:], src[256:] {
		x, b := (*[256]float32)(src), (*[66]byte)(dst)
		d := largest(x[:])
		id := inverse(d)
		putF16(b[64:], d)
		codes := &g.coded.codes
		for i, v := range x {
			codes[i] = byte(roundAway(v, id) + 1)
		}
		putPairs((*[64]byte)(b[:]), codes)
	}
}
