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
