package kernel_test

import (
	"fmt"

	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// Two rows of three inputs are multiplied by a panel whose output j has the
// weights j, 1, 0.
func ExampleSet_F32() {
	w := make([]float32, 3*kernel.Panel)
	for j := range kernel.Panel {
		w[j], w[kernel.Panel+j] = float32(j), 1
	}
	x := []float32{1, 0, 7, 2, 5, 7}
	out := make([]float32, 2*kernel.Panel)
	kernel.Best().F32(1, out, kernel.Panel, x, 3, w, kernel.Panel, 0, 2, 3, false)
	fmt.Println(out[:4], out[kernel.Panel:][:4])
	// Output: [0 1 2 3] [5 7 9 11]
}

// The largest magnitude of a group becomes 127; d is what a code counts for.
func ExampleSet_RoundI8() {
	x := make([]float32, 16)
	x[0], x[1], x[2] = 63.5, -10, 1.25
	codes, d, sums := make([]int8, 16), make([]float32, 1), make([]int32, 1)
	kernel.Best().RoundI8(codes, d, sums, x, 16)
	fmt.Println(codes[:4], d, sums)
	// Output: [127 -20 2 0] [0.5] [109]
}

func ExampleVariants() {
	for _, v := range kernel.Variants() {
		fmt.Println(v.Name)
	}
	// Output:
	// generic
	// avx2
	// avx512
	// amx
}
