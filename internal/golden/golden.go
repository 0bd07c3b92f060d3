// Package golden finds the reference data that tests compare with, and reads
// it. Only tests import it.
//
// A committed subset lies in testdata and is always used. The environment
// variable HERD_GOLDEN, or the folder ../shared/golden beside the checkout,
// adds the rest; where both have a file, the larger set wins. Tests never name
// a case: they list what is there.
package golden

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
)

// repo returns the root of the checkout.
func repo() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Roots returns the folders that hold golden data, the most complete first.
func Roots() []string {
	var roots []string
	if dir := os.Getenv("HERD_GOLDEN"); dir != "" {
		roots = append(roots, dir)
	} else if dir := filepath.Join(repo(), "..", "shared", "golden"); exists(dir) {
		roots = append(roots, dir)
	}
	return append(roots, filepath.Join(repo(), "internal", "golden", "testdata"))
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// Committed returns the path of a file of the committed subset.
func Committed(rel string) string {
	return filepath.Join(repo(), "internal", "golden", "testdata", filepath.FromSlash(rel))
}

// Glob returns the files and folders that match a slash-separated pattern
// below any root, one for each relative path, in order. It skips the test when
// there are none: the committed subset has every kind of data but Meta's own
// files and the real model's.
func Glob(t testing.TB, pattern string) []string {
	t.Helper()
	seen := map[string]string{}
	for _, root := range Roots() {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			rel, _ := filepath.Rel(root, p)
			if _, ok := seen[rel]; !ok {
				seen[rel] = p
			}
		}
	}
	if len(seen) == 0 {
		t.Skipf("golden: nothing matches %s", pattern)
	}
	var rels []string
	for rel := range seen {
		rels = append(rels, rel)
	}
	sort.Strings(rels)
	paths := make([]string, len(rels))
	for i, rel := range rels {
		paths[i] = seen[rel]
	}
	return paths
}

// RealModel returns the path of the real model's file and of the folder with
// its reference outputs, or skips.
func RealModel(t testing.TB) (model, outputs string) {
	t.Helper()
	dirs := Glob(t, "smollm2")
	dir := dirs[0]
	found, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(dir)), "models", "smollm2*.gguf"))
	if len(found) == 0 {
		found, _ = filepath.Glob(filepath.Join(repo(), "..", "shared", "models", "smollm2*.gguf"))
	}
	if len(found) == 0 {
		t.Skip("golden: the real model's file is not here")
	}
	return found[0], dir
}

// Tensor is one tensor of a golden safetensors file. One of the slices is set.
type Tensor struct {
	DType string
	Shape []int
	F32   []float32
	I64   []int64
	U8    []byte
	U16   []uint16
}

// Safetensors reads a golden file whole. It is a second, independent reader,
// so that tests of llama/safetensors do not compare it with itself.
func Safetensors(t testing.TB, path string) map[string]Tensor {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(b)
	var head map[string]struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(b[8:8+n], &raw); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	delete(raw, "__metadata__")
	rest, _ := json.Marshal(raw)
	if err := json.Unmarshal(rest, &head); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	out := map[string]Tensor{}
	for name, h := range head {
		data := b[8+int(n)+h.Offsets[0] : 8+int(n)+h.Offsets[1]]
		x := Tensor{DType: h.DType, Shape: h.Shape}
		switch h.DType {
		case "F32":
			x.F32 = make([]float32, len(data)/4)
			for i := range x.F32 {
				x.F32[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
			}
		case "I64":
			x.I64 = make([]int64, len(data)/8)
			for i := range x.I64 {
				x.I64[i] = int64(binary.LittleEndian.Uint64(data[8*i:]))
			}
		case "U8":
			x.U8 = data
		case "U16", "F16", "BF16":
			x.U16 = make([]uint16, len(data)/2)
			for i := range x.U16 {
				x.U16[i] = binary.LittleEndian.Uint16(data[2*i:])
			}
		default:
			t.Fatalf("%s: tensor %s has type %s", path, name, h.DType)
		}
		out[name] = x
	}
	return out
}

// JSON reads a JSON file into v.
func JSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// JSONLines reads a file of one JSON value a line.
func JSONLines[T any](t testing.TB, path string) []T {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []T
	for i, line := range strings.Split(string(b), "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s:%d: %v", path, i+1, err)
		}
		out = append(out, v)
	}
	return out
}

// MaxRelative returns the largest |got - want| over the largest |want|, element
// by element, and where it is. It is +Inf where one of the two is not finite.
func MaxRelative(got, want []float32) (worst float64, at int) {
	scale := 0.0
	for _, w := range want {
		scale = math.Max(scale, math.Abs(float64(w)))
	}
	for i, w := range want {
		d := math.Abs(float64(got[i]) - float64(w))
		if math.IsNaN(d) {
			return math.Inf(1), i
		}
		if d > worst {
			worst, at = d, i
		}
	}
	if scale > 0 {
		worst /= scale
	}
	return worst, at
}

// Name shortens a golden path for a subtest's name.
func Name(path string) string {
	for _, root := range Roots() {
		if rel, err := filepath.Rel(root, path); err == nil && !strings.HasPrefix(rel, "..") {
			return filepath.ToSlash(rel)
		}
	}
	return fmt.Sprint(filepath.Base(path))
}
