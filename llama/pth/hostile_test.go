package pth

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/golden"
)

// archiveOf makes a file of a pickle and other entries, all stored.
func archiveOf(pickle string, entries map[string]string) []byte {
	names := []string{}
	for name := range entries {
		names = append(names, name)
	}
	sort.Strings(names)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name, text string) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: "m/" + name, Method: zip.Store})
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			panic(err)
		}
	}
	add("data.pkl", pickle)
	for _, name := range names {
		add(name, entries[name])
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func str(s string) string { return string(appendString(nil, s)) }

// storageCode pushes a storage.
func storageCode(class, key string, numel int64) string {
	b := appendString([]byte{opMark}, "storage")
	b = appendString(appendString(appendGlobal(b, global(class)), key), "cpu")
	return string(append(appendInt(b, numel), opTuple, opBinPersID))
}

// tensorCode pushes a tensor. Unlike the writer's code, the numbers may be
// negative.
func tensorCode(class, key string, numel, offset int64, shape, strides []int64) string {
	nums := func(ns []int64) string {
		b := []byte{opMark}
		for _, n := range ns {
			b = binary.LittleEndian.AppendUint64(append(b, opLong1, 8), uint64(n))
		}
		return string(append(b, opTuple))
	}
	return "ctorch._utils\n_rebuild_tensor_v2\n(" + storageCode(class, key, numel) +
		nums([]int64{offset})[1:11] + nums(shape) + nums(strides) + "\x89ccollections\nOrderedDict\n)RtR"
}

// dictOf is a whole pickle of one named value.
func dictOf(name, code string) string { return "\x80\x02}" + str(name) + code + "s." }

// float is a tensor of a storage "0" of 16 float32.
func float(offset int64, shape, strides []int64) string {
	return tensorCode("torch FloatStorage", "0", 16, offset, shape, strides)
}

// TestHostilePickles holds bad pickles, beside a storage data/0 of 64 bytes,
// and a part of the error each must give.
func TestHostilePickles(t *testing.T) {
	x := float(0, []int64{4, 4}, []int64{4, 1})
	storage := storageCode("torch FloatStorage", "0", 16)
	rebuild := "ctorch._utils\n_rebuild_tensor_v2\n"
	const huge = int64(1) << 62
	for _, c := range []struct{ what, code, want string }{
		{"os.system", "\x80\x02cos\nsystem\n" + str("id") + "\x85R.", `the name "os.system" is not allowed`},
		{"builtins.eval", dictOf("a", "cbuiltins\neval\n"+str("1")+"\x85R"), `"builtins.eval"`},
		{"name of a longer module", dictOf("a", "ctorch\nFloatStorage.__init__\n"), "is not allowed"},
		{"name without an end", "\x80\x02ctorch\nFloatStorage", "without an end"},
		{"long name", "\x80\x02c" + strings.Repeat("a", 1000) + "\nb\n.", "without an end"},
		{"call of a string", dictOf("a", str("x")+")R"), "call of a string with a tuple"},
		{"call of a class", dictOf("a", "ctorch\nFloatStorage\n)R"), "call of torch FloatStorage"},
		{"OrderedDict of a list", dictOf("a", "ccollections\nOrderedDict\n]\x85R"), "call of collections OrderedDict"},
		{"arguments no tuple", dictOf("a", "ccollections\nOrderedDict\n]R"), "with a list"},
		{"parameter of nothing", dictOf("a", "ctorch._utils\n_rebuild_parameter\nNNN\x87R"), "wrong kind"},
		{"size of nothing", dictOf("a", "ctorch\nSize\nN\x85R"), "wrong kind"},
		{"too few arguments", dictOf("a", rebuild+"(tR"), "0 arguments"},
		{"no storage", dictOf("a", rebuild+"(NK\x00))NNtR"), "tensor of None"},
		{"offset a string", dictOf("a", rebuild+"("+storage+str("0")+"))NNtR"), "offset a string"},
		{"shape a list", dictOf("a", rebuild+"("+storage+"K\x00])NNtR"), "shape a list"},
		{"shape of strings", dictOf("a", rebuild+"("+storage+"K\x00"+str("1")+"\x85)NNtR"), "shape a tuple"},
		{"metadata", dictOf("a", rebuild+"("+storage+"K\x00))NN}"+str("neg")+"\x88stR"), "with metadata"},
		{"build of a tensor", dictOf("a", x+"}b"), "BUILD of a tensor"},
		{"build of nothing", "\x80\x02}b.", "BUILD of nothing"},
		{"instruction INST", "\x80\x02(ios\nsystem\n.", `instruction 0x69`},
		{"instruction OBJ", "\x80\x02(o.", "0x6f"},
		{"instruction NEWOBJ", "\x80\x02)\x81.", "0x81"},
		{"instruction EXT1", "\x80\x02\x82\x01.", "0x82"},
		{"instruction STACK_GLOBAL", "\x80\x02" + str("os") + str("system") + "\x93.", "0x93"},
		{"instruction DUP", "\x80\x02}2.", "0x32"},
		{"instruction LONG4", "\x80\x02\x8b\xff\xff\xff\x7f.", "0x8b"},
		{"instruction PERSID", "\x80\x02P0\n.", "0x50"},
		{"protocol 4", "\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00}.", "protocol 4"},
		{"empty", "", "ends after 0 of 1"},
		{"no stop", "\x80\x02}", "ends after 0 of 1"},
		{"stop on nothing", "\x80\x02.", "too few values"},
		{"stop on a mark", "\x80\x02}(.", "too few values"},
		{"not a pickle", "hello", "is empty"},
		{"a million marks", "\x80\x02" + strings.Repeat("(", 1e6), "nested more than"},
		{"a tuple of a million nestings", "\x80\x02)" + strings.Repeat("\x85", 1e6) + ".", "holds a tuple"},
		{"a list of a million nestings", "\x80\x02" + strings.Repeat("]", 1e6) + strings.Repeat("a", 1e6-1) + ".", "holds a list"},
		{"too many instructions", "\x80\x02" + strings.Repeat("N", maxSteps) + ".", "instructions"},
		{"memo bomb", "\x80\x02]q\x00" + strings.Repeat("(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00tq\x00", 1000) + ".", "holds a tuple"},
		{"list in itself", "\x80\x02]q\x00h\x00a.", "holds a list"},
		{"dict in itself", "\x80\x02}q\x00" + str("a") + "h\x00s.", "no tensors"},
		{"put of 2^31", "\x80\x02}r\x00\x00\x00\x80.", "memo index 2147483648"},
		{"put of nothing", "\x80\x02q\x00.", "nothing to remember"},
		{"put of a mark", "\x80\x02}(q\x00.", "nothing to remember"},
		{"get of nothing", "\x80\x02h\x07.", "memo 7 is empty"},
		{"long get of nothing", "\x80\x02j\xff\xff\xff\xff.", "is empty"},
		{"string of 4 GB", "\x80\x02X\xff\xff\xff\xff.", "of 4294967295 bytes"},
		{"string not UTF-8", dictOf("\xff", "N"), "UTF-8"},
		{"number of 9 bytes", "\x80\x02\x8a\x09123456789.", "number of 9 bytes"},
		{"number cut", "\x80\x02J\x00", "ends after 1 of 4"},
		{"float cut", "\x80\x02G\x00", "ends after 1 of 8"},
		{"tuple of nothing", "\x80\x02\x86.", "too few values"},
		{"tuple below a mark", "\x80\x02N(\x85.", "too few values"},
		{"tuple without a mark", "\x80\x02t.", "no mark"},
		{"odd pairs", "\x80\x02}(Nu.", "1 items for a dict"},
		{"items for a list", "\x80\x02](NNu.", "2 items for a list"},
		{"items for nothing", "\x80\x02(Ne.", "items for nothing"},
		{"append to a tuple", "\x80\x02)Na.", "items for a tuple"},
		{"persistent id of a string", dictOf("a", str("storage")+"Q"), "5 fields"},
		{"persistent id of another kind", dictOf("a", "("+str("module")+"NNNNtQ"), "5 fields"},
		{"persistent id of nothing", dictOf("a", "("+str("storage")+"NNNNtQ"), "wrong fields"},
		{"storage of a dict class", dictOf("a", storageCode("collections OrderedDict", "0", 16)), "wrong fields"},
		{"storage of -1", dictOf("a", storageCode("torch FloatStorage", "0", -1)), "wrong fields"},
		{"storage too large", dictOf("a", storageCode("torch FloatStorage", "0", huge)), "too large"},
		{"key with a path", dictOf("a", storageCode("torch FloatStorage", "../../etc/passwd", 16)), "not a plain name"},
		{"key of a parent", dictOf("a", storageCode("torch FloatStorage", "..", 16)), "not a plain name"},
		{"key with a backslash", dictOf("a", storageCode("torch FloatStorage", `a\b`, 16)), "not a plain name"},
		{"empty key", dictOf("a", storageCode("torch FloatStorage", "", 16)), "not a plain name"},
		{"storage of two types", dictOf("a", storage+storageCode("torch IntStorage", "0", 16)), "is both"},
		{"storage of two sizes", dictOf("a", storage+storageCode("torch FloatStorage", "0", 15)), "is both"},
		{"missing entry", dictOf("a", tensorCode("torch FloatStorage", "7", 16, 0, []int64{1}, []int64{1})), "data/7 is not in the archive"},
		{"type of another width", dictOf("a", tensorCode("torch HalfStorage", "0", 16, 0, []int64{1}, []int64{1})), "has 64 bytes, expected 32"},
		{"storage larger than its entry", dictOf("a", tensorCode("torch FloatStorage", "0", 17, 0, []int64{1}, []int64{1})), "has 64 bytes, expected 68"},
		{"negative offset", dictOf("a", float(-1, []int64{1}, []int64{1})), "outside storage"},
		{"offset at the end", dictOf("a", float(16, []int64{1}, []int64{1})), "outside storage"},
		{"offset of an empty tensor", dictOf("a", float(17, []int64{0}, []int64{1})), "outside storage"},
		{"huge offset", dictOf("a", float(huge, []int64{1}, []int64{1})), "outside storage"},
		{"negative dimension", dictOf("a", float(0, []int64{-4, -4}, []int64{4, 1})), "shape [-4 -4]"},
		{"negative stride", dictOf("a", float(12, []int64{4, 4}, []int64{-4, 1})), "strides [-4 1]"},
		{"strides missing", dictOf("a", float(0, []int64{4, 4}, []int64{4})), "tensor of a storage"},
		{"one too far", dictOf("a", float(1, []int64{4, 4}, []int64{4, 1})), "outside storage"},
		{"stride too far", dictOf("a", float(0, []int64{4, 4}, []int64{5, 1})), "outside storage"},
		{"huge stride", dictOf("a", float(0, []int64{2, 2}, []int64{huge, 1})), "outside storage"},
		{"strides that overflow", dictOf("a", float(0, []int64{3, 3}, []int64{huge, huge})), "outside storage"},
		{"shape that overflows", dictOf("a", float(0, []int64{huge, 4}, []int64{0, 0})), "too large"},
		{"expanded by stride 0", dictOf("a", float(0, []int64{1 << 30}, []int64{0})), "or repeat them"},
		{"overlapping rows", dictOf("a", float(0, []int64{5, 4}, []int64{1, 1})), "or repeat them"},
		{"nine dimensions", dictOf("a", float(0, make([]int64, 9), make([]int64, 9))), "dimensions"},
		{"name twice", "\x80\x02}(" + str("a") + x + str("a") + x + "u.", `tensor "a": is there twice`},
		{"name a number", "\x80\x02}K\x00" + x + "s.", "expected a string"},
		{"a tensor alone", "\x80\x02" + x + ".", "holds a tensor"},
		{"None", "\x80\x02N.", "holds None"},
		{"no tensors", "\x80\x02}.", "no tensors"},
		{"nested", dictOf("model", "}"+str("a")+x+"s"), "no tensors"},
		{"larger than the limit", strings.Repeat("N", maxPickle+1), "above the limit"},
	} {
		b := archiveOf(c.code, map[string]string{"data/0": strings.Repeat("\x00", 64)})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		f, err := New(bytes.NewReader(b), int64(len(b)), "bad.pth")
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		var e *Error
		if !errors.As(err, &e) || f != nil || e.File != "bad.pth" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 || took > time.Minute && !testing.Short() {
			t.Errorf("%s: %d MB and %v for a pickle of %d bytes", c.what, used>>20, took, len(c.code))
		}
	}
}

// TestHostileArchives changes a good file.
func TestHostileArchives(t *testing.T) {
	code := dictOf("a", float(0, []int64{16}, []int64{1}))
	data := strings.Repeat("\x00", 64)
	good := archiveOf(code, map[string]string{"data/0": data})
	if _, err := New(bytes.NewReader(good), int64(len(good)), "good"); err != nil {
		t.Fatal(err)
	}
	central := bytes.Index(good, []byte("PK\x01\x02")) // the directory's first record, data.pkl
	second := central + 4 + bytes.Index(good[central+4:], []byte("PK\x01\x02"))
	patch := func(at int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	var squeezed bytes.Buffer
	z := zip.NewWriter(&squeezed)
	for _, name := range []string{"m/data.pkl", "m/data/0"} {
		w, err := z.Create(name) // deflated: a megabyte of zeros in a thousand bytes
		if err == nil {
			_, err = w.Write(make([]byte, 1<<20))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	z.Close()
	many := map[string]string{}
	long := strings.Repeat("n", 60000)
	for i := range maxDirectory/60000 + 2 {
		many[long+string(rune('0'+i/256))+string(rune('0'+i%256))] = ""
	}
	for _, c := range []struct {
		what string
		data []byte
		want string
	}{
		{"empty", nil, "not a zip"},
		{"the old format", []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."), "before PyTorch 1.6"},
		{"no directory", good[:central], "zip: "},
		{"cut in half", good[:len(good)/2], "zip: "},
		{"cut at the end", good[:len(good)-1], "zip: "},
		{"front cut off", append([]byte("PK\x03\x04"), good[60:]...), "zip"},
		{"compressed", squeezed.Bytes(), "is compressed"},
		{"encrypted", patch(central+8, 1), "is compressed or encrypted"},
		{"other size than stored", patch(second+20, 1), "expected stored"},
		{"larger than the file", patch(second+20, 255, 255, 255, 0, 255, 255, 255, 0), "in a file of"},
		{"offset beyond the file", patch(second+42, 255, 255, 255, 127), "zip"},
		{"two entries in one place", patch(second+42, good[central+42:central+46]...), "overlap"},
		{"no pickle", archiveOfNames(t, "m/version"), "no data.pkl"},
		{"pickle too deep", archiveOfNames(t, "m/n/data.pkl"), "no data.pkl"},
		{"two pickles", archiveOfNames(t, "m/data.pkl", "n/data.pkl"), "two pickles"},
		{"an entry twice", archiveOfNames(t, "m/data.pkl", "m/data/0", "m/data/0"), "is there twice"},
		{"big endian", archiveOf(code, map[string]string{"data/0": data, "byteorder": "big"}), `byte order "big"`},
		{"long byte order", archiveOf(code, map[string]string{"data/0": data, "byteorder": strings.Repeat(" ", 100) + "little"}), "above the limit"},
		{"huge directory", archiveOf(code, many), "directory is larger"},
	} {
		f, err := New(bytes.NewReader(c.data), int64(len(c.data)), "bad.pth")
		var e *Error
		if !errors.As(err, &e) || f != nil || e.File != "bad.pth" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}

// archiveOfNames makes a zip file of entries with one byte each.
func archiveOfNames(t *testing.T, names ...string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, name := range names {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = w.Write([]byte("."))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	z.Close()
	return b.Bytes()
}

// pickles returns the pickles of the golden checkpoints.
func pickles(f *testing.F) (out []string) {
	for _, path := range golden.Glob(f, "models/*/meta/*.pth") {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range z.File {
			if at, err := e.DataOffset(); err == nil && strings.HasSuffix(e.Name, "data.pkl") {
				out = append(out, string(b[at:at+int64(e.UncompressedSize64)]))
			}
		}
	}
	return out
}

func FuzzPickle(f *testing.F) {
	for _, code := range pickles(f) {
		f.Add([]byte(code))
	}
	f.Add([]byte(dictOf("a", float(0, []int64{4, 2}, []int64{1, 8}))))
	f.Fuzz(func(t *testing.T, code []byte) {
		v, err := run(string(code))
		if err == nil {
			if _, bad := v.(mark); bad {
				t.Fatal("a mark is no value")
			}
		}
	})
}

// FuzzOpen reads every tensor of a mutated file; each must stay within the file.
func FuzzOpen(f *testing.F) {
	data := map[string]string{"data/0": strings.Repeat("0123456789abcdef", 4), "byteorder": "little"}
	f.Add(archiveOf(dictOf("a", float(1, []int64{3, 2}, []int64{1, 7})), data))
	f.Add(archiveOf(dictOf("b", float(0, []int64{4, 4}, []int64{4, 1})), data))
	for _, code := range pickles(f) {
		f.Add(archiveOf(code, nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := New(bytes.NewReader(b), int64(len(b)), "fuzz")
		if err != nil {
			return
		}
		for _, x := range file.Tensors() {
			if x.Bytes > int64(len(b)) {
				t.Fatalf("%q has %d bytes in a file of %d", x.Name, x.Bytes, len(b))
			}
			if x.Type.Valid() {
				readAll(t, x)
			}
		}
	})
}
