package gguf

import (
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
)

// tensorTypes is indexed by the type number that files use (enum ggml_type in
// https://github.com/ggml-org/ggml/blob/master/include/ggml.h). An entry
// without a dtype is refused for the reason it gives.
var tensorTypes = [...]struct {
	name    string
	dtype   backend.DType
	refused string
}{
	0:  {"F32", backend.F32, ""},
	1:  {"F16", backend.F16, ""},
	2:  {"Q4_0", backend.Q4_0, ""},
	3:  {"Q4_1", backend.Q4_1, ""},
	4:  {"Q4_2", 0, retired},
	5:  {"Q4_3", 0, retired},
	6:  {"Q5_0", backend.Q5_0, ""},
	7:  {"Q5_1", backend.Q5_1, ""},
	8:  {"Q8_0", backend.Q8_0, ""},
	9:  {"Q8_1", 0, activations},
	10: {"Q2_K", backend.Q2_K, ""},
	11: {"Q3_K", backend.Q3_K, ""},
	12: {"Q4_K", backend.Q4_K, ""},
	13: {"Q5_K", backend.Q5_K, ""},
	14: {"Q6_K", backend.Q6_K, ""},
	15: {"Q8_K", 0, activations},
	16: {"IQ2_XXS", backend.IQ2_XXS, ""},
	17: {"IQ2_XS", backend.IQ2_XS, ""},
	18: {"IQ3_XXS", backend.IQ3_XXS, ""},
	19: {"IQ1_S", backend.IQ1_S, ""},
	20: {"IQ4_NL", backend.IQ4_NL, ""},
	21: {"IQ3_S", backend.IQ3_S, ""},
	22: {"IQ2_S", backend.IQ2_S, ""},
	23: {"IQ4_XS", backend.IQ4_XS, ""},
	24: {"I8", backend.I8, ""},
	25: {"I16", 0, unsupported},
	26: {"I32", backend.I32, ""},
	27: {"I64", 0, unsupported},
	28: {"F64", 0, unsupported},
	29: {"IQ1_M", backend.IQ1_M, ""},
	30: {"BF16", backend.BF16, ""},
	31: {"Q4_0_4_4", 0, retired},
	32: {"Q4_0_4_8", 0, retired},
	33: {"Q4_0_8_8", 0, retired},
	34: {"TQ1_0", backend.TQ1_0, ""},
	35: {"TQ2_0", backend.TQ2_0, ""},
	36: {"IQ4_NL_4_4", 0, retired},
	37: {"IQ4_NL_4_8", 0, retired},
	38: {"IQ4_NL_8_8", 0, retired},
	39: {"MXFP4", backend.MXFP4, ""},
	40: {"NVFP4", backend.NVFP4, ""},
	41: {"Q1_0", 0, unsupported},
	42: {"Q2_0", 0, unsupported},
}

const (
	retired     = "was retired from the format"
	activations = "is for activations only"
	unsupported = "is not supported"
)

// dtypeOf returns the type with a file's number, or an error that names it.
func dtypeOf(id uint32) (backend.DType, error) {
	if id >= uint32(len(tensorTypes)) {
		return backend.Invalid, fmt.Errorf("type %d is unknown", id)
	}
	t := tensorTypes[id]
	if t.refused != "" {
		return backend.Invalid, fmt.Errorf("type %s (%d) %s", t.name, id, t.refused)
	}
	return t.dtype, nil
}

// idOf is the inverse of dtypeOf.
func idOf(t backend.DType) (uint32, bool) {
	for id, x := range tensorTypes {
		if x.dtype == t && t.Valid() {
			return uint32(id), true
		}
	}
	return 0, false
}

// sizeOf returns the bytes of a tensor. It refuses more than maxDims
// dimensions, one below 1, rows that are not whole blocks, and a number of
// elements or bytes that does not fit an int or int64.
func sizeOf(t backend.DType, shape []int) (int64, error) {
	if len(shape) > maxDims {
		return 0, fmt.Errorf("it has %d dimensions, at most %d are allowed", len(shape), maxDims)
	}
	row, elems := int64(1), int64(1)
	for i, d := range shape {
		if d < 1 {
			return 0, fmt.Errorf("dimension %d of shape %v is not positive", i, shape)
		}
		if elems > math.MaxInt/int64(d) {
			return 0, fmt.Errorf("shape %v has too many elements", shape)
		}
		elems *= int64(d)
		row = int64(d)
	}
	rowBytes, err := t.RowBytes(row)
	if err != nil {
		return 0, err
	}
	if rowBytes > math.MaxInt64/(elems/row) {
		return 0, fmt.Errorf("shape %v of %v has too many bytes", shape, t)
	}
	return elems / row * rowBytes, nil
}
