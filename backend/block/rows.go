package block

import (
	"encoding/binary"
	"math"

	"github.com/herd-ml/herd/backend"
)

// DecodeRows is Decode of whole rows of cols weights, as files have them: with the
// scale that a row of E4M3 begins with.
func DecodeRows(t backend.DType, dst []float32, src []byte, cols int) {
	if t.RowHead() == 0 {
		Decode(t, dst, src)
		return
	}
	size := t.RowHead() + cols/t.BlockElems()*t.BlockBytes()
	if cols <= 0 || len(dst)%cols != 0 || len(src) != len(dst)/cols*size {
		panic("block: DecodeRows lengths do not match")
	}
	for ; len(dst) > 0; dst, src = dst[cols:], src[size:] {
		DecodeColumns(t, dst[:cols], src[:size], 0)
	}
}

// DecodeColumns writes columns [col, col+len(dst)) of a row to dst, whole blocks. row is
// as the file has it.
func DecodeColumns(t backend.DType, dst []float32, row []byte, col int) {
	e, n := t.BlockElems(), t.BlockBytes()
	Decode(t, dst, row[t.RowHead()+col/e*n:][:len(dst)/e*n])
	if t.RowHead() > 0 {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(row))
		for i := range dst {
			dst[i] *= scale
		}
	}
}

// EncodeE4M3 writes a row of weights as type E4M3 has it: RoundE4M3 without a bound.
// len(row) must be 4 more than len(x). x must be finite.
func EncodeE4M3(row []byte, x []float32) {
	inverse := RoundE4M3(row[4:], x, math.MaxFloat32)
	binary.LittleEndian.PutUint32(row, math.Float32bits(inverse))
}

// RoundE4M3 is the operation RoundE4M3 for one row, bound in the place of
// backend.E4M3Bound: it writes the codes and returns the scale that they are multiplied
// with.
func RoundE4M3(codes []byte, x []float32, bound float32) (inverse float32) {
	codes = codes[:len(x)]
	m := float32(1e-12)
	for _, v := range x {
		m = max(m, v, -v) // NaN where one is
	}
	if m != m {
		for i := range codes {
			codes[i] = nanE4M3
		}
		return m
	}
	scale := largestE4M3 / min(m, bound)
	for i, v := range x {
		codes[i] = F32ToE4M3(min(max(v*scale, -largestE4M3), largestE4M3), true)
	}
	return 1 / scale
}

const (
	largestE4M3 = 448
	nanE4M3     = 0x7f
)

func decodeE4M3(dst []float32, src []byte) {
	src = src[:len(dst)]
	for i, c := range src {
		dst[i] = E4M3ToF32(c)
	}
}
