package pth

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// Limits of one pickle. A tensor takes about 60 instructions.
const (
	maxPickle = 16 << 20 // bytes of data.pkl
	maxSteps  = 2 << 20  // instructions
	maxMarks  = 1 << 10  // marks open at once; Python's own recursion limit is about that
	maxMemo   = 1 << 20  // highest memo index
)

// The values of the machine: nil, bool, int64, float64, string, and these.
type (
	tuple  []any
	list   struct{ items []any }
	dict   struct{ pairs []pair }
	pair   struct{ key, value any }
	global string // "module name", on the allow-list
	mark   struct{}
)

// storage is what a persistent id names: the numel elements of a type in the
// archive entry data/KEY.
type storage struct {
	key   string
	kind  *kind
	numel int64
}

// view is a tensor as the pickle describes it, in elements of its storage. It
// is not checked yet.
type view struct {
	storage        *storage
	offset         int64
	shape, strides []int64
}

// The instructions on the allow-list, those that pickle protocol 2 needs for
// tensors (https://github.com/python/cpython/blob/main/Lib/pickletools.py).
const (
	opMark       = '('
	opStop       = '.'
	opNone       = 'N'
	opNewTrue    = 0x88
	opNewFalse   = 0x89
	opBinInt     = 'J'
	opBinInt1    = 'K'
	opBinInt2    = 'M'
	opLong1      = 0x8a
	opBinFloat   = 'G'
	opBinUnicode = 'X'
	opEmptyTuple = ')'
	opTuple1     = 0x85
	opTuple2     = 0x86
	opTuple3     = 0x87
	opTuple      = 't'
	opEmptyList  = ']'
	opAppend     = 'a'
	opAppends    = 'e'
	opEmptyDict  = '}'
	opSetItem    = 's'
	opSetItems   = 'u'
	opBinGet     = 'h'
	opLongBinGet = 'j'
	opBinPut     = 'q'
	opLongBinPut = 'r'
	opGlobal     = 'c'
	opBinPersID  = 'Q'
	opReduce     = 'R'
	opBuild      = 'b'
	opProto      = 0x80
)

// machine runs a pickle.
type machine struct {
	code  string
	pos   int
	stack []any
	marks []int // heights of the stack at the open marks
	memo  map[uint32]any
	keys  map[string]*storage
}

// run executes a pickle and returns what it leaves.
func run(code string) (any, error) {
	m := &machine{code: code, memo: map[uint32]any{}, keys: map[string]*storage{}}
	for steps := 0; ; steps++ {
		at := m.pos
		if steps == maxSteps {
			return nil, fmt.Errorf("more than %d instructions", maxSteps)
		}
		op, err := m.byte()
		if err == nil && op == opStop {
			v, err := m.pop()
			if err != nil {
				return nil, fmt.Errorf("byte %d: %w", at, err)
			}
			return v, nil
		}
		if err == nil {
			err = m.step(op)
		}
		if err != nil {
			return nil, fmt.Errorf("byte %d: %w", at, err)
		}
	}
}

// step executes one instruction.
func (m *machine) step(op byte) error {
	switch op {
	case opProto:
		v, err := m.byte()
		if err == nil && v != 2 {
			err = fmt.Errorf("pickle protocol %d, expected 2", v)
		}
		return err
	case opMark:
		if len(m.marks) == maxMarks {
			return fmt.Errorf("nested more than %d deep", maxMarks)
		}
		m.marks = append(m.marks, len(m.stack))
		return nil
	case opNone:
		return m.push(nil)
	case opNewTrue, opNewFalse:
		return m.push(op == opNewTrue)
	case opBinInt, opBinInt1, opBinInt2, opLong1, opBinFloat, opBinUnicode:
		return m.literal(op)
	case opEmptyTuple:
		return m.push(tuple{})
	case opTuple1, opTuple2, opTuple3:
		items, err := m.popN(int(op-opTuple1) + 1)
		if err != nil {
			return err
		}
		return m.push(tuple(items))
	case opTuple:
		items, err := m.popMark()
		if err != nil {
			return err
		}
		return m.push(tuple(items))
	case opEmptyList:
		return m.push(&list{})
	case opEmptyDict:
		return m.push(&dict{})
	case opAppend, opAppends, opSetItem, opSetItems:
		return m.fill(op)
	case opBinGet, opLongBinGet, opBinPut, opLongBinPut:
		return m.remember(op)
	case opGlobal:
		return m.global()
	case opBinPersID:
		return m.persistent()
	case opReduce:
		return m.reduce()
	case opBuild: // an attribute of a dict, such as a state dict's _metadata, says nothing about tensors
		if _, err := m.pop(); err != nil {
			return err
		}
		if _, ok := m.top().(*dict); !ok {
			return fmt.Errorf("BUILD of %s, expected a dict", typeName(m.top()))
		}
		return nil
	}
	return fmt.Errorf("instruction 0x%02x (%q) is not allowed", op, rune(op))
}

// literal pushes a number or a string.
func (m *machine) literal(op byte) error {
	switch op {
	case opBinInt:
		b, err := m.bytes(4)
		if err != nil {
			return err
		}
		return m.push(int64(int32(binary.LittleEndian.Uint32([]byte(b)))))
	case opBinInt1, opBinInt2:
		b, err := m.bytes(1 + int64(op-opBinInt1)/2) // 'M' is 'K' + 2
		if err != nil {
			return err
		}
		return m.push(int64(little(b)))
	case opLong1: // two's complement of n bytes
		n, err := m.byte()
		if err != nil {
			return err
		}
		b, err := m.bytes(int64(n))
		if err != nil {
			return err
		}
		if n > 8 {
			return fmt.Errorf("number of %d bytes, expected at most 8", n)
		}
		shift := 64 - 8*uint(n)
		return m.push(int64(little(b)<<shift) >> shift)
	case opBinFloat:
		b, err := m.bytes(8)
		if err != nil {
			return err
		}
		return m.push(math.Float64frombits(binary.BigEndian.Uint64([]byte(b))))
	}
	b, err := m.bytes(4) // opBinUnicode
	if err != nil {
		return err
	}
	s, err := m.bytes(int64(little(b)))
	if err != nil {
		return err
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("string is not UTF-8")
	}
	return m.push(s)
}

// fill moves values from the stack into the list or dict below them.
func (m *machine) fill(op byte) error {
	var items []any
	var err error
	switch op {
	case opAppend:
		items, err = m.popN(1)
	case opSetItem:
		items, err = m.popN(2)
	default:
		items, err = m.popMark()
	}
	if err != nil {
		return err
	}
	switch to := m.top().(type) {
	case *list:
		if op == opAppend || op == opAppends {
			to.items = append(to.items, items...)
			return nil
		}
	case *dict:
		if (op == opSetItem || op == opSetItems) && len(items)%2 == 0 {
			for i := 0; i < len(items); i += 2 {
				to.pairs = append(to.pairs, pair{items[i], items[i+1]})
			}
			return nil
		}
	}
	return fmt.Errorf("%d items for %s by instruction %q", len(items), typeName(m.top()), rune(op))
}

// remember puts the top of the stack into the memo, or gets a value out of it.
func (m *machine) remember(op byte) error {
	n := int64(1)
	if op == opLongBinGet || op == opLongBinPut {
		n = 4
	}
	b, err := m.bytes(n)
	if err != nil {
		return err
	}
	i := uint32(little(b))
	if op == opBinGet || op == opLongBinGet {
		v, ok := m.memo[i]
		if !ok {
			return fmt.Errorf("memo %d is empty", i)
		}
		return m.push(v)
	}
	if i >= maxMemo {
		return fmt.Errorf("memo index %d, the limit is %d", i, maxMemo)
	}
	v := m.top()
	if v == (mark{}) {
		return fmt.Errorf("nothing to remember on the stack")
	}
	m.memo[i] = v
	return nil
}

// push, pop, popN, popMark and top are the stack. What lies below the last
// mark is out of reach until the mark is taken away. push returns nil, so that
// an instruction can end with it.
func (m *machine) push(v any) error {
	m.stack = append(m.stack, v)
	return nil
}

// floor is the height of the stack at the last mark.
func (m *machine) floor() int {
	if len(m.marks) == 0 {
		return 0
	}
	return m.marks[len(m.marks)-1]
}

// top returns the value on top, mark{} if there is none.
func (m *machine) top() any {
	if len(m.stack) == m.floor() {
		return mark{}
	}
	return m.stack[len(m.stack)-1]
}

func (m *machine) pop() (any, error) {
	v, err := m.popN(1)
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

// popN returns a copy of the n values on top.
func (m *machine) popN(n int) ([]any, error) {
	at := len(m.stack) - n
	if at < m.floor() {
		return nil, fmt.Errorf("too few values on the stack")
	}
	items := append([]any(nil), m.stack[at:]...)
	m.stack = m.stack[:at]
	return items, nil
}

// popMark returns the values above the last mark and takes both away.
func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, fmt.Errorf("no mark on the stack")
	}
	items, err := m.popN(len(m.stack) - m.floor())
	m.marks = m.marks[:len(m.marks)-1]
	return items, err
}

// byte and bytes read arguments. A length is checked against what is left, and
// the bytes are a slice of the code, not a copy.
func (m *machine) byte() (byte, error) {
	b, err := m.bytes(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (m *machine) bytes(n int64) (string, error) {
	if n > int64(len(m.code)-m.pos) {
		return "", fmt.Errorf("ends after %d of %d bytes", len(m.code)-m.pos, n)
	}
	s := m.code[m.pos : m.pos+int(n)]
	m.pos += int(n)
	return s, nil
}

// little decodes up to eight little-endian bytes.
func little(b string) (u uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		u = u<<8 | uint64(b[i])
	}
	return u
}

// typeName names a value's type in an error message.
func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case tuple:
		return "a tuple"
	case *list:
		return "a list"
	case *dict:
		return "a dict"
	case *storage:
		return "a storage"
	case *view:
		return "a tensor"
	case global:
		return "the name " + string(v)
	case mark:
		return "nothing"
	}
	return fmt.Sprintf("a %T", v)
}
