package quantize

import (
	"fmt"
	"strings"

	"github.com/herd-ml/herd/backend"
)

// A Mix is a way to make a model small, under the name that llama.cpp has for it: a type
// for most matrices, and others for those that suffer more. The zero value is none.
type Mix uint8

// The mixes. Those of one type end in nothing or S, larger ones in M and L.
const (
	F32 Mix = iota + 1
	F16
	BF16
	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q2_K
	Q2_K_S
	Q3_K_S
	Q3_K_M
	Q3_K_L
	Q4_K_S
	Q4_K_M
	Q5_K_S
	Q5_K_M
	Q6_K
	IQ4_NL
	IQ4_XS
	TQ1_0
	TQ2_0
	MXFP4
	numMixes
)

// mixes is indexed by Mix: its name, the type of most matrices, and the number that files
// have for it under general.file_type
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#general-metadata).
var mixes = [numMixes]struct {
	name     string
	base     backend.DType
	fileType uint32
}{
	F32:    {"F32", backend.F32, 0},
	F16:    {"F16", backend.F16, 1},
	BF16:   {"BF16", backend.BF16, 32},
	Q4_0:   {"Q4_0", backend.Q4_0, 2},
	Q4_1:   {"Q4_1", backend.Q4_1, 3},
	Q5_0:   {"Q5_0", backend.Q5_0, 8},
	Q5_1:   {"Q5_1", backend.Q5_1, 9},
	Q8_0:   {"Q8_0", backend.Q8_0, 7},
	Q2_K:   {"Q2_K", backend.Q2_K, 10},
	Q2_K_S: {"Q2_K_S", backend.Q2_K, 21},
	Q3_K_S: {"Q3_K_S", backend.Q3_K, 11},
	Q3_K_M: {"Q3_K_M", backend.Q3_K, 12},
	Q3_K_L: {"Q3_K_L", backend.Q3_K, 13},
	Q4_K_S: {"Q4_K_S", backend.Q4_K, 14},
	Q4_K_M: {"Q4_K_M", backend.Q4_K, 15},
	Q5_K_S: {"Q5_K_S", backend.Q5_K, 16},
	Q5_K_M: {"Q5_K_M", backend.Q5_K, 17},
	Q6_K:   {"Q6_K", backend.Q6_K, 18},
	IQ4_NL: {"IQ4_NL", backend.IQ4_NL, 25},
	IQ4_XS: {"IQ4_XS", backend.IQ4_XS, 30},
	TQ1_0:  {"TQ1_0", backend.TQ1_0, 36},
	TQ2_0:  {"TQ2_0", backend.TQ2_0, 37},
	MXFP4:  {"MXFP4", backend.MXFP4, 38},
}

// aliases are other names that llama.cpp takes.
var aliases = map[string]Mix{"Q3_K": Q3_K_M, "Q4_K": Q4_K_M, "Q5_K": Q5_K_M}

// String is the name, such as "Q4_K_M".
func (m Mix) String() string {
	if m == 0 || m >= numMixes {
		return fmt.Sprintf("Mix(%d)", uint8(m))
	}
	return mixes[m].name
}

// Base is the type of most matrices.
func (m Mix) Base() backend.DType { return mixes[m].base }

// FileType is the number for the mix in files, under general.file_type.
func (m Mix) FileType() uint32 { return mixes[m].fileType }

// Mixes lists all of them.
func Mixes() (list []Mix) {
	for m := F32; m < numMixes; m++ {
		list = append(list, m)
	}
	return list
}

// ParseMix returns the mix of a name, in upper or lower case. Q3_K, Q4_K and Q5_K are the
// mixes that end in M.
func ParseMix(name string) (Mix, error) {
	if m, ok := aliases[strings.ToUpper(name)]; ok {
		return m, nil
	}
	var known []string
	for _, m := range Mixes() {
		if strings.EqualFold(name, m.String()) {
			return m, nil
		}
		known = append(known, m.String())
	}
	return 0, fmt.Errorf("the type is %q, want one of %s", name, strings.Join(known, ", "))
}

// ParseType returns the type of a name that a matrix can be stored as, in upper or lower
// case.
func ParseType(name string) (backend.DType, error) {
	var known []string
	for _, t := range Types() {
		if strings.EqualFold(name, t.String()) {
			return t, nil
		}
		known = append(known, t.String())
	}
	return backend.Invalid, fmt.Errorf("the type is %q, want one of %s", name, strings.Join(known, ", "))
}

// Types lists the types that matrices can be stored as: those of the mixes.
func Types() (list []backend.DType) {
	seen := map[backend.DType]bool{}
	for _, m := range Mixes() {
		if t := m.Base(); !seen[t] {
			seen[t] = true
			list = append(list, t)
		}
	}
	return list
}
