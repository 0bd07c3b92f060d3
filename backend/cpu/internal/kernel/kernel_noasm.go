//go:build !amd64 || noasm

package kernel

import "errors"

// errNoasm is why there is no assembly variant.
var errNoasm = errors.New("kernel: built without assembly")

// AVX2 returns the kernels for AVX2, FMA and F16C, or why they do not run here.
func AVX2() (*Set, error) { return nil, errNoasm }

// AVX512 returns the kernels for AVX-512 with VNNI, or why they do not run here.
func AVX512() (*Set, error) { return nil, errNoasm }

// Without assembly no Set has vector set, so that these are never called.

func scaleMaxAVX2([]float32, float32, *float32) { panic(errNoasm) }
func expSumAVX2([]float32, float32, *float32)   { panic(errNoasm) }
func swigluAVX2(_, _, _ []float32)              { panic(errNoasm) }
func addAVX2(_, _, _ []float32)                 { panic(errNoasm) }
func mixAVX2(_, _ []float32, _, _ float32)      { panic(errNoasm) }
func widenF16AVX2([]float32, []uint16)          { panic(errNoasm) }
func widenPairsAVX2([]float32, []uint16)        { panic(errNoasm) }
func roundBF16AVX2([]uint16, []float32)         { panic(errNoasm) }
