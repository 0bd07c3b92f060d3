package block

// The K types: 256 weights with float16 scales (d, and dmin for a minimum) and
// a small integer scale for each sub-block of 16 or 32.

// decodeQ2_K: 16 bytes of (4-bit scale, 4-bit minimum), one for each 16
// weights; 64 bytes of 2-bit codes; d; dmin. w = (d s) q - dmin m.
// Bit pair k of bytes 0..31 of a half are its weights 32k..32k+31.
func decodeQ2_K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[84:] {
		y, b := (*[256]float32)(dst), (*[84]byte)(src)
		d, dmin := scale(b[80:]), scale(b[82:])
		for i := range 16 { // i = 8 half + 2 pair + which 16 of the 32 bytes
			s := b[i]
			ds, m := float32(d*float32(s&15)), float32(dmin*float32(s>>4))
			// All four values that this sub-block can have.
			v := [4]float32{float32(ds*0) - m, float32(ds*1) - m, float32(ds*2) - m, float32(ds*3) - m}
			q, z := (*[16]byte)(b[16+32*(i>>3)+16*(i&1):]), (*[16]float32)(y[16*i:])
			shift := i & 6
			for j, c := range q {
				z[j] = v[c>>shift&3]
			}
		}
	}
}

// decodeQ3_K: 32 bytes of third bits; 64 bytes of 2-bit codes, in the order of
// Q2_K; 12 bytes of 6-bit scales, one for each 16 weights; d.
// w = d (s-32) q, where a clear third bit takes 4 from the code.
func decodeQ3_K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[110:] {
		y, b := (*[256]float32)(dst), (*[110]byte)(src)
		d, sc := scale(b[108:]), (*[12]byte)(b[96:])
		for i := range 16 {
			// Low 4 bits: nibbles of bytes 0..7. High 2: pairs of bytes 8..11.
			s := sc[i&7] >> (i >> 3 * 4) & 15
			s |= sc[8+i&3] >> (i >> 2 * 2) & 3 << 4
			ds := d * float32(int32(s)-32)
			h := (*[16]byte)(b[16*(i&1):])
			q := (*[16]byte)(b[32+32*(i>>3)+16*(i&1):])
			z := (*[16]float32)(y[16*i:])
			shift, bit := i&6, i>>1
			for j := range z {
				z[j] = ds * float32(int32(q[j]>>shift&3)+int32(h[j]>>bit&1)*4-4)
			}
		}
	}
}

// scaleMin returns scale j and minimum j of the eight pairs of 6 bits that Q4_K
// and Q5_K store in 12 bytes: pairs 0..3 are the low 6 bits of bytes j and j+4;
// pairs 4..7 are the nibbles of byte j+4 below the top bits of bytes j-4 and j.
func scaleMin(b *[12]byte, j int) (s, m float32) {
	if j < 4 {
		return float32(b[j] & 63), float32(b[j+4] & 63)
	}
	return float32(b[j+4]&15 | b[j-4]>>6<<4), float32(b[j+4]>>4 | b[j]>>6<<4)
}

// decodeQ4_K: d; dmin; 12 bytes of scales and minima, one pair for each 32
// weights; 128 bytes of nibbles. w = (d s) q - dmin m.
// Of each 32 bytes the low nibbles are one sub-block, the high ones the next.
func decodeQ4_K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[144:] {
		y, b := (*[256]float32)(dst), (*[144]byte)(src)
		d, dmin, sm := scale(b[:]), scale(b[2:]), (*[12]byte)(b[4:])
		for i := range 4 {
			s, m := scaleMin(sm, 2*i)
			d0, m0 := d*s, float32(dmin*m)
			s, m = scaleMin(sm, 2*i+1)
			d1, m1 := d*s, float32(dmin*m)
			q, z := (*[32]byte)(b[16+32*i:]), (*[64]float32)(y[64*i:])
			for j, c := range q {
				z[j] = float32(d0*float32(int32(c&15))) - m0
				z[j+32] = float32(d1*float32(int32(c>>4))) - m1
			}
		}
	}
}

// decodeQ5_K: as Q4_K with 32 bytes of fifth bits before the nibbles: bit k of
// byte j belongs to weight j of sub-block k.
func decodeQ5_K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[176:] {
		y, b := (*[256]float32)(dst), (*[176]byte)(src)
		d, dmin, sm, h := scale(b[:]), scale(b[2:]), (*[12]byte)(b[4:]), (*[32]byte)(b[16:])
		for i := range 4 {
			s, m := scaleMin(sm, 2*i)
			d0, m0 := d*s, float32(dmin*m)
			s, m = scaleMin(sm, 2*i+1)
			d1, m1 := d*s, float32(dmin*m)
			q, z := (*[32]byte)(b[48+32*i:]), (*[64]float32)(y[64*i:])
			for j, c := range q {
				k := h[j] >> (2 * i)
				z[j] = float32(d0*float32(int32(c&15|k&1<<4))) - m0
				z[j+32] = float32(d1*float32(int32(c>>4|k&2<<3))) - m1
			}
		}
	}
}

// decodeQ6_K: 128 bytes of low nibbles; 64 bytes of high pairs; 16 int8 scales,
// one for each 16 weights; d. w = (d s) (q-32).
// In each half, byte j of 32 holds: low nibble of the first run weight j, of
// the second j+32; high nibbles j+64 and j+96; pair k of the high byte 32k+j.
func decodeQ6_K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[210:] {
		y, b := (*[256]float32)(dst), (*[210]byte)(src)
		d := scale(b[208:])
		for i := range 4 { // i = 2 half + which 16 of the 32 bytes
			at := i>>1*64 + i&1*16
			q0, q1 := (*[16]byte)(b[at:]), (*[16]byte)(b[at+32:])
			h := (*[16]byte)(b[128+16*i:])
			s := (*[7]byte)(b[192+i>>1*8+i&1:])
			d0, d1 := d*float32(int8(s[0])), d*float32(int8(s[2]))
			d2, d3 := d*float32(int8(s[4])), d*float32(int8(s[6]))
			z := (*[112]float32)(y[i>>1*128+i&1*16:])
			for j := range 16 {
				a, c, k := int32(q0[j]), int32(q1[j]), int32(h[j])
				z[j] = d0 * float32(a&15|k<<4&48-32)
				z[j+32] = d1 * float32(c&15|k<<2&48-32)
				z[j+64] = d2 * float32(a>>4|k&48-32)
				z[j+96] = d3 * float32(c>>4|k>>2&48-32)
			}
		}
	}
}
