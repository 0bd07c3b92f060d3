//go:build linux && amd64 && !noasm

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// A tileUnit is a model of a thread's tiles (Intel SDM, volume 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TILERELEASE, TDPBF16PS, TDPBSUD), for a machine
// without. It is told what an instruction's bytes say, not what a comment does.
type tileUnit struct {
	configured bool
	rows       [8]int
	rowBytes   [8]int
	data       [8][tileSide][64]byte
	count      map[string]int // of instructions run
}

// errNoTiles is for code that starts with another instruction.
var errNoTiles = errors.New("no instruction of tiles")

// memory is that of a program: it reads rows that are stride apart, or writes them.
type memory interface {
	read(rows [][]byte, at, stride uint64) error
	write(rows [][]byte, at, stride uint64) error
}

// step runs the instruction that code starts with and returns its length. gp are
// the general registers in the order of their numbers. What a processor would raise
// an exception for is an error.
func (u *tileUnit) step(code []byte, gp [16]uint64, mem memory) (length int, err error) {
	if len(code) < 6 || code[0] != 0xc4 || code[3] != 0x49 && code[3] != 0x4b && code[3] != 0x5c && code[3] != 0x5e {
		return 0, errNoTiles
	}
	ext, last, opcode, modrm := ^code[1], code[2], code[3], code[4]
	pp, v, reg, rm := last&3, ^last>>3&15, modrm>>3&7, modrm&7
	if code[1]&31 != 2 || last&0x84 != 0 || ext&0x80 != 0 {
		return 0, errors.New("not in map 0F38, or W, L or R is set")
	}
	const none, f3, f2 = 0, 2, 3
	registers, indexed := modrm>>6 == 3, modrm>>6 == 0 && rm == 4 && code[5]&7 != 5
	name := ""
	switch {
	case opcode == 0x49 && pp == none && modrm == 0xc0 && v == 0:
		name, length = "TILERELEASE", 5
		*u = tileUnit{count: u.count}
	case opcode == 0x49 && pp == none && modrm>>6 == 0 && reg == 0 && rm != 4 && rm != 5 && v == 0:
		name, length = "LDTILECFG", 5
		err = u.configure(gp[rm|ext>>2&8], mem)
	case opcode == 0x49 && pp == f2 && registers && rm == 0 && v == 0:
		name, length = "TILEZERO", 5
		if err = u.valid(reg); err == nil {
			u.data[reg] = [tileSide][64]byte{}
		}
	case opcode == 0x4b && (pp == f2 || pp == f3) && indexed && v == 0:
		sib := code[5]
		index := sib>>3&7 | ext>>3&8
		if index == 4 {
			return 0, errors.New("no index")
		}
		name, length = map[byte]string{f2: "TILELOADD", f3: "TILESTORED"}[pp], 6
		err = u.move(reg, gp[sib&7|ext>>2&8], gp[index]<<(sib>>6), mem, pp == f3)
	case opcode == 0x5c && pp == f3 && registers && ext&0x20 == 0 && v < 8:
		name, length = "TDPBF16PS", 5
		err = u.product(reg, rm, v, bf16Word)
	case opcode == 0x5e && pp == f3 && registers && ext&0x20 == 0 && v < 8:
		name, length = "TDPBSUD", 5
		err = u.product(reg, rm, v, int8Word)
	default:
		return 0, errors.New("unknown instruction")
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	u.count[name]++
	return length, nil
}

func (u *tileUnit) valid(tiles ...byte) error {
	for _, t := range tiles {
		if !u.configured || u.rows[t] == 0 || u.rowBytes[t]%4 != 0 {
			return fmt.Errorf("tile %d has %d rows of %d bytes", t, u.rows[t], u.rowBytes[t])
		}
	}
	return nil
}

func (u *tileUnit) configure(at uint64, mem memory) error {
	var c [64]byte
	if err := mem.read([][]byte{c[:]}, at, 0); err != nil {
		return err
	}
	*u = tileUnit{configured: true, count: u.count}
	for t := range 8 {
		u.rowBytes[t], u.rows[t] = int(binary.LittleEndian.Uint16(c[16+2*t:])), int(c[48+t])
		if u.rowBytes[t] > 64 || u.rows[t] > tileSide || (u.rowBytes[t] == 0) != (u.rows[t] == 0) {
			return fmt.Errorf("tile %d of %d rows of %d bytes", t, u.rows[t], u.rowBytes[t])
		}
		clear(c[16+2*t:][:2])
		c[48+t] = 0
	}
	if c != [64]byte{1} { // palette 1, start row 0, nothing in what is reserved
		return fmt.Errorf("besides the shapes % x", c)
	}
	return nil
}

// move loads or stores a tile.
func (u *tileUnit) move(tile byte, at, stride uint64, mem memory, store bool) error {
	if err := u.valid(tile); err != nil {
		return err
	}
	rows := make([][]byte, u.rows[tile])
	for r := range rows {
		rows[r] = u.data[tile][r][:u.rowBytes[tile]]
	}
	if store {
		return mem.write(rows, at, stride)
	}
	u.data[tile] = [tileSide][64]byte{}
	return mem.read(rows, at, stride)
}

// product adds x*w to sum. word gives a sum's word from it and the words of a row of
// x and of a column of w.
func (u *tileUnit) product(sum, x, w byte, word func(sum uint32, x, w []uint32) uint32) error {
	if err := u.valid(sum, x, w); err != nil {
		return err
	}
	if sum == x || sum == w || x == w || u.rows[sum] != u.rows[x] || u.rowBytes[sum] != u.rowBytes[w] || u.rowBytes[x] != 4*u.rows[w] {
		return fmt.Errorf("tiles %d, %d and %d, %v rows of %v bytes, do not fit", sum, x, w, u.rows, u.rowBytes)
	}
	at := func(t byte, r, j int) []byte { return u.data[t][r][4*j:] }
	n := u.rows[w]
	var xs, ws [tileSide]uint32
	for r := range u.rows[sum] {
		for j := range u.rowBytes[sum] / 4 {
			for k := range n {
				xs[k], ws[k] = binary.LittleEndian.Uint32(at(x, r, k)), binary.LittleEndian.Uint32(at(w, k, j))
			}
			to := at(sum, r, j)
			binary.LittleEndian.PutUint32(to, word(binary.LittleEndian.Uint32(to), xs[:n], ws[:n]))
		}
	}
	return nil
}

// int8Word adds products of signed bytes of x and unsigned ones of w.
func int8Word(sum uint32, x, w []uint32) uint32 {
	for k := range x {
		for shift := 0; shift < 32; shift += 8 {
			sum += uint32(int32(int8(x[k]>>shift)) * int32(uint8(w[k]>>shift)))
		}
	}
	return sum
}

// bf16Word adds products of bfloat16: those of even and of odd inputs apart, and
// both to the sum. Denormal numbers are zeros.
func bf16Word(sum uint32, x, w []uint32) uint32 {
	daz := func(v float32) float32 {
		if math.Abs(float64(v)) < 0x1p-126 {
			return float32(math.Copysign(0, float64(v)))
		}
		return v
	}
	value := func(bits uint32) float64 { return float64(daz(math.Float32frombits(bits))) }
	var parts [2]float32
	for k := range x {
		for i, shift := range []int{16, 0} { // to the upper half of a word
			a, b := value(x[k]<<shift&0xffff0000), value(w[k]<<shift&0xffff0000)
			parts[i] = daz(float32(math.FMA(a, b, float64(parts[i]))))
		}
	}
	total := daz(parts[0] + parts[1])
	return math.Float32bits(daz(float32(value(sum)) + total))
}
