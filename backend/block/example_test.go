package block_test

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// A Q4_0 block is a float16 scale, here 0.5, and 32 codes of 4 bits that mean
// -8..7. Byte 2 holds weights 0 and 16.
func ExampleDecode() {
	src := make([]byte, backend.Q4_0.BlockBytes())
	src[0], src[1] = 0x00, 0x38 // 0.5
	src[2] = 0xf1               // weight 0: 1-8, weight 16: 15-8
	dst := make([]float32, backend.Q4_0.BlockElems())
	block.Decode(backend.Q4_0, dst, src)
	fmt.Println(dst[0], dst[1], dst[16])
	// Output: -3.5 -4 3.5
}

// A loop over rows looks the decoder up once.
func ExampleDecoder() {
	rows := [][]byte{{1, 2}, {254, 255}}
	decode := block.Decoder(backend.I8)
	dst := make([]float32, 2)
	for _, row := range rows {
		decode(dst, row)
		fmt.Println(dst)
	}
	// Output:
	// [1 2]
	// [-2 -1]
}

func ExampleEncodeExact() {
	src := []float32{1, 0.1}
	dst := make([]byte, 4)
	fmt.Println(block.EncodeExact(backend.BF16, dst[:2], src[:1]))
	fmt.Println(block.EncodeExact(backend.BF16, dst, src))
	// Output:
	// -1
	// 1
}

func ExampleEncode() {
	dst := make([]byte, 4)
	block.Encode(backend.F16, dst, []float32{0.5, -2})
	fmt.Printf("% x\n", dst)
	// Output: 00 38 00 c0
}

// A row of 32 weights in 18 bytes. What is too large for a float16 scale is refused.
func ExampleEncodeRow() {
	row := make([]float32, 32)
	row[0], row[1] = -4, 1.6
	dst := make([]byte, backend.Q4_0.BlockBytes())
	fmt.Println(block.EncodeRow(backend.Q4_0, dst, row, nil))
	block.Decode(backend.Q4_0, row, dst)
	fmt.Println(row[:3])
	row[1] = 1e9
	fmt.Println(block.EncodeRow(backend.Q4_0, dst, row, nil))
	// Output:
	// <nil>
	// [-4 1.5 0]
	// block: a row as Q4_0: column 1: 1e+09 is beyond the range of the type
}

// A loop over rows keeps the memory of the search.
func ExampleEncoder_Row() {
	var e block.Encoder
	row, dst := make([]float32, 256), make([]byte, backend.Q6_K.BlockBytes())
	for i := range row {
		row[i] = float32(i%64) - 32
	}
	err := e.Row(backend.Q6_K, dst, row, nil)
	block.Decode(backend.Q6_K, row, dst)
	fmt.Println(row[:7], err)
	// Output: [-32 -31 -30 -29 -28 -27 -26] <nil>
}

// Values 0.4 and 3.2 in steps of 1 (first guess) have errors of 0.4 and 0.2, in steps of 2
// (second) of 0.2 and 0.4 steps.
func ExampleMeasureScales() {
	errs, inverse, shift := new([16]float32), &[16]float32{1, 0.5}, new([16]float32)
	block.MeasureScales(errs, []float32{0.4, 3.2}, []float32{1, 1}, inverse, shift, 15)
	fmt.Printf("%.2f %.2f\n", errs[0], errs[1])
	// Output: 0.20 0.20
}

func ExampleEncodable() {
	fmt.Println(block.Encodable(backend.Q8_0), block.Encodable(backend.I32))
	// Output: true false
}

func ExampleF32ToBF16() {
	h := block.F32ToBF16(0.1)
	fmt.Printf("%#x %v\n", h, block.BF16ToF32(h))
	// Output: 0x3dcd 0.100097656
}

func ExampleDecodeF16() {
	dst := make([]float32, 2)
	block.DecodeF16(dst, []uint16{0x3c00, 0x0001})
	fmt.Println(dst)
	// Output: [1 5.9604645e-08]
}

// The largest E4M3 is 448: beyond it there is nothing but NaN. E5M2 has infinities.
func ExampleF32ToE4M3() {
	c := block.F32ToE4M3(0.3, true)
	fmt.Printf("%#x %v\n", c, block.E4M3ToF32(c))
	fmt.Println(block.E4M3ToF32(block.F32ToE4M3(1000, true)), block.E4M3ToF32(block.F32ToE4M3(1000, false)))
	fmt.Println(block.E5M2ToF32(block.F32ToE5M2(1e5, true)), block.E5M2ToF32(block.F32ToE5M2(1e5, false)))
	// Output:
	// 0x2a 0.3125
	// 448 NaN
	// 57344 +Inf
}

// A row as weights of 8-bit floats have it, and some of its columns.
func ExampleEncodeE4M3() {
	row := make([]byte, 4+4) // the scale, then a code a weight
	block.EncodeE4M3(row, []float32{0.5, -0.1, 0.25, 0})
	x := make([]float32, 4)
	block.DecodeRows(backend.E4M3, x, row, len(x))
	fmt.Println(row[4:], x)
	block.DecodeColumns(backend.E4M3, x[:2], row, 2)
	fmt.Println(x[:2])
	// Output:
	// [126 235 118 0] [0.5 -0.09821429 0.25 0]
	// [0.25 0]
}

// Activations keep their precision beside one value beyond the bound.
func ExampleRoundE4M3() {
	codes := make([]byte, 3)
	d := block.RoundE4M3(codes, []float32{5000, 3, -1}, backend.E4M3Bound)
	for _, c := range codes {
		fmt.Print(block.E4M3ToF32(c)*d, " ")
	}
	// Output: 1200 3.013393 -1.0044643
}

// An index of IQ2_XXS stands for the magnitudes of 8 weights.
func ExampleCodebook() {
	entry := block.Codebook(backend.IQ2_XXS)[2]
	for i := range 8 {
		fmt.Print([]int{8, 25, 43}[entry>>(2*i)&3], " ")
	}
	// Output: 25 25 8 8 8 8 8 8
}
