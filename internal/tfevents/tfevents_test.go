package tfevents

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"reflect"
	"testing"
	"time"
)

// reading of the format, from its description and not from the writer.

// records splits a file and checks both sums of each.
func records(t *testing.T, b []byte) (all [][]byte) {
	t.Helper()
	sum := func(data []byte) uint32 {
		crc := crc32.Checksum(data, crc32.MakeTable(0x82f63b78)) // Castagnoli, reversed
		return ((crc >> 15) | (crc << 17)) + 0xa282ead8
	}
	for len(b) > 0 {
		if len(b) < 16 {
			t.Fatalf("%d bytes are no record", len(b))
		}
		n := binary.LittleEndian.Uint64(b)
		if got := binary.LittleEndian.Uint32(b[8:]); got != sum(b[:8]) {
			t.Fatalf("sum of the length %x, want %x", got, sum(b[:8]))
		}
		data := b[12 : 12+n]
		if got := binary.LittleEndian.Uint32(b[12+n:]); got != sum(data) {
			t.Fatalf("sum of the data %x, want %x", got, sum(data))
		}
		all, b = append(all, data), b[16+n:]
	}
	return all
}

// fields decodes a protocol buffer: numbers of fields with uint64 or []byte.
func fields(t *testing.T, b []byte) (all []any) {
	t.Helper()
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		b = b[n:]
		var v any
		switch key & 7 {
		case 0:
			u, n := binary.Uvarint(b)
			v, b = u, b[n:]
		case 1:
			v, b = binary.LittleEndian.Uint64(b), b[8:]
		case 2:
			size, n := binary.Uvarint(b)
			v, b = b[n:n+int(size)], b[n+int(size):]
		case 5:
			v, b = uint64(binary.LittleEndian.Uint32(b)), b[4:]
		default:
			t.Fatalf("wire type %d", key&7)
		}
		all = append(all, int(key>>3), v)
	}
	return all
}

var noon = time.UnixMicro(1_700_000_000_250_000)

func TestFile(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir, noon, 8)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(noon, 300, Scalar{"loss/train", 2.5}, Scalar{"lr", math.NaN()}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(w.Name())
	if err != nil {
		t.Fatal(err)
	}
	got := records(t, b)
	if len(got) != 3 {
		t.Fatalf("%d records, want 3", len(got))
	}
	wall := math.Float64bits(1_700_000_000.25)
	// Event: 1 wall_time, 2 step, 3 file_version, 5 summary, 7 session_log.
	if f := fields(t, got[0]); !reflect.DeepEqual(f, []any{1, wall, 2, uint64(0), 3, []byte("brain.Event:2")}) {
		t.Errorf("version: %v", f)
	}
	if f := fields(t, got[1]); !reflect.DeepEqual(f, []any{1, wall, 2, uint64(8), 7, []byte{1 << 3, 1}}) { // status START
		t.Errorf("session: %v", f)
	}
	f := fields(t, got[2])
	if !reflect.DeepEqual(f[:5], []any{1, wall, 2, uint64(300), 5}) {
		t.Fatalf("summary: %v", f)
	}
	values := fields(t, f[5].([]byte)) // 1 value, twice
	for i, want := range []struct {
		tag   string
		value float32
	}{{"loss/train", 2.5}, {"lr", float32(math.NaN())}} {
		v := fields(t, values[2*i+1].([]byte)) // 1 tag, 2 simple_value
		if values[2*i] != 1 || !reflect.DeepEqual(v, []any{1, []byte(want.tag), 2, uint64(math.Float32bits(want.value))}) {
			t.Errorf("value %d: %v, want %v", i, v, want)
		}
	}
}

// TestNames: two files of one second are two files.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for range 3 {
		w, err := Create(dir, noon, 0)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !IsName(e.Name()) {
			t.Errorf("%s", e.Name())
		}
		names = append(names, e.Name())
	}
	want := "[events.out.tfevents.1700000000.herd events.out.tfevents.1700000001.herd events.out.tfevents.1700000002.herd]"
	if fmt.Sprint(names) != want {
		t.Errorf("%v, want %s", names, want)
	}
	if _, err := Create(dir+"/missing", noon, 0); err == nil {
		t.Error("a file in a folder that is not there")
	}
}

// TestMask: the sum of "123456789" is the check value of CRC-32C, e3069283.
func TestMask(t *testing.T) {
	const crc = 0xe3069283
	mask := uint32(crc>>15 | crc<<17&0xffffffff)
	mask += 0xa282ead8
	if got := masked([]byte("123456789")); got != mask {
		t.Errorf("%x, want %x", got, mask)
	}
}

// TestMend cuts a file after each number of bytes, and changes each byte of its last
// record: what is left are the records before.
func TestMend(t *testing.T) {
	w, err := Create(t.TempDir(), time.Unix(1, 0), 3)
	if err != nil {
		t.Fatal(err)
	}
	before := int64(0)
	for step := int64(3); step < 5; step++ {
		info, err := os.Stat(w.Name())
		if err != nil {
			t.Fatal(err)
		}
		before = info.Size()
		if err := w.Add(time.Unix(2, 0), step, Scalar{"loss", 1}); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	whole, err := os.ReadFile(w.Name())
	if err != nil {
		t.Fatal(err)
	}
	mended := func(content []byte) []byte {
		if err := os.WriteFile(w.Name(), content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Mend(w.Name()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(w.Name())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for n := before; n < int64(len(whole)); n++ {
		if got := mended(whole[:n]); !bytes.Equal(got, whole[:before]) {
			t.Errorf("cut at %d: %d bytes are left, want %d", n, len(got), before)
		}
		bad := bytes.Clone(whole)
		bad[n] ^= 0x40
		if got := mended(bad); !bytes.Equal(got, whole[:before]) {
			t.Errorf("byte %d is wrong: %d bytes are left, want %d", n, len(got), before)
		}
	}
	for _, content := range [][]byte{whole, {}} {
		if got := mended(content); !bytes.Equal(got, content) {
			t.Errorf("%d bytes are left of %d", len(got), len(content))
		}
	}
}
