package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
)

// raw builds the bytes of a file, right or wrong.
type raw []byte

// file begins a version 3 file.
func file(tensors, keys uint64) raw { return raw("GGUF").u32(3).u64(tensors).u64(keys) }

func (b raw) u16(x uint16) raw { return binary.LittleEndian.AppendUint16(b, x) }
func (b raw) u32(x uint32) raw { return binary.LittleEndian.AppendUint32(b, x) }
func (b raw) u64(x uint64) raw { return binary.LittleEndian.AppendUint64(b, x) }
func (b raw) str(s string) raw { return appendString(b, s) }
func (b raw) zeros(n int) raw  { return append(b, make([]byte, n)...) }

// key begins a key and its value.
func (b raw) key(name string, k Kind) raw { return b.str(name).u32(uint32(k)) }

// array begins an array.
func (b raw) array(elem Kind, n uint64) raw { return b.u32(uint32(elem)).u64(n) }

// tensor adds one entry to the tensor list; dims are in the file's order.
func (b raw) tensor(name string, id uint32, off uint64, dims ...uint64) raw {
	b = b.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b = b.u64(d)
	}
	return b.u32(id).u64(off)
}

// with sets the byte at one place.
func (b raw) with(at int, value byte) raw {
	b[at] = value
	return b
}

// data pads to the alignment and adds n bytes of data.
func (b raw) data(n int) raw { return b.zeros(-len(b) & (defaultAlign - 1)).zeros(n) }

const (
	idF32  = 0
	idQ4_0 = 2
	idQ8_0 = 8
)

// badFiles are the rows of the list of known-bad inputs that concern the
// container, and more of their sort. Each is refused with an *Error that
// mentions all the words.
var badFiles = []struct {
	name  string
	bytes raw
	words []string
}{
	{"01 tensor count huge", file(1<<62, 0).zeros(100), []string{"4611686018427387904 tensors"}},
	{"01 key count huge", file(0, math.MaxUint64).zeros(100), []string{"18446744073709551615 keys"}},
	{"01 counts beyond the file", file(0, 8).zeros(100), []string{"8 keys", "124 bytes"}},
	{"02 string length 2^64-1", file(0, 1).key("k", String).u64(math.MaxUint64).zeros(9), []string{`"k"`, "18446744073709551615 bytes"}},
	{"02 key length 2^64-1", file(0, 1).u64(math.MaxUint64).zeros(99), []string{"18446744073709551615 bytes"}},
	{"02 tensor name length 2^64-1", file(1, 0).u64(math.MaxUint64).zeros(99), []string{"18446744073709551615 bytes"}},
	{"02 string in an array wraps", file(0, 1).key("k", Array).array(String, 2).u64(math.MaxUint64 - 7).zeros(99), []string{`"k"`, "bytes are wanted"}},
	{"03 array count x size wraps", file(0, 1).key("k", Array).array(Uint64, 1<<61+1).zeros(64), []string{`"k"`, "2305843009213693953 u64"}},
	{"03 array of strings count wraps", file(0, 1).key("k", Array).array(String, 1<<61+1).zeros(64), []string{`"k"`, "2305843009213693953 str"}},
	{"03 array element type unknown", file(0, 1).key("k", Array).array(13, 1).zeros(64), []string{`"k"`, "element type 13"}},
	{"03 array element type negative", file(0, 1).key("k", Array).array(math.MaxUint32, 0).zeros(64), []string{`"k"`, "element type 4294967295"}},
	{"03 value type unknown", file(0, 1).key("k", 99).zeros(64), []string{`"k"`, "type 99"}},
	{"04 five dimensions", file(1, 0).tensor("w", idF32, 0, 1, 1, 1, 1, 1).data(32), []string{`"w"`, "5 dimensions"}},
	{"04 2^32-1 dimensions", file(1, 0).str("w").u32(math.MaxUint32).zeros(99), []string{`"w"`, "4294967295 dimensions"}},
	{"05 tensor type negative", file(1, 0).tensor("w", math.MaxUint32, 0, 32).data(128), []string{`"w"`, "type 4294967295"}},
	{"06 dims product wraps to 2", file(1, 0).tensor("w", idF32, 0, math.MaxUint64, 2).data(128), []string{`"w"`, "dimension"}},
	{"06 dims product wraps to 0", file(1, 0).tensor("w", idF32, 0, 1<<16, 1<<16, 1<<16, 1<<16).data(128), []string{`"w"`, "too many elements"}},
	{"06 dims product wraps past the sign", file(1, 0).tensor("w", idF32, 0, 1<<30, 1<<30, 1<<3, 2).data(128), []string{`"w"`, "too many elements"}},
	{"07 byte size wraps on the type size", file(1, 0).tensor("w", idF32, 0, 1<<30, 1<<31, 2).data(128), []string{`"w"`}},
	{"07 byte size wraps on padding", file(1, 0).tensor("w", 24, 0, math.MaxInt64).data(128), []string{`"w"`}},
	{"08 sum of sizes wraps", file(2, 0).tensor("v", 24, 0, 1<<62, 1).tensor("w", 24, 1<<62, 1<<62, 1).data(128), []string{"tensor"}},
	{"09 size + overhead wraps", file(1, 0).tensor("w", 24, math.MaxInt64-31, 64).data(128), []string{`"w"`, "past the end"}},
	{"10 zero dimension", file(1, 0).tensor("w", idF32, 0, 0, 4).data(128), []string{`"w"`, "dimension 0 is 0"}},
	{"10 zero dimensions all", file(1, 0).tensor("w", idQ4_0, 0, 0, 0, 0, 0).data(0), []string{`"w"`, "dimension 0 is 0"}},
	{"10 row not of whole blocks", file(1, 0).tensor("w", idQ4_0, 0, 33, 4).data(128), []string{`"w"`, "33", "Q4_0"}},
	{"10 no dimension, block type", file(1, 0).tensor("w", idQ4_0, 0).data(128), []string{`"w"`, "Q4_0"}},
	{"11 alignment 0", file(0, 1).key(alignKey, Uint32).u32(0), []string{alignKey, "is 0"}},
	{"11 alignment not a power of two", file(0, 1).key(alignKey, Uint32).u32(48), []string{alignKey, "48"}},
	{"11 alignment not a multiple of 8", file(0, 1).key(alignKey, Uint32).u32(4), []string{alignKey, "4"}},
	{"11 alignment 2^30", file(0, 1).key(alignKey, Uint32).u32(1 << 30), []string{alignKey, "1073741824"}},
	{"11 alignment a u64", file(0, 1).key(alignKey, Uint64).u64(32), []string{alignKey, "wanted u32, got u64"}},
	{"11 alignment a string", file(0, 1).key(alignKey, String).str("32"), []string{alignKey, "wanted u32, got str"}},
	{"12 empty key", file(0, 1).key("", Uint32).u32(1), []string{"number 0", "empty"}},
	{"12 key with NUL", file(0, 1).key("a\x00b", Uint32).u32(1), []string{"NUL", `a\x00b`}},
	{"12 key too long", file(0, 1).key(strings.Repeat("k", maxKeyLen+1), Uint32).u32(1), []string{"65536 bytes"}},
	{"12 duplicate key", file(0, 2).key("k", Uint32).u32(1).key("k", Uint32).u32(1), []string{`"k"`, "twice"}},
	{"12 empty tensor name", file(1, 0).tensor("", idF32, 0, 1).data(32), []string{"number 0", "empty"}},
	{"12 tensor name with NUL", file(1, 0).tensor("a\x00", idF32, 0, 1).data(32), []string{"NUL"}},
	{"12 tensor name too long", file(1, 0).tensor(strings.Repeat("w", 65), idF32, 0, 1).data(32), []string{"65 bytes"}},
	{"12 duplicate tensor name", file(2, 0).tensor("w", idF32, 0, 8).tensor("w", idF32, 32, 8).data(64), []string{`"w"`, "twice"}},
	{"13 tensor ends past the file", file(1, 0).tensor("w", idF32, 0, 9).data(32), []string{`"w"`, "36 bytes at offset 0", "32 bytes of data"}},
	{"13 tensor begins past the data", file(1, 0).tensor("w", idF32, 64, 8).data(32), []string{`"w"`, "offset 64", "32 bytes of data"}},
	{"13 tensor but no data at all", file(1, 0).tensor("w", idF32, 0, 1), []string{`"w"`, "0 bytes of data"}},
	{"14 offset 2^63", file(1, 0).tensor("w", idF32, 1<<63, 8).data(64), []string{`"w"`, "9223372036854775808"}},
	{"14 offset 2^64-32", file(1, 0).tensor("w", idF32, math.MaxUint64-31, 8).data(64), []string{`"w"`, "18446744073709551584"}},
	{"15 overlap", file(2, 0).tensor("v", idF32, 0, 9).tensor("w", idF32, 32, 8).data(64), []string{`"w"`, `overlaps that of tensor "v"`}},
	{"15 overlap out of order", file(2, 0).tensor("v", idF32, 32, 8).tensor("w", idF32, 0, 9).data(64), []string{`"v"`, `overlaps that of tensor "w"`}},
	{"15 same place", file(2, 0).tensor("v", idF32, 0, 8).tensor("w", idF32, 0, 8).data(64), []string{"overlaps"}},
	{"15 unaligned offset", file(1, 0).tensor("w", idF32, 8, 8).data(64), []string{`"w"`, "offset 8 ", "alignment 32"}},
	{"15 unaligned for the file's alignment", file(1, 1).key(alignKey, Uint32).u32(64).tensor("w", idF32, 32, 8).zeros(256), []string{`"w"`, "alignment 64"}},
	{"16 arrays nested past the cap", nested(maxDepth + 1), []string{`"k"`, "nested more than 8 deep"}},
	{"16 arrays nested 100000 deep", nested(100_000), []string{`"k"`, "nested more than 8 deep"}},
	{"17 small file, array length 2^63", file(0, 1).key("k", Array).array(Uint8, 1<<63), []string{`"k"`, "9223372036854775808 u8"}},
	{"17 small file, strings 2^63", file(0, 1).key("k", Array).array(String, 1<<63), []string{`"k"`, "9223372036854775808 str"}},
	{"17 small file, arrays 2^63", file(0, 1).key("k", Array).array(Array, 1<<63), []string{`"k"`, "9223372036854775808 arr"}},
	{"22 truncated in the preamble", file(0, 1)[:13], []string{"offset 8", "file of 13"}},
	{"22 truncated in a value", file(0, 1).key("k", Uint64).u32(1), []string{`"k"`, "8 bytes are wanted"}},
	{"22 truncated in the tensor list", file(1, 0).tensor("w", idF32, 0, 1, 1, 1)[:50], []string{`"w"`, "bytes are wanted"}},
	{"24 magic in lower case", append(raw("gguf"), file(0, 0)[4:]...), []string{"not a GGUF file", `"gguf"`}},
	{"24 another magic", append(raw("lmgg"), file(0, 0)[4:]...), []string{"not a GGUF file", `"lmgg"`}},
	{"24 a web page", raw("<!DOCTYPE html><html>"), []string{"not a GGUF file", "a page of HTML"}},
	{"24 an empty file", nil, []string{"the file is empty"}},
	{"version 0", raw("GGUF").u32(0).zeros(64), []string{"version 0"}},
	{"version 1", raw("GGUF").u32(1).zeros(64), []string{"version 1 "}},
	{"version 4", raw("GGUF").u32(4).zeros(64), []string{"version 4"}},
	{"byte-swapped", raw("GGUF").u32(3 << 24).zeros(64), []string{"byte-swapped"}},
	{"bool 2", append(file(0, 1).key("k", Bool), 2), []string{`"k"`, "bool is 2"}},
	{"bool 255 in an array", file(0, 1).key("k", Array).array(Bool, 3).zeros(3).with(50, 255), []string{`"k"`, "bool is 255"}},
	{"part of a split set", file(0, 3).key("split.no", Uint16).u16(1).key("split.count", Uint16).u16(3).key("split.tensors.count", Int32).u32(0), []string{"part 2 of", "3"}},
	{"split.no past the count", file(0, 3).key("split.no", Uint16).u16(3).key("split.count", Uint16).u16(3).key("split.tensors.count", Int32).u32(0), []string{"split.no", "less than"}},
	{"split.count alone", file(0, 1).key("split.count", Uint16).u16(3), []string{"split.no", "no such key"}},
}

// nested is a file whose one value is depth arrays of one array each.
func nested(depth int) raw {
	b := file(0, 1).key("k", Array)
	for range depth - 1 {
		b = b.array(Array, 1)
	}
	return b.array(Uint8, 0)
}

func TestBadFiles(t *testing.T) {
	for _, c := range badFiles {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(bytes.NewReader(c.bytes), int64(len(c.bytes)), "bad.gguf")
			wantError(t, err, append(c.words, "bad.gguf")...)
		})
	}
}

// wantError checks that err is an *Error whose text has all the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("the error is %v, wanted an *Error", err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error is %q, wanted a mention of %q", err, word)
		}
	}
}

// Every type number without a data type is refused by its name.
func TestBadTypes(t *testing.T) {
	for id := range uint32(len(tensorTypes) + 20) {
		b := file(1, 0).tensor("w", id, 0, 256).data(1024)
		_, err := New(bytes.NewReader(b), int64(len(b)), "bad.gguf")
		switch {
		case id >= uint32(len(tensorTypes)):
			wantError(t, err, `"w"`, "is unknown")
		case tensorTypes[id].refused != "":
			wantError(t, err, `"w"`, tensorTypes[id].name, tensorTypes[id].refused)
		case err != nil:
			t.Errorf("type %d: %v", id, err)
		}
	}
}

// What looks odd but is allowed.
func TestGoodFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes raw
	}{
		{"empty", file(0, 0)},
		{"version 2", append(raw("GGUF").u32(2), file(0, 0)[8:]...)},
		{"arrays at the depth cap", nested(maxDepth)},
		{"the last tensor without padding", file(2, 0).tensor("v", idF32, 0, 1).tensor("w", idQ8_0, 32, 32).data(32 + 34)},
		{"data out of order with a gap", file(2, 0).tensor("v", idF32, 96, 8).tensor("w", idF32, 0, 8).data(128)},
		{"a tensor without dimensions", file(1, 0).tensor("w", idF32, 0).data(4)},
		{"an empty string", file(0, 1).key("k", String).str("")},
		{"a name of 64 bytes", file(1, 0).tensor(strings.Repeat("w", 64), idF32, 0, 1).data(4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := New(bytes.NewReader(c.bytes), int64(len(c.bytes)), "good.gguf")
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range f.Tensors() {
				readAll(t, x)
			}
		})
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// sparse is a long file of which only the start is given; the rest is zeros.
type sparse struct{ head []byte }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	return len(p), nil
}

// 18: small files cannot make New take more than a small multiple of their
// length, and long ones stay under the limits on headers.
func TestAllocation(t *testing.T) {
	for _, c := range badFiles {
		n := allocated(func() { New(bytes.NewReader(c.bytes), int64(len(c.bytes)), "bad.gguf") })
		if limit := uint64(16<<10 + 20*len(c.bytes)); n > limit {
			t.Errorf("%s: %d bytes allocated for a file of %d, at most %d allowed", c.name, n, len(c.bytes), limit)
		}
	}
	many := file(maxTensors, maxKeys)
	for i := range maxKeys {
		many = many.key(fmt.Sprint(i), Uint8).zeros(1)
	}
	for _, c := range []struct {
		name  string
		bytes raw
		words []string
	}{
		{"a string of 1 TB", file(0, 1).key("k", String).u64(1 << 40), []string{`"k"`, "64 MiB"}},
		{"an array of 1 TB", file(0, 1).key("k", Array).array(Int8, 1<<40), []string{`"k"`, "64 MiB"}},
		{"2^37 empty strings", file(0, 1).key("k", Array).array(String, 1<<37), []string{`"k"`, "64 MiB"}},
		{"keys past the limit", file(0, maxKeys+1), []string{"65537 keys"}},
		{"tensors past the limit", file(maxTensors+1, 0), []string{"131073 tensors"}},
		{"as many keys as allowed", many, []string{"number 0", "empty"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			start := time.Now()
			n := allocated(func() { _, err = New(sparse{c.bytes}, 1<<42, "big.gguf") })
			if took := time.Since(start); took > time.Minute && !testing.Short() {
				t.Errorf("it took %v", took)
			}
			wantError(t, err, c.words...)
			if n > 160<<20 {
				t.Errorf("%d MB allocated", n>>20)
			}
		})
	}
}

// 07, 08, 09: sizes and offsets that wrap only where the file is as long as a
// file can be, so that no plain comparison with its length catches them.
func TestWrappingInGiantFile(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes raw
		words []string
	}{
		{"07 size past the data", file(1, 0).tensor("w", 24, 0, math.MaxInt64), []string{`"w"`}},
		{"08 sum of sizes", file(2, 0).tensor("v", 24, 0, 1<<31, 1<<31).tensor("w", 24, 1<<62, 1<<31, 1<<31), []string{`"`}},
		{"09 offset + data start", file(1, 0).tensor("w", 24, math.MaxInt64-31, 1), []string{`"w"`, "do not lie in"}},
		{"09 offset + size", file(1, 0).tensor("w", 24, 1<<62, math.MaxInt32, math.MaxInt32, 2), []string{`"w"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(sparse{c.bytes}, math.MaxInt64, "giant.gguf")
			wantError(t, err, append(c.words, "giant.gguf")...)
		})
	}
}

// 22: a file that shrinks under an open model gives errors, not zeros.
func TestTruncatedAfterOpening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shrinks.gguf")
	b := file(1, 0).tensor("w", idF32, 0, 1024).data(4096)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, path)
	if err := os.Truncate(path, int64(len(b)-96)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 128)
	if n, err := f.Tensor("w").ReadAt(p, 0); n != len(p) || err != nil {
		t.Errorf("what is there gives %d bytes, %v", n, err)
	}
	n, err := f.Tensor("w").ReadAt(p, 4096-128)
	wantError(t, err, path, `"w"`, "cannot be read")
	if n != 32 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the end gives %d bytes, %v", n, err)
	}
}

// A file shorter than its announced size is an error too.
func TestShorterThanAnnounced(t *testing.T) {
	b := file(1, 0).tensor("w", idF32, 0, 8).data(32)
	_, err := New(bytes.NewReader(b), int64(len(b)+1), "short.gguf")
	wantError(t, err, "short.gguf", "cannot be read")
}

func TestReadOutsideTensor(t *testing.T) {
	b := file(2, 0).tensor("v", idF32, 0, 8).tensor("w", idF32, 32, 8).data(64)
	f, err := New(bytes.NewReader(b.with(len(b)-64, 7)), int64(len(b)), "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	v := f.Tensor("v")
	p := make([]byte, 33)
	for _, off := range []int64{-1, 33, math.MaxInt64, math.MinInt64} {
		_, err := v.ReadAt(p, off)
		wantError(t, err, "m.gguf", `"v"`, "outside")
	}
	if n, err := v.ReadAt(p, 0); n != 32 || err != io.EOF || p[0] != 7 {
		t.Errorf("past the end: %d bytes, %v", n, err)
	}
	if n, err := v.ReadAt(p[:32], 0); n != 32 || err != nil {
		t.Errorf("to the end: %d bytes, %v", n, err)
	}
	if n, err := v.ReadAt(p, 32); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	if v.Type != backend.F32 || f.Tensor("u") != nil {
		t.Errorf("type %v, absent tensor %v", v.Type, f.Tensor("u"))
	}
}
