package main

import (
	"encoding/binary"
	"fmt"

	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Neither the assembler nor avo knows some instructions: they are written as
// bytes, each with a comment that says what they are in the assembler's order of
// operands. A test of the kernels disassembles them.

// raw writes an instruction as words of 4 bytes and what is left.
func (g gen) raw(code []byte, format string, args ...any) {
	g.Comment(fmt.Sprintf(format, args...))
	write := func(opcode string, op Op) { g.Instruction(&ir.Instruction{Opcode: opcode, Operands: []Op{op}}) }
	for ; len(code) >= 4; code = code[4:] {
		write("LONG", U32(binary.LittleEndian.Uint32(code)))
	}
	if len(code) >= 2 {
		write("WORD", U16(binary.LittleEndian.Uint16(code)))
		code = code[2:]
	}
	if len(code) > 0 {
		write("BYTE", U8(code[0]))
	}
}

// evex is an instruction of three 512-bit registers of map 0F38 (Intel SDM,
// volume 2, section 2.7): pp is the prefix, 2 for F3.
func evex(pp, opcode byte, src2, src1, dst reg.VecPhysical) []byte {
	d, s, m := byte(dst.PhysicalIndex()), byte(src1.PhysicalIndex()), byte(src2.PhysicalIndex())
	not := func(v byte, bit, to uint) byte { return (^v >> bit & 1) << to }
	return []byte{
		0x62,
		not(d, 3, 7) | not(m, 4, 6) | not(m, 3, 5) | not(d, 4, 4) | 2,
		^s&15<<3 | 4 | pp,
		2<<5 | not(s, 4, 3),
		opcode,
		0xc0 | d&7<<3 | m&7,
	}
}

// dpbf16 adds to each float32 of sum the products of two bfloat16 pairs.
func (g gen) dpbf16(x, w, sum reg.VecPhysical) {
	g.raw(evex(2, 0x52, x, w, sum), "VDPBF16PS %s, %s, %s", x.Asm(), w.Asm(), sum.Asm())
}

// roundBF16 rounds float32 to bfloat16, denormal numbers to zero, in the lower half of to.
func (g gen) roundBF16(x, to reg.VecPhysical) {
	g.raw(evex(2, 0x72, x, reg.Z0, to), "VCVTNEPS2BF16 %s, %s", x.Asm(), to.AsY().Asm())
}
