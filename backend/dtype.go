package backend

import (
	"fmt"
	"math"
	"strings"
)

// DType is the type of the elements of a buffer or a weight. Block types store
// a fixed number of elements in a fixed number of bytes; the layouts are those
// of the GGUF container (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
// Of E4M3 each row begins with a scale, an F32, which its codes are multiplied with
// (https://arxiv.org/abs/2407.21783, section 6.2).
// The zero value is not a type.
type DType uint8

// The types a tensor may have. Q, IQ, TQ, MXFP and NVFP types are block
// types, and so is E4M3 but for the scale of a row; package backend/block decodes
// them.
const (
	Invalid DType = iota
	F32
	F16
	BF16
	I8
	I32
	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q2_K
	Q3_K
	Q4_K
	Q5_K
	Q6_K
	IQ1_S
	IQ1_M
	IQ2_XXS
	IQ2_XS
	IQ2_S
	IQ3_XXS
	IQ3_S
	IQ4_NL
	IQ4_XS
	TQ1_0
	TQ2_0
	MXFP4
	NVFP4
	E4M3
	numDTypes
)

// dtypes is indexed by DType: name, elements per block, bytes per block.
var dtypes = [numDTypes]struct {
	name         string
	elems, bytes int
}{
	Invalid: {"invalid", 1, 0},
	F32:     {"F32", 1, 4},
	F16:     {"F16", 1, 2},
	BF16:    {"BF16", 1, 2},
	I8:      {"I8", 1, 1},
	I32:     {"I32", 1, 4},
	Q4_0:    {"Q4_0", 32, 18},
	Q4_1:    {"Q4_1", 32, 20},
	Q5_0:    {"Q5_0", 32, 22},
	Q5_1:    {"Q5_1", 32, 24},
	Q8_0:    {"Q8_0", 32, 34},
	Q2_K:    {"Q2_K", 256, 84},
	Q3_K:    {"Q3_K", 256, 110},
	Q4_K:    {"Q4_K", 256, 144},
	Q5_K:    {"Q5_K", 256, 176},
	Q6_K:    {"Q6_K", 256, 210},
	IQ1_S:   {"IQ1_S", 256, 50},
	IQ1_M:   {"IQ1_M", 256, 56},
	IQ2_XXS: {"IQ2_XXS", 256, 66},
	IQ2_XS:  {"IQ2_XS", 256, 74},
	IQ2_S:   {"IQ2_S", 256, 82},
	IQ3_XXS: {"IQ3_XXS", 256, 98},
	IQ3_S:   {"IQ3_S", 256, 110},
	IQ4_NL:  {"IQ4_NL", 32, 18},
	IQ4_XS:  {"IQ4_XS", 256, 136},
	TQ1_0:   {"TQ1_0", 256, 54},
	TQ2_0:   {"TQ2_0", 256, 66},
	MXFP4:   {"MXFP4", 32, 17},
	NVFP4:   {"NVFP4", 64, 36},
	E4M3:    {"E4M3", 1, 1},
}

// String returns the name that GGUF tools print, "Q4_K" for example.
func (t DType) String() string {
	if t >= numDTypes {
		return fmt.Sprintf("DType(%d)", uint8(t))
	}
	return dtypes[t].name
}

// Valid reports whether t is one of the types above.
func (t DType) Valid() bool { return t > Invalid && t < numDTypes }

// BlockElems is the number of elements in one block, 1 for plain types.
func (t DType) BlockElems() int { return dtypes[t].elems }

// BlockBytes is the number of bytes in one block.
func (t DType) BlockBytes() int { return dtypes[t].bytes }

// RowHead is the number of bytes that a row begins with, before its blocks: 4 of
// E4M3, which are the F32 scale of the row, else 0.
func (t DType) RowHead() int {
	if t == E4M3 {
		return 4
	}
	return 0
}

// Float reports whether t is F32, F16 or BF16.
func (t DType) Float() bool { return t >= F32 && t <= BF16 }

// Quantized reports whether t is a type of codes with scales, of blocks or of rows.
func (t DType) Quantized() bool { return t >= Q4_0 && t < numDTypes }

// RowBytes returns the bytes of a row of n elements, RowHead included. It refuses an n that is
// negative, not a whole number of blocks, or too large for an int64.
func (t DType) RowBytes(n int64) (int64, error) {
	if !t.Valid() {
		return 0, fmt.Errorf("%v has no size", t)
	}
	e, b, head := int64(dtypes[t].elems), int64(dtypes[t].bytes), int64(t.RowHead())
	if n < 0 || n%e != 0 {
		return 0, fmt.Errorf("a row of %d elements is not a whole number of %v blocks of %d", n, t, e)
	}
	if n/e > (math.MaxInt64-head)/b {
		return 0, fmt.Errorf("the size of %d elements of %v does not fit 63 bits", n, t)
	}
	return head + n/e*b, nil
}

// ParseDType returns the type with the given name, in any letter case.
func ParseDType(name string) (DType, error) {
	for t := F32; t < numDTypes; t++ {
		if strings.EqualFold(dtypes[t].name, name) {
			return t, nil
		}
	}
	return Invalid, fmt.Errorf("unknown data type %q", name)
}

// DTypes lists every valid type, in order.
func DTypes() []DType {
	ts := make([]DType, 0, numDTypes-1)
	for t := F32; t < numDTypes; t++ {
		ts = append(ts, t)
	}
	return ts
}
