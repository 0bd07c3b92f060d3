//go:build !amd64 || noasm

package kernel

import "errors"

// errNoasm is why there is no assembly variant.
var errNoasm = errors.New("kernel: built without assembly")

// AVX2 returns the kernels for AVX2, FMA and F16C, or why they do not run here.
func AVX2() (*Set, error) { return nil, errNoasm }

// AVX512 returns the kernels for AVX-512 with VNNI, or why they do not run here.
func AVX512() (*Set, error) { return nil, errNoasm }

// AMX returns the kernels for AMX, or why they do not run here.
func AMX() (*Set, error) { return nil, errNoasm }

// Without assembly no Set has vector or wide set, so that these are never called.

func dotsAMX(*int64)                                   { panic(errNoasm) }
func scaleMaxAVX2([]float32, float32, *float32)        { panic(errNoasm) }
func expSumAVX2([]float32, float32, *float32)          { panic(errNoasm) }
func swigluAVX2(_, _, _ []float32)                     { panic(errNoasm) }
func scaleMaxAVX512([]float32, float32) float32        { panic(errNoasm) }
func expSumAVX512([]float32, float32) float32          { panic(errNoasm) }
func swigluAVX512(_, _, _ []float32)                   { panic(errNoasm) }
func widenBF16AVX2([]float32, []uint16)                { panic(errNoasm) }
func widenQ8KeysAVX2([]float32, *byte, *uint16, *byte) { panic(errNoasm) }
func widenQ8AVX2([]float32, *byte, *uint16, *byte)     { panic(errNoasm) }
func roundF16AVX2([]uint16, []float32)                 { panic(errNoasm) }
func askAVX2(*byte, int)                               { panic(errNoasm) }
func addAVX2(_, _, _ []float32)                        { panic(errNoasm) }
func mixAVX2(_, _ []float32, _, _ float32)             { panic(errNoasm) }
func sumSquaresAVX2([]float32, *float64)               { panic(errNoasm) }
func scaledAVX2(_, _, _ []float32, _ float32)          { panic(errNoasm) }
func adamWAVX2(_, _, _, _ []float32, _ *float32)       { panic(errNoasm) }
func adamWAVX512(_, _, _, _ []float32, _ *float32)     { panic(errNoasm) }
func rotateAVX2(_, _, _, _ []float32)                  { panic(errNoasm) }
func rotateBackAVX2(_, _, _, _ []float32)              { panic(errNoasm) }
func swigluBackwardAVX2(_, _, _, _, _ []float32)       { panic(errNoasm) }
func swigluBackwardAVX512(_, _, _, _, _ []float32)     { panic(errNoasm) }
func normSumsAVX2(_, _, _ []float32, _ *float64)       { panic(errNoasm) }
func normBackwardAVX2(_, _, _, _, _ []float32, _, _ float32) {
	panic(errNoasm)
}
func widenF16AVX2([]float32, []uint16)                { panic(errNoasm) }
func widenPairsAVX2([]float32, []uint16)              { panic(errNoasm) }
func roundBF16AVX2([]uint16, []float32)               { panic(errNoasm) }
func packWordsAVX2(_, _ *byte, _, _, _, _, _ int)     { panic(errNoasm) }
func transposeWordsAVX2(_, _ *byte, _, _, _ int)      { panic(errNoasm) }
func roundPairsAVX2(_ *byte, _, _ *float32, _, _ int) { panic(errNoasm) }

func mulAVX2(_, _, _ []float32)                              { panic(errNoasm) }
func maxIntoAVX2(_, _ []float32)                             { panic(errNoasm) }
func expIntoAVX2(_, _, _ []float32)                          { panic(errNoasm) }
func expIntoAVX512(_, _, _ []float32)                        { panic(errNoasm) }
func scoreGradsAVX2(_, _, _, _ []float32)                    { panic(errNoasm) }
func scoreGradsAVX512(_, _, _, _ []float32)                  { panic(errNoasm) }
func scoreGrads16AVX512(_, _ []uint16, _, _, _, _ []float32) { panic(errNoasm) }
func scaleAVX2(_, _ []float32, _ float32)                    { panic(errNoasm) }
func dotAVX2(_, _ []float32, _ *float32)                     { panic(errNoasm) }
func expPairsAVX512(_ []uint16, _, _, _, _ []float32)        { panic(errNoasm) }
func scale16AVX512(_ []float32, _ []uint16, _ float32)       { panic(errNoasm) }
func interleaveAVX512(_, _, _ []uint16)                      { panic(errNoasm) }
