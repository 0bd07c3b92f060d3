package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/herd-ml/herd/internal/golden"
)

// entry is the header entry of an I8 tensor.
func entry(name string, shape string, begin, end int) string {
	return fmt.Sprintf(`%q:{"dtype":"I8","shape":%s,"data_offsets":[%d,%d]}`, name, shape, begin, end)
}

// TestHostileFiles holds bad files and a part of the error each must give.
func TestHostileFiles(t *testing.T) {
	good := entry("a", "[4]", 0, 4)
	long := binary.LittleEndian.AppendUint64(nil, 1<<40)
	for _, c := range []struct {
		what string
		data []byte
		want string
	}{
		{"empty", nil, "too few"},
		{"seven bytes", make([]byte, 7), "too few"},
		{"header above the limit", append(long, "{}"...), "above the limit"},
		{"header length -1", bytes.Repeat([]byte{255}, 16), "above the limit"},
		{"header beyond the file", append(binary.LittleEndian.AppendUint64(nil, 100), "{}"...), "in a file of"},
		{"not JSON", file("GGUF1234", 0), "expected an object"},
		{"empty header", file("", 0), "expected an object"},
		{"space first", file(" {}", 0), "expected an object"},
		{"an array", file("[]", 0), "expected an object"},
		{"unterminated", file("{"+good, 4), "expected , or }"},
		{"unterminated string", file(`{"a`, 4), "unterminated"},
		{"escape at the end", file(`{"a\`, 4), "unterminated"},
		{"bad escape", file(`{"\x":1}`, 4), "unexpected 'x'"},
		{"control character", file("{\"a\n\":1}", 4), "control character"},
		{"not UTF-8", file("{\"\xff\":1}", 4), "UTF-8"},
		{"trailing text", file("{"+good+"}x", 4), "text after"},
		{"trailing comma", file("{"+good+",}", 4), "expected a string"},
		{"no colon", file(`{"a" {}}`, 4), "expected :"},
		{"tensor twice", file("{"+good+","+good+"}", 4), `key "a" appears twice`},
		{"tensor twice, escaped", file(`{`+good+`,"\u0061":{}}`, 4), `key "a" appears twice`},
		{"field twice", file(`{"a":{"dtype":"I8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}`, 4), `key "dtype" appears twice`},
		{"metadata twice", file(`{"__metadata__":{},"__metadata__":{}}`, 0), "appears twice"},
		{"metadata key twice", file(`{"__metadata__":{"k":"1","k":"2"}}`, 0), `key "k" appears twice`},
		{"metadata not strings", file(`{"__metadata__":{"k":1}}`, 0), "expected a string"},
		{"unknown field", file(`{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4],"scale":2}}`, 4), `unknown field "scale"`},
		{"field missing", file(`{"a":{"dtype":"I8","data_offsets":[0,1]}}`, 1), "needs dtype, shape"},
		{"one offset", file(`{"a":{"dtype":"I8","shape":[4],"data_offsets":[0]}}`, 4), "two data_offsets"},
		{"three offsets", file(`{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4,4]}}`, 4), "more than two"},
		{"unknown dtype", file(`{"a":{"dtype":"Q9","shape":[4],"data_offsets":[0,4]}}`, 4), `unknown dtype "Q9"`},
		{"dtype a number", file(`{"a":{"dtype":1,"shape":[4],"data_offsets":[0,4]}}`, 4), "expected a string"},
		{"size mismatch", file("{"+entry("a", "[5]", 0, 4)+"}", 4), "does not fill"},
		{"type mismatch", file(`{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,4]}}`, 4), "does not fill"},
		{"part of a byte", file(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 1), "does not fill"},
		{"offsets reversed", file("{"+entry("a", "[4]", 4, 0)+"}", 4), "does not fill"},
		{"negative dimension", file("{"+entry("a", "[-4]", 0, 4)+"}", 4), "whole number"},
		{"fraction", file("{"+entry("a", "[4.0]", 0, 4)+"}", 4), "expected , or ]"},
		{"exponent", file("{"+entry("a", "[4e0]", 0, 4)+"}", 4), "expected , or ]"},
		{"leading zero", file("{"+entry("a", "[04]", 0, 4)+"}", 4), "leading zero"},
		{"number of 64 bits", file("{"+entry("a", "[9223372036854775808]", 0, 4)+"}", 4), "63 bits"},
		{"shape overflows", file("{"+entry("a", "[4294967296,4294967296]", 0, 0)+"}", 0), "too large"},
		{"nine dimensions", file("{"+entry("a", "[1,1,1,1,1,1,1,1,1]", 0, 1)+"}", 1), "dimensions"},
		{"beyond the data", file("{"+good+"}", 3), "ends at byte 4 of 3"},
		{"overlap", file("{"+good+","+entry("b", "[4]", 2, 6)+"}", 6), "overlap"},
		{"same place", file("{"+good+","+entry("b", "[4]", 0, 4)+"}", 4), "overlap"},
		{"gap", file("{"+good+","+entry("b", "[1]", 5, 6)+"}", 6), "gap"},
		{"gap at the start", file("{"+entry("a", "[4]", 1, 5)+"}", 5), "gap"},
		{"empty tensor in a gap", file("{"+good+","+entry("b", "[0]", 3, 3)+"}", 4), "overlap"},
		{"rest", file("{"+good+"}", 9), "the file at"},
		{"deep nesting", file(`{"a":`+strings.Repeat("[", 1e6), 0), "expected an object"},
	} {
		f, err := New(bytes.NewReader(c.data), int64(len(c.data)), "bad.safetensors")
		var e *Error
		if !errors.As(err, &e) || f != nil || e.File != "bad.safetensors" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}

// TestOddButValid holds files that must open.
func TestOddButValid(t *testing.T) {
	for what, data := range map[string][]byte{
		"no tensors":         file("{}", 0),
		"empty tensors":      file("{"+entry("a", "[0,3]", 0, 0)+","+entry("b", "[4]", 0, 4)+","+entry("c", "[0]", 4, 4)+"}", 4),
		"scalar":             file("{"+entry("a", "[]", 0, 1)+"}", 1),
		"any order, padding": file("{ "+entry("b", "[4]", 4, 8)+",\n"+entry("a", "[4]", 0, 4)+"}   ", 8),
		"fields in disorder": file(`{"a":{"data_offsets":[0,4],"shape":[4],"dtype":"I8"}}`, 4),
		"types not computed": file(`{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[8,9]},"c":{"dtype":"F4","shape":[2],"data_offsets":[9,10]}}`, 10),
	} {
		if _, err := New(bytes.NewReader(data), int64(len(data)), what); err != nil {
			t.Error(err)
		}
	}
}

func TestHostileIndex(t *testing.T) {
	shard := file("{"+entry("a", "[4]", 0, 4)+"}", 4)
	many := strings.Builder{}
	for i := range maxShards + 1 {
		fmt.Fprintf(&many, `,"t%d":"s%d"`, i, i)
	}
	for _, c := range []struct{ what, index, want string }{
		{"parent", `{"weight_map":{"a":"../out.safetensors"}}`, "is not a file of the index's folder"},
		{"parent itself", `{"weight_map":{"a":".."}}`, "is not a file"},
		{"absolute", `{"weight_map":{"a":"/etc/passwd"}}`, "is not a file"},
		{"sub folder", `{"weight_map":{"a":"sub/s"}}`, "is not a file"},
		{"backslash", `{"weight_map":{"a":"..\\s"}}`, "is not a file"},
		{"drive", `{"weight_map":{"a":"C:s"}}`, "is not a file"},
		{"nameless", `{"weight_map":{"a":""}}`, "is not a file"},
		{"missing shard", `{"weight_map":{"a":"gone"}}`, `shard "gone"`},
		{"missing tensor", `{"weight_map":{"a":"s","b":"s"}}`, `tensor "b": is not in the shard "s"`},
		{"tensor twice", `{"weight_map":{"a":"s","a":"s"}}`, "appears twice"},
		{"map twice", `{"weight_map":{"a":"s"},"weight_map":{}}`, "appears twice"},
		{"no map", `{"metadata":{}}`, "no weight_map"},
		{"not strings", `{"weight_map":{"a":1}}`, "expected a string"},
		{"not JSON", `weight_map`, "expected an object"},
		{"bad literal", `{"metadata":nul}`, "not a JSON value"},
		{"rest", `{"weight_map":{"a":"s"}} {}`, "text after"},
		{"bad shard", `{"weight_map":{"a":"bad"}}`, "bad: "},
		{"deep", `{"metadata":` + strings.Repeat("[", 1e6), "deep"},
		{"not UTF-8", "{\"\xff\":1}", "UTF-8"},
		{"many shards", `{"weight_map":{` + many.String()[1:] + `}}`, "shards"},
		{"too large", strings.Repeat(" ", maxIndex+1), "larger than"},
	} {
		fsys := fstest.MapFS{"m/x.index.json": {Data: []byte(c.index)}, "m/s": {Data: shard}, "m/sub/s": {Data: shard},
			"m/bad": {Data: []byte("PK")}, "out.safetensors": {Data: shard}}
		f, err := OpenFS(fsys, "m/x.index.json")
		if err == nil || f != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}

// TestLargeHeaders bounds the work for megabytes of header: each is refused in
// bounded memory and, in the full run, within a minute; a few tenths of a second
// are usual, and anything quadratic takes hours.
func TestLargeHeaders(t *testing.T) {
	var tensors, keys strings.Builder
	for i := range maxKeys + 1 {
		fmt.Fprintf(&tensors, ",%s", entry(fmt.Sprint(i), "[0]", 0, 0))
		fmt.Fprintf(&keys, `,"%d":""`, i)
	}
	for what, h := range map[string]string{
		"tensors":  "{" + tensors.String()[1:] + "}",
		"metadata": `{"__metadata__":{` + keys.String()[1:] + "}}",
		"string":   `{"__metadata__":{"a":"` + strings.Repeat("a", maxString+1) + `"}}`,
		"escapes":  `{"__metadata__":{"a":"` + strings.Repeat(`\u0061`, maxString/6+1) + `"}}`,
		"shape":    `{"a":{"shape":[` + strings.Repeat("1,", 4<<20) + "1]}}",
		"offsets":  `{"a":{"data_offsets":[` + strings.Repeat("1,", 4<<20) + "1]}}",
	} {
		data := file(h, 0)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := New(bytes.NewReader(data), int64(len(data)), what)
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", what, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 || took > time.Minute && !testing.Short() {
			t.Errorf("%s: %d MB and %v for %d MB of header", what, used>>20, took, len(h)>>20)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, path := range golden.Glob(f, "models/*/hf/*.safetensors") {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		n := min(len(b), 8+int(binary.LittleEndian.Uint64(b)))
		f.Add(b[:n])
	}
	f.Add(file("{"+entry("a", "[4]", 0, 4)+","+entry("b", "[0]", 4, 4)+"}", 4))
	f.Add(file(`{"__metadata__":{"\u0061":"\n"},"x":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}  `, 4))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := New(bytes.NewReader(data), int64(len(data)), "fuzz")
		if err != nil {
			return
		}
		total := int64(0)
		var src []Source
		for _, x := range file.Tensors() {
			total += x.Bytes
			if x.Type.Valid() {
				readAll(t, x)
				src = append(src, Source{x.Name, x.Type, x.Shape, x})
			}
		}
		if total > int64(len(data)) {
			t.Fatalf("%d bytes of tensors in a file of %d", total, len(data))
		}
		var out bytes.Buffer
		if err := Write(&out, src, file.Metadata()); err != nil {
			t.Fatal(err)
		}
		again, err := New(bytes.NewReader(out.Bytes()), int64(out.Len()), "again")
		if err != nil || len(again.Tensors()) != len(src) {
			t.Fatalf("what was written does not open: %v", err)
		}
	})
}
