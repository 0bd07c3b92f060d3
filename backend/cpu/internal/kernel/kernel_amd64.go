//go:build !noasm

package kernel

import (
	"errors"

	"github.com/klauspost/cpuid/v2"
)

// AVX2 returns the kernels for AVX2, FMA and F16C, or why they do not run here.
func AVX2() (*Set, error) {
	if err := missing(cpuid.AVX2, cpuid.FMA3, cpuid.F16C); err != nil {
		return nil, err
	}
	return &Set{
		name:  "avx2",
		f32:   product[float32]{6, f32AVX2},
		f16:   product[uint16]{6, f16AVX2},
		bf16:  product[uint16]{6, bf16AVX2},
		q8:    productQ8{4, q8AVX2},
		round: roundAVX2,
	}, nil
}

// AVX512 returns the kernels for AVX-512 with VNNI, or why they do not run here.
func AVX512() (*Set, error) {
	if err := missing(cpuid.AVX2, cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL, cpuid.AVX512VNNI); err != nil {
		return nil, err
	}
	return &Set{
		name:  "avx512",
		f32:   product[float32]{12, f32AVX512},
		f16:   product[uint16]{12, f16AVX512},
		bf16:  product[uint16]{12, bf16AVX512},
		q8:    productQ8{12, q8AVX512},
		round: roundAVX2,
	}, nil
}

// missing names the first feature that the processor or the system lacks.
func missing(need ...cpuid.FeatureID) error {
	for _, f := range need {
		if !cpuid.CPU.Has(f) {
			return errors.New("kernel: no " + f.String())
		}
	}
	return nil
}
