//go:build !amd64 || noasm

package kernel

// AVX2 returns the kernels for AVX2, FMA and F16C, or why they do not run here.
func AVX2() (*Set, error) { return nil, errNoasm }

// AVX512 returns the kernels for AVX-512 with VNNI, or why they do not run here.
func AVX512() (*Set, error) { return nil, errNoasm }
