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
