package block

import (
	"fmt"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
)

// encoders is indexed by DType. encode writes src, whole blocks of finite values, to dst; w
// is nil or has a weight for each value, which only those that search look at.
var encoders = [...]struct {
	encode   func(g *grid, dst []byte, src, w []float32)
	searches bool
}{
	backend.F32:    {encodeFloat(backend.F32), false},
	backend.F16:    {encodeFloat(backend.F16), false},
	backend.BF16:   {encodeFloat(backend.BF16), false},
	backend.Q4_0:   {encodeQ4_0, true},
	backend.Q4_1:   {encodeQ4_1, true},
	backend.Q5_0:   {encodeQ5_0, true},
	backend.Q5_1:   {encodeQ5_1, true},
	backend.Q8_0:   {encodeQ8_0, false},
	backend.Q2_K:   {encodeQ2_K, true},
	backend.Q3_K:   {encodeQ3_K, true},
	backend.Q4_K:   {encodeQ4_K, true},
	backend.Q5_K:   {encodeQ5_K, true},
	backend.Q6_K:   {encodeQ6_K, true},
	backend.IQ4_NL: {encodeIQ4_NL, true},
	backend.IQ4_XS: {encodeIQ4_XS, true},
	backend.TQ1_0:  {encodeTQ1_0, false},
	backend.TQ2_0:  {encodeTQ2_0, false},
	backend.MXFP4:  {encodeMXFP4, false},
	backend.E4M3:   {func(_ *grid, dst []byte, src, _ []float32) { EncodeE4M3(dst, src) }, false},
}

// Encodable reports whether EncodeRow writes type t.
func Encodable(t backend.DType) bool { return int(t) < len(encoders) && encoders[t].encode != nil }

// An EncodeError says why EncodeRow refuses a row.
type EncodeError struct {
	Type   backend.DType
	Index  int // the first number that is wrong, -1 where none is to blame
	Reason string
}

func (e *EncodeError) Error() string {
	if e.Index < 0 {
		return fmt.Sprintf("block: a row as %v: %s", e.Type, e.Reason)
	}
	return fmt.Sprintf("block: a row as %v: column %d: %s", e.Type, e.Index, e.Reason)
}

// EncodeRow writes a row of weights to dst as type t has it, len(dst) = t.RowBytes(len(row)).
//
// importance is nil or says how much the error of each column matters, at least 0: for a
// matrix that multiplies x it is the mean of x[i]^2. EncodeRow makes this sum small:
//
//	sum of importance[i] (row[i] - decoded[i])^2
//
// Without importance each weight of the sum is 1. With importance the sum is never larger
// than that of the bytes without it. Q8_0, TQ1_0, TQ2_0, MXFP4 and the floats ignore
// importance. Their bytes, and those of Q4_0, Q4_1, Q5_0 and Q5_1 without importance, are
// those of the reference encoders of the GGUF formats (https://github.com/ggml-org/ggml,
// MIT), to the last bit. The other types search for their scales, which takes some 20 times
// as long (see Encoder).
//
// It refuses, with an *EncodeError, lengths that do not fit, numbers that are not finite
// and those whose scales would not be, and types that are not Encodable. dst then holds
// nothing of use.
func EncodeRow(t backend.DType, dst []byte, row, importance []float32) error {
	var e Encoder
	return e.Row(t, dst, row, importance)
}

// An Encoder writes rows like EncodeRow, in memory of its own: for loops over rows. It is
// for one goroutine.
type Encoder struct {
	// Measure compares scales, with the bits of MeasureScales, which nil stands for. Most
	// of the time of a search is its.
	Measure ScaleMeasure

	grid    grid
	plain   [256]byte
	decoded [256]float32
}

// Row is EncodeRow.
func (e *Encoder) Row(t backend.DType, dst []byte, row, importance []float32) error {
	fail := func(i int, format string, a ...any) error {
		return &EncodeError{Type: t, Index: i, Reason: fmt.Sprintf(format, a...)}
	}
	if !Encodable(t) {
		return fail(-1, "it has no encoder")
	}
	switch size, err := t.RowBytes(int64(len(row))); {
	case err != nil:
		return fail(-1, "%v", err)
	case int64(len(dst)) != size:
		return fail(-1, "%d bytes for a row of %d columns, which takes %d", len(dst), len(row), size)
	case importance != nil && len(importance) != len(row):
		return fail(-1, "importance of %d columns for a row of %d", len(importance), len(row))
	}
	most := largest(row)
	if !(most <= math.MaxFloat32) {
		i := firstNonFinite(row)
		return fail(i, "%g is not finite", row[i])
	}
	for i, v := range importance {
		if !(v >= 0 && v <= math.MaxFloat32) {
			return fail(i, "importance %g is not a finite number of at least 0", v)
		}
	}
	if e.grid.by = e.Measure; e.Measure == nil {
		e.grid.by = MeasureScales
	}
	if importance != nil && encoders[t].searches {
		e.weighted(t, dst, row, importance)
	} else {
		encoders[t].encode(&e.grid, dst, row, nil)
	}
	// The scales of the block types are float16.
	if most > 1<<15 {
		decoded := make([]float32, len(row))
		DecodeRows(t, decoded, dst, len(row))
		if i := firstNonFinite(decoded); i >= 0 {
			i -= i % t.BlockElems()
			of := row[i : i+t.BlockElems()]
			most = largest(of)
			i += slices.IndexFunc(of, func(x float32) bool { return x == most || x == -most })
			return fail(i, "%g is beyond the range of the type", row[i])
		}
	}
	return nil
}

// weighted writes each block with importance and without, and keeps what has less of the
// weighted error: the search looks at some scales only.
func (e *Encoder) weighted(t backend.DType, dst []byte, row, importance []float32) {
	n, size := t.BlockElems(), t.BlockBytes()
	plain, decoded := e.plain[:size], e.decoded[:n]
	loss := func(b []byte, x, w []float32) (sum float64) {
		Decode(t, decoded, b)
		for i, v := range x {
			d := float64(v) - float64(decoded[i])
			sum += float64(d * d * float64(w[i]))
		}
		return sum
	}
	for ; len(row) > 0; dst, row, importance = dst[size:], row[n:], importance[n:] {
		b, x, w := dst[:size], row[:n], importance[:n]
		encoders[t].encode(&e.grid, b, x, w)
		encoders[t].encode(&e.grid, plain, x, nil)
		if loss(plain, x, w) < loss(b, x, w) {
			copy(b, plain)
		}
	}
}

// largest returns the largest magnitude of x, NaN if one of x is.
func largest(x []float32) float32 {
	var a, b uint32 // magnitudes compare like their bits, NaN above infinity
	for ; len(x) >= 2; x = x[2:] {
		a = max(a, math.Float32bits(x[0])&^(1<<31))
		b = max(b, math.Float32bits(x[1])&^(1<<31))
	}
	for _, v := range x {
		a = max(a, math.Float32bits(v)&^(1<<31))
	}
	return math.Float32frombits(max(a, b))
}

// firstNonFinite returns the index of the first NaN or infinity of x, or -1.
func firstNonFinite(x []float32) int {
	for i, v := range x {
		if v-v != 0 {
			return i
		}
	}
	return -1
}

func encodeFloat(t backend.DType) func(g *grid, dst []byte, src, w []float32) {
	return func(_ *grid, dst []byte, src, _ []float32) { Encode(t, dst, src) }
}
