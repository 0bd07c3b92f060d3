package block

import (
	"encoding/binary"
	"math"

	"github.com/herd-ml/herd/backend"
)

// decoders is indexed by DType. Each entry decodes len(dst) values from the
// start of src and panics if src is too short.
var decoders = [...]func(dst []float32, src []byte){
	backend.F32:     decodeF32,
	backend.F16:     decodeF16,
	backend.BF16:    decodeBF16,
	backend.I8:      decodeI8,
	backend.I32:     decodeI32,
	backend.Q4_0:    decodeQ4_0,
	backend.Q4_1:    decodeQ4_1,
	backend.Q5_0:    decodeQ5_0,
	backend.Q5_1:    decodeQ5_1,
	backend.Q8_0:    decodeQ8_0,
	backend.Q2_K:    decodeQ2_K,
	backend.Q3_K:    decodeQ3_K,
	backend.Q4_K:    decodeQ4_K,
	backend.Q5_K:    decodeQ5_K,
	backend.Q6_K:    decodeQ6_K,
	backend.IQ1_S:   decodeIQ1_S,
	backend.IQ1_M:   decodeIQ1_M,
	backend.IQ2_XXS: decodeIQ2_XXS,
	backend.IQ2_XS:  decodeIQ2_XS,
	backend.IQ2_S:   decodeIQ2_S,
	backend.IQ3_XXS: decodeIQ3_XXS,
	backend.IQ3_S:   decodeIQ3_S,
	backend.IQ4_NL:  decodeIQ4_NL,
	backend.IQ4_XS:  decodeIQ4_XS,
	backend.TQ1_0:   decodeTQ1_0,
	backend.TQ2_0:   decodeTQ2_0,
	backend.MXFP4:   decodeMXFP4,
	backend.NVFP4:   decodeNVFP4,
	backend.E4M3:    decodeE4M3,
}

// Decode writes the values of the blocks in src to dst. len(dst) must be a
// whole number of blocks and len(src) their size in bytes; a mismatch, or a
// type that is not valid, panics. No content of src can make it panic.
//
// Every type is exact but I32, which rounds integers beyond 24 bits. E4M3 is decoded
// without the scale of its row: see DecodeRows.
func Decode(t backend.DType, dst []float32, src []byte) {
	f := Decoder(t)
	if f == nil {
		panic("block: Decode of an invalid type")
	}
	if n := t.BlockElems(); len(dst)%n != 0 || len(src)%t.BlockBytes() != 0 || len(dst)/n != len(src)/t.BlockBytes() {
		panic("block: Decode lengths do not match")
	}
	f(dst, src)
}

// Decoder returns the function behind Decode(t, ...), for loops that look it
// up once, or nil if t is not valid. The function takes the same lengths; it
// does not check them, but never reads or writes out of range.
func Decoder(t backend.DType) func(dst []float32, src []byte) {
	if int(t) >= len(decoders) {
		return nil
	}
	return decoders[t]
}

// scale reads the float16 at the start of b.
func scale(b []byte) float32 { return F16ToF32(binary.LittleEndian.Uint16(b)) }

func decodeI8(dst []float32, src []byte) {
	src = src[:len(dst)]
	for i, b := range src {
		dst[i] = float32(int8(b))
	}
}

func decodeI32(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = float32(int32(binary.LittleEndian.Uint32(src[4*i:])))
	}
}

func decodeF32(dst []float32, src []byte) {
	src = src[:4*len(dst)]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func decodeF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

func decodeBF16(dst []float32, src []byte) {
	src = src[:2*len(dst)]
	for i := range dst {
		dst[i] = BF16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
	}
}
