package gguf

import (
	"fmt"
	"math"
	"slices"
)

// Keys returns the metadata keys in the file's order, of the first part if the
// file is split.
func (f *File) Keys() []string { return slices.Clone(f.keys) }

// Lookup returns the value of a key and whether there is one.
func (f *File) Lookup(key string) (Value, bool) {
	v, ok := f.meta[key]
	return v, ok
}

// Uint returns an integer of any kind that is not negative.
func (f *File) Uint(key string) (uint64, error) {
	return get(f, key, "an integer from 0", func(x any) (n uint64, ok bool) {
		switch x := x.(type) {
		case uint8:
			return uint64(x), true
		case uint16:
			return uint64(x), true
		case uint32:
			return uint64(x), true
		case uint64:
			return x, true
		case int8:
			return uint64(x), x >= 0
		case int16:
			return uint64(x), x >= 0
		case int32:
			return uint64(x), x >= 0
		case int64:
			return uint64(x), x >= 0
		}
		return 0, false
	})
}

// Float returns an f32 or f64.
func (f *File) Float(key string) (float64, error) {
	return get(f, key, "f32 or f64", func(x any) (float64, bool) {
		switch x := x.(type) {
		case float32:
			return float64(x), true
		case float64:
			return x, true
		}
		return 0, false
	})
}

// String returns a string. Its bytes are those of the file, valid UTF-8 or not.
func (f *File) String(key string) (string, error) { return getAs[string](f, key, "str") }

// Bool returns a bool.
func (f *File) Bool(key string) (bool, error) { return getAs[bool](f, key, "bool") }

// Strings returns an array of strings. Each call decodes them.
func (f *File) Strings(key string) ([]string, error) { return getAs[[]string](f, key, "arr[str]") }

// StringList returns an array of strings that are decoded one at a time.
func (f *File) StringList(key string) (StringList, error) {
	v, ok := f.meta[key]
	if !ok || v.kind != Array || v.Elem() != String {
		_, err := f.Strings(key) // which says what is wrong
		return StringList{}, err
	}
	return StringList{n: v.Len(), raw: v.raw[arrayHead:]}, nil
}

// Floats returns an array of f32, or one of f64 rounded to float32.
func (f *File) Floats(key string) ([]float32, error) {
	return get(f, key, "arr[f32] or arr[f64]", func(x any) ([]float32, bool) {
		switch x := x.(type) {
		case []float32:
			return x, true
		case []float64:
			out := make([]float32, len(x))
			for i, v := range x {
				out[i] = float32(v)
			}
			return out, true
		}
		return nil, false
	})
}

// Ints returns an array of integers of any kind. A u64 above 2^63-1 is an
// error.
func (f *File) Ints(key string) ([]int64, error) {
	return get(f, key, "an array of integers", func(x any) ([]int64, bool) {
		switch x := x.(type) {
		case []uint8:
			return widen(x), true
		case []int8:
			return widen(x), true
		case []uint16:
			return widen(x), true
		case []int16:
			return widen(x), true
		case []uint32:
			return widen(x), true
		case []int32:
			return widen(x), true
		case []int64:
			return x, true
		case []uint64:
			return widen(x), len(x) == 0 || slices.Max(x) <= math.MaxInt64
		}
		return nil, false
	})
}

func widen[T uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64](x []T) []int64 {
	out := make([]int64, len(x))
	for i, v := range x {
		out[i] = int64(v)
	}
	return out
}

// getAs gets a value of exactly one Go type.
func getAs[T any](f *File, key, want string) (T, error) {
	return get(f, key, want, func(x any) (T, bool) { y, ok := x.(T); return y, ok })
}

func get[T any](f *File, key, want string, as func(any) (T, bool)) (T, error) {
	var none T
	v, ok := f.meta[key]
	if !ok {
		return none, &Error{File: f.files[0].Name, Key: key, Reason: "wanted " + want, Err: ErrNoKey}
	}
	x, ok := as(v.Any())
	if !ok {
		got := v.kindName()
		if v.kind != Array {
			got += " " + v.String()
		}
		return none, &Error{File: f.files[0].Name, Key: key, Reason: fmt.Sprintf("wanted %s, got %s", want, got)}
	}
	return x, nil
}
