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

// raw writes an instruction of 6 bytes.
func (g gen) raw(code [6]byte, format string, args ...any) {
	g.Comment(fmt.Sprintf(format, args...))
	g.Instruction(&ir.Instruction{Opcode: "LONG", Operands: []Op{U32(binary.LittleEndian.Uint32(code[:]))}})
	g.Instruction(&ir.Instruction{Opcode: "WORD", Operands: []Op{U16(binary.LittleEndian.Uint16(code[4:]))}})
}

// evex is an instruction of three 512-bit registers of map 0F38 (Intel SDM,
// volume 2, section 2.7): pp is the prefix, 2 for F3.
func evex(pp, opcode byte, src2, src1, dst reg.VecPhysical) [6]byte {
	d, s, m := byte(dst.PhysicalIndex()), byte(src1.PhysicalIndex()), byte(src2.PhysicalIndex())
	not := func(v byte, bit, to uint) byte { return (^v >> bit & 1) << to }
	return [6]byte{
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
