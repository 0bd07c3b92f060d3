package gguf

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// written opens a file with the given metadata and no tensors.
func written(t *testing.T, meta map[string]any) *File {
	t.Helper()
	var w Writer
	for key, x := range meta {
		if err := w.Set(key, x); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := w.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	f, err := New(bytes.NewReader(out.Bytes()), int64(out.Len()), "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// values has one value or more of every kind, under a name that says which.
var values = map[string]any{
	"u8": uint8(255), "i8": int8(-128), "u16": uint16(65535), "i16": int16(-32768),
	"u32": uint32(math.MaxUint32), "i32": int32(math.MinInt32), "u64": uint64(math.MaxUint64), "i64": int64(math.MinInt64),
	"i32+": int32(7), "i8+": int8(7), "i16+": int16(7), "i64+": int64(7),
	"f32": float32(0.1), "f64": 0.1, "bool": true, "str": "a\x00\xffß",
	"[]u8": []uint8{0, 255}, "[]i8": []int8{-128, 127}, "[]u16": []uint16{65535}, "[]i16": []int16{-1},
	"[]u32": []uint32{1, math.MaxUint32}, "[]i32": []int32{-1}, "[]u64": []uint64{1 << 62}, "[]i64": []int64{-1},
	"[]u64big": []uint64{1 << 63}, "[]f32": []float32{1.5, -2}, "[]f64": []float64{0.1},
	"[]bool": []bool{true, false}, "[]str": []string{"", "x", "yz"}, "[]str0": []string{}, "[]i32empty": []int32{},
	"[][]": []any{[]int32{1}, []string{"a", ""}, []any{[]bool{true}, []any{}}, []uint8{}},
}

func TestValuesKeepTypeAndContent(t *testing.T) {
	f := written(t, values)
	for key, want := range values {
		v, ok := f.Lookup(key)
		if !ok || !reflect.DeepEqual(v.Any(), want) {
			t.Errorf("%s is %#v, wanted %#v", key, v.Any(), want)
		}
		name, _, _ := strings.Cut(strings.TrimRight(key, "+big0empty"), "+")
		if name == "[][]" {
			name = "[]arr"
		}
		if got := v.kindName(); got != name && got != "arr["+strings.TrimPrefix(name, "[]")+"]" {
			t.Errorf("%s has kind %s", key, got)
		}
		if n := 1; v.Kind() != Array && v.Len() != n || v.Kind() == Array && v.Len() != reflect.ValueOf(want).Len() {
			t.Errorf("%s has length %d", key, v.Len())
		}
	}
	if v, ok := f.Lookup("absent"); ok || v.Any() != nil || v.String() != "none" || v.Len() != 1 {
		t.Errorf("an absent key gives %v", v)
	}
}

// Each getter takes just the kinds that its comment names, with these results.
func TestGetters(t *testing.T) {
	f := written(t, values)
	getters := []struct {
		name string
		get  func(key string) (any, error)
		want map[string]any
	}{
		{"Uint", func(k string) (any, error) { return f.Uint(k) }, map[string]any{
			"u8": uint64(255), "u16": uint64(65535), "u32": uint64(math.MaxUint32), "u64": uint64(math.MaxUint64),
			"i8+": uint64(7), "i16+": uint64(7), "i32+": uint64(7), "i64+": uint64(7)}},
		{"Float", func(k string) (any, error) { return f.Float(k) }, map[string]any{"f32": float64(float32(0.1)), "f64": 0.1}},
		{"String", func(k string) (any, error) { return f.String(k) }, map[string]any{"str": "a\x00\xffß"}},
		{"Bool", func(k string) (any, error) { return f.Bool(k) }, map[string]any{"bool": true}},
		{"Strings", func(k string) (any, error) { return f.Strings(k) }, map[string]any{"[]str": []string{"", "x", "yz"}, "[]str0": []string{}}},
		{"Floats", func(k string) (any, error) { return f.Floats(k) }, map[string]any{"[]f32": []float32{1.5, -2}, "[]f64": []float32{0.1}}},
		{"Ints", func(k string) (any, error) { return f.Ints(k) }, map[string]any{
			"[]u8": []int64{0, 255}, "[]i8": []int64{-128, 127}, "[]u16": []int64{65535}, "[]i16": []int64{-1},
			"[]u32": []int64{1, math.MaxUint32}, "[]i32": []int64{-1}, "[]i32empty": []int64{},
			"[]u64": []int64{1 << 62}, "[]i64": []int64{-1}}},
	}
	for _, g := range getters {
		for key := range values {
			got, err := g.get(key)
			if want, ok := g.want[key]; ok {
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s(%s) is %v (%v), wanted %v", g.name, key, got, err, want)
				}
				continue
			}
			v, _ := f.Lookup(key)
			wantError(t, err, "m.gguf", "wanted", "got "+v.kindName(), `"`+key+`"`)
			if errors.Is(err, ErrNoKey) {
				t.Errorf("%s(%s) says that the key is absent", g.name, key)
			}
		}
		_, err := g.get("absent")
		wantError(t, err, `"absent"`, "wanted")
		if !errors.Is(err, ErrNoKey) {
			t.Errorf("%s of an absent key gives %v", g.name, err)
		}
	}
}

func TestValueOfRefuses(t *testing.T) {
	deep := any([]uint8{})
	for range maxDepth {
		deep = []any{deep}
	}
	for _, x := range []any{nil, 1, []int{1}, uint(1), struct{}{}, []struct{}{}, map[string]int{}, new(int32), []any{1}, []any{"s"}, []any{[]int{}}, Value{}, complex64(1), deep} {
		var w Writer
		wantError(t, w.Set("k", x), `"k"`)
		if len(w.keys) != 0 {
			t.Errorf("%T was set", x)
		}
	}
}

func TestValueString(t *testing.T) {
	for _, c := range []struct {
		x    any
		want string
	}{
		{uint8(3), "3"}, {int64(-4), "-4"}, {float32(0.5), "0.5"}, {true, "true"}, {"a\n", `"a\n"`},
		{strings.Repeat("é", 90), `"` + strings.Repeat("é", 80) + `"...`},
		{[]string{"a", "b"}, "arr[str] of 2"}, {[]any{[]bool{}}, "arr[arr] of 1"},
	} {
		v, err := ValueOf(c.x)
		if err != nil || v.String() != c.want {
			t.Errorf("%v prints as %s (%v), wanted %s", c.x, v, err, c.want)
		}
	}
	if s := Kind(77).String(); s != "Kind(77)" {
		t.Error(s)
	}
}

// The lists that a File hands out are the caller's own.
func TestListsAreCopies(t *testing.T) {
	f := written(t, values)
	keys := f.Keys()
	want := slices.Clone(keys)
	keys[0] = "changed"
	s, _ := f.Strings("[]str")
	s[1] = "changed"
	if again, _ := f.Strings("[]str"); !slices.Equal(f.Keys(), want) || again[1] != "x" {
		t.Error("a File was changed through what it returned")
	}
}
