package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
)

// Kind is the type of a metadata value, numbered as in the file.
type Kind uint32

// The kinds of values. An Array holds elements of one kind, Array included.
const (
	Uint8 Kind = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
	numKinds
)

// kinds is indexed by Kind: short name, the fewest bytes a value takes (the
// exact number for all but strings and arrays), and the kind of its Go type.
var kinds = [numKinds]struct {
	name   string
	size   int
	goKind reflect.Kind
}{
	Uint8:   {"u8", 1, reflect.Uint8},
	Int8:    {"i8", 1, reflect.Int8},
	Uint16:  {"u16", 2, reflect.Uint16},
	Int16:   {"i16", 2, reflect.Int16},
	Uint32:  {"u32", 4, reflect.Uint32},
	Int32:   {"i32", 4, reflect.Int32},
	Float32: {"f32", 4, reflect.Float32},
	Bool:    {"bool", 1, reflect.Bool},
	String:  {"str", 8, reflect.String},
	Array:   {"arr", arrayHead, reflect.Slice},
	Uint64:  {"u64", 8, reflect.Uint64},
	Int64:   {"i64", 8, reflect.Int64},
	Float64: {"f64", 8, reflect.Float64},
}

// String returns a short name: u8, i8, u16, i16, u32, i32, f32, bool, str,
// arr, u64, i64 or f64.
func (k Kind) String() string {
	if k >= numKinds {
		return fmt.Sprintf("Kind(%d)", uint32(k))
	}
	return kinds[k].name
}

// Value is one metadata value. It keeps the bytes of the file, which [New] has
// checked, and decodes them on demand: a vocabulary costs its length in the
// file until it is asked for. Values are immutable. The zero Value is empty.
type Value struct {
	kind Kind
	raw  []byte // as in the file; an array's begin with element kind and count
}

// Kind returns the kind of the value.
func (v Value) Kind() Kind { return v.kind }

// Elem returns the kind of an array's elements, and Kind for other values.
func (v Value) Elem() Kind {
	if v.kind != Array {
		return v.kind
	}
	return Kind(binary.LittleEndian.Uint32(v.raw))
}

// Len returns the number of elements of an array, and 1 for other values.
func (v Value) Len() int {
	if v.kind != Array {
		return 1
	}
	return int(binary.LittleEndian.Uint64(v.raw[4:]))
}

// Any decodes the value to the Go type of its kind: uint8, int8, uint16,
// int16, uint32, int32, float32, bool, string, uint64, int64 or float64; an
// array to a slice of that type, an array of arrays to []any. The zero Value
// gives nil.
func (v Value) Any() any {
	switch {
	case v.raw == nil:
		return nil
	case v.kind == Array && v.Elem() == Array:
		out := make([]any, 0, v.Len())
		for rest := v.raw[arrayHead:]; len(rest) > 0; {
			n := arrayBytes(rest)
			out = append(out, Value{Array, rest[:n]}.Any())
			rest = rest[n:]
		}
		return out
	case v.kind == Array:
		return decode(v.Elem(), v.raw[arrayHead:], v.Len())
	}
	return reflect.ValueOf(decode(v.kind, v.raw, 1)).Index(0).Interface()
}

// String describes the value in one short line: scalars whole, the start of a
// string in quotes, kind and length of an array.
func (v Value) String() string {
	if v.raw == nil {
		return "none"
	}
	if v.kind == Array {
		return fmt.Sprintf("%s of %d", v.kindName(), v.Len())
	}
	x := v.Any()
	s, ok := x.(string)
	if !ok {
		return fmt.Sprint(x)
	}
	if short := fmt.Sprintf("%.80q", s); short != fmt.Sprintf("%q", s) {
		return short + "..."
	}
	return fmt.Sprintf("%q", s)
}

// kindName is the kind with that of the elements, "arr[str]" for example.
func (v Value) kindName() string {
	if v.kind == Array {
		return fmt.Sprintf("arr[%v]", v.Elem())
	}
	return v.kind.String()
}

// arrayHead is the length of an array's element kind and count.
const arrayHead = 12

// arrayBytes returns the length of the checked array that b starts with.
func arrayBytes(b []byte) int {
	elem, n := Kind(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint64(b[4:]))
	at := arrayHead
	switch elem {
	case String:
		for range n {
			at += 8 + int(binary.LittleEndian.Uint64(b[at:]))
		}
	case Array:
		for range n {
			at += arrayBytes(b[at:])
		}
	default:
		at += n * kinds[elem].size
	}
	return at
}

// decode returns n values of kind k, any but Array, as a slice.
func decode(k Kind, b []byte, n int) any {
	switch k {
	case Uint8:
		return scalars[uint8](b, n)
	case Int8:
		return scalars[int8](b, n)
	case Uint16:
		return scalars[uint16](b, n)
	case Int16:
		return scalars[int16](b, n)
	case Uint32:
		return scalars[uint32](b, n)
	case Int32:
		return scalars[int32](b, n)
	case Float32:
		return scalars[float32](b, n)
	case Bool:
		return scalars[bool](b, n)
	case Uint64:
		return scalars[uint64](b, n)
	case Int64:
		return scalars[int64](b, n)
	case Float64:
		return scalars[float64](b, n)
	}
	all := string(b) // one copy that every string shares
	out := make([]string, n)
	for i, at := 0, 0; i < n; i++ {
		end := at + 8 + int(binary.LittleEndian.Uint64(b[at:]))
		out[i] = all[at+8 : end]
		at = end
	}
	return out
}

func scalars[T any](b []byte, n int) []T {
	out := make([]T, n)
	if _, err := binary.Decode(b, binary.LittleEndian, out); err != nil {
		panic(err) // New checked the length
	}
	return out
}

// ValueOf makes a value from one of the types that [Value.Any] returns, or
// returns x if it is a Value already. The kind in the file is that of the Go
// type, so int and []int, which have none, are refused.
func ValueOf(x any) (Value, error) {
	switch x := x.(type) {
	case Value:
		if x.raw == nil {
			return Value{}, errors.New("an empty value cannot be written")
		}
		return x, nil
	case string:
		return Value{String, appendString(nil, x)}, nil
	case []string:
		raw := appendArrayHead(nil, String, len(x))
		for _, s := range x {
			raw = appendString(raw, s)
		}
		return Value{Array, raw}, nil
	case []any:
		raw := appendArrayHead(nil, Array, len(x))
		for i, e := range x {
			v, err := ValueOf(e)
			if err == nil && v.kind != Array {
				err = fmt.Errorf("%T is not an array", e)
			}
			if err != nil {
				return Value{}, fmt.Errorf("element %d: %w", i, err)
			}
			raw = append(raw, v.raw...)
		}
		return Value{Array, raw}, nil
	}
	r := reflect.ValueOf(x)
	if r.Kind() == reflect.Slice {
		if k, ok := numberKind(r.Type().Elem()); ok {
			raw, err := binary.Append(appendArrayHead(nil, k, r.Len()), binary.LittleEndian, x)
			return Value{Array, raw}, err
		}
	} else if k, ok := numberKind(reflect.TypeOf(x)); ok {
		raw, err := binary.Append(nil, binary.LittleEndian, x)
		return Value{k, raw}, err
	}
	return Value{}, fmt.Errorf("%T is not a metadata type", x)
}

// numberKind returns the kind of a Go number or bool.
func numberKind(t reflect.Type) (Kind, bool) {
	for k, x := range kinds {
		if t != nil && t.Kind() == x.goKind && Kind(k) != String && Kind(k) != Array {
			return Kind(k), true
		}
	}
	return 0, false
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func appendArrayHead(b []byte, elem Kind, n int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(elem))
	return binary.LittleEndian.AppendUint64(b, uint64(n))
}
