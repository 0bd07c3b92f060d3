// Package kernel holds the vector kernels of the CPU backend: pure functions
// over slices, without goroutines, state or allocation.
//
// A weight of N outputs and K inputs is cut into panels of [Panel] outputs.
// A float panel is [K][16] elements, input by input, that of BF16 weights
// [K/2][16][2]. A panel of a block type has
// the fields of a block in the file's order, each interleaved over its 16
// outputs by units of 1, 2 or 4 bytes. A [Format] is what a type needs: a
// function that unpacks codes to bytes and multiplies the scales out, and one of
// seven integer products, by the length of a sub-block, of a group of the input, and by
// minima. avx512 has each product for two panels at once too, and both avx2 and
// avx512 have products of one or two rows that store no codes, for most types; all give
// the same bits.
//
// A [Set] is a struct of functions. [Generic] fills all of them with loops of Go; every
// other variant starts with the set of a simpler one and puts its own functions in the
// place of some. Nothing else in this package knows what a variant is made of.
//
// Four variants exist. "generic" is Go and runs everywhere, also when built
// with the tag noasm. "avx2" needs AVX2, FMA and F16C; "avx512" needs AVX-512
// F, BW, DQ, VL and VNNI; "amx" needs tiles for bytes and bfloat16 besides, and
// Linux. [Variants] says which of them run here, [Best] picks the last one that
// does and whose tests have passed on a processor that has all it needs: not yet
// amx, which has been tested by emulation only.
//
// Every output element has one accumulator, to which the products are added
// with k ascending. Within a variant a result therefore depends neither on the
// number of rows of a call nor on how k is cut into accumulating calls, bit
// for bit. Variants differ from one another: avx2 and avx512 use fused
// multiply-add, generic rounds the product and the sum, on every platform.
// Zeros are not skipped, so NaN and infinity reach the output.
//
// The assembly is written by the program in backend/cpu/_asm (avo); go
// generate in this folder runs it again.
package kernel

//go:generate go run -C ../../_asm . ../internal/kernel
