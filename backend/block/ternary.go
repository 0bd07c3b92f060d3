package block

// The ternary types: 256 weights of -d, 0 or d (TQ2_0 can also say 2d).

// decodeTQ1_0: 48 bytes of 5 base-3 digits; 4 bytes of 4; d.
// A byte is the number 0.abcde in base 3, times 256 and rounded up: times 3^k,
// what stays below the point starts with digit k. Digit k of 32 bytes is one
// run of weights; so with the next 16 bytes and the last 4.
func decodeTQ1_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[54:] {
		y, b := (*[256]float32)(dst), (*[54]byte)(src)
		d := scale(b[52:])
		digits(y[0:160], b[0:32], d)
		digits(y[160:240], b[32:48], d)
		digits(y[240:256], b[48:52], d)
	}
}

// digits writes as many digits of each byte of q as y has room for.
func digits(y []float32, q []byte, d float32) {
	for power := byte(1); len(y) > 0; power *= 3 {
		for j, c := range q {
			y[j] = d * float32(int32(uint16(c*power)*3>>8)-1)
		}
		y = y[len(q):]
	}
}

// decodeTQ2_0: 64 bytes of 2-bit codes; d. w = d (q-1).
// Bit pair k of bytes 0..31 of a half are its weights 32k..32k+31.
func decodeTQ2_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[66:] {
		y, b := (*[256]float32)(dst), (*[66]byte)(src)
		d := scale(b[64:])
		for i := range 8 { // i = 4 half + pair
			q, z := (*[32]byte)(b[i>>2*32:]), (*[32]float32)(y[32*i:])
			for j, c := range q {
				z[j] = d * float32(int32(c>>(i&3*2)&3)-1)
			}
		}
	}
}
