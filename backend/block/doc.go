// Package block reads and writes the element and block formats of
// backend.DType: plain scalar Go, exact to the last bit.
//
// A block is a fixed number of weights with their scales, in a fixed number of
// bytes, little-endian: t.BlockElems() weights in t.BlockBytes() bytes. Decode
// turns whole blocks into float32 values. The values equal those of the
// reference decoders of the GGUF formats (https://github.com/ggml-org/ggml,
// MIT) bit for bit. That fixes the order of operations: a block's scale times
// the sub-block's scale is rounded to float32 first, then multiplied by the
// weight's code, rounded again, and only then is the minimum added. Products
// that feed an addition, be it statements later, are written float32(a*b), which
// forbids the compiler to fuse the two on machines that could
// (https://go.dev/ref/spec#Floating_point_operators).
//
// The formats, as they are called in the comments:
//
//   - d is the scale of a block and m its minimum, both float16;
//   - a code is the small integer stored for one weight;
//   - a code of 4 bits shares a byte with another: low nibble, high nibble;
//   - a sub-block is a run of 16 or 32 weights with an integer scale of its own.
//
// The 8-bit floats E4M3 and E5M2 have conversions of single numbers but no
// backend.DType: they are for loading models that are stored in them, which no
// loader does yet.
//
// Encode writes the floats F32, F16 and BF16, EncodeRow a row of weights as any type
// that is Encodable. Which type a tensor gets is the work of package llama/quantize.
package block
