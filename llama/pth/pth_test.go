package pth

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

func readAll(t *testing.T, x *Tensor) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(x, 0, x.Bytes))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != x.Bytes {
		t.Fatalf("%s: read %d bytes of %d", x.Name, len(b), x.Bytes)
	}
	return b
}

// matrix is a tensor as rows of bytes; a vector is one row.
type matrix struct{ rows [][]byte }

func rowsOf(b []byte, shape []int) matrix {
	n := 1
	if len(shape) == 2 {
		n = shape[0]
	}
	var m matrix
	for i := range n {
		m.rows = append(m.rows, b[i*len(b)/n:(i+1)*len(b)/n])
	}
	return m
}

// hugging returns the matrix of the Hugging Face folder for a name of Meta's,
// with the rows of q and k reordered: Meta's row 2i+j of a head is row i+j*hd/2
// there. hd is the head size in rows.
func hugging(t *testing.T, hf map[string]golden.Tensor, name string, hd int) (matrix, []int) {
	t.Helper()
	name = strings.TrimSuffix(name, ".weight")
	for _, r := range [][2]string{
		{"tok_embeddings", "model.embed_tokens"}, {"layers.", "model.layers."},
		{"attention_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"},
		{"attention.w", "self_attn."}, {"feed_forward.w1", "mlp.gate_proj"}, {"feed_forward.w2", "mlp.down_proj"}, {"feed_forward.w3", "mlp.up_proj"},
		{"output", "lm_head"},
	} {
		name = strings.Replace(name, r[0], r[1], 1)
	}
	if name == "norm" {
		name = "model.norm"
	}
	if strings.Contains(name, "self_attn.") {
		name += "_proj"
	}
	x, ok := hf[name+".weight"]
	if !ok && name == "lm_head" { // tied
		x, ok = hf["model.embed_tokens.weight"]
	}
	if !ok {
		t.Fatalf("no tensor %s in the Hugging Face folder", name)
	}
	var b []byte
	for _, v := range x.F32 {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	for _, v := range x.U16 {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	m := rowsOf(b, x.Shape)
	if strings.HasSuffix(name, "q_proj") || strings.HasSuffix(name, "k_proj") {
		rows := make([][]byte, len(m.rows))
		for r := range rows {
			in := r % hd
			rows[r] = m.rows[r-in+in/2+in%2*hd/2]
		}
		m.rows = rows
	}
	return m, x.Shape
}

// merge puts the shards of a tensor together: whole in each, cut along rows,
// or cut along columns.
func merge(t *testing.T, parts []*Tensor, shape []int) matrix {
	t.Helper()
	first := parts[0].Shape
	out := rowsOf(readAll(t, parts[0]), first)
	for _, p := range parts[1:] {
		m := rowsOf(readAll(t, p), p.Shape)
		switch {
		case reflect.DeepEqual(first, shape):
			if !reflect.DeepEqual(m, out) {
				t.Errorf("%s differs between shards", p.Name)
			}
		case first[0] < shape[0]:
			out.rows = append(out.rows, m.rows...)
		default:
			for i := range out.rows {
				out.rows[i] = append(out.rows[i][:len(out.rows[i]):len(out.rows[i])], m.rows[i]...)
			}
		}
	}
	return out
}

// openAll opens the shards of a Meta folder.
func openAll(t *testing.T, dir string) []*File {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(dir, "*.pth"))
	var files []*File
	for _, p := range paths {
		f, err := Open(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	return files
}

func TestGoldenEqualsHuggingFace(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*/meta") {
		t.Run(golden.Name(dir), func(t *testing.T) {
			hf := map[string]golden.Tensor{}
			paths, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "hf", "*.safetensors"))
			for _, p := range paths {
				for name, x := range golden.Safetensors(t, p) {
					hf[name] = x
				}
			}
			var params struct {
				Dim   int `json:"dim"`
				Heads int `json:"n_heads"`
			}
			golden.JSON(t, filepath.Join(dir, "params.json"), &params)
			files := openAll(t, dir)
			compared := map[string]bool{}
			for _, x := range files[0].Tensors() {
				if x.Name == "rope.freqs" {
					continue // a table, not a weight
				}
				var parts []*Tensor
				for _, f := range files {
					parts = append(parts, f.Tensor(x.Name))
				}
				want, shape := hugging(t, hf, x.Name, params.Dim/params.Heads)
				got := merge(t, parts, shape)
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s differs", x.Name)
				}
				compared[x.Name] = true
			}
			if out := files[0].Tensor("output.weight"); out != nil && hf["lm_head.weight"].DType == "" {
				if !out.SameData(files[0].Tensor("tok_embeddings.weight")) {
					t.Error("output.weight is not another name of tok_embeddings.weight")
				}
				delete(compared, "output.weight")
			}
			if len(compared) != len(hf) {
				t.Errorf("compared %d tensors of %d", len(compared), len(hf))
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*/meta") {
		t.Run(golden.Name(dir), func(t *testing.T) {
			for _, f := range openAll(t, dir) {
				var src []Source
				for _, x := range f.Tensors() {
					src = append(src, Source{x.Name, x.Type, x.Shape, x})
				}
				path := filepath.Join(t.TempDir(), "consolidated.00.pth")
				if err := WriteFile(path, src); err != nil {
					t.Fatal(err)
				}
				g, err := Open(path)
				if err != nil {
					t.Fatal(err)
				}
				if len(g.Tensors()) != len(src) {
					t.Fatalf("%d tensors, want %d", len(g.Tensors()), len(src))
				}
				for i, y := range g.Tensors() {
					x := f.Tensors()[i]
					if y.Name != x.Name || y.Type != x.Type || !reflect.DeepEqual(y.Shape, x.Shape) || !bytes.Equal(readAll(t, x), readAll(t, y)) {
						t.Errorf("%s differs from %s", y.Name, x.Name)
					}
					if y.start%alignment != 0 {
						t.Errorf("%s: data at %d", y.Name, y.start)
					}
				}
				g.Close()
			}
		})
	}
}

// TestEveryType writes each type with odd shapes, reads them, and writes the
// same bytes again.
func TestEveryType(t *testing.T) {
	var src []Source
	want := map[string][]byte{}
	for i, typ := range []backend.DType{backend.I8, backend.F16, backend.F32, backend.BF16, backend.I32} {
		for j, shape := range [][]int{{3}, {}, {0, 5}, {1, 3, 1}, {40, 1000}} {
			n := typ.BlockBytes()
			for _, d := range shape {
				n *= d
			}
			name := fmt.Sprint(typ, " é", j)
			want[name] = bytes.Repeat([]byte{byte(i + 1), byte(j + 1), 7}, n)[:n]
			src = append(src, Source{name, typ, shape, bytes.NewReader(want[name])})
		}
	}
	var a, b bytes.Buffer
	if err := errors.Join(Write(&a, src), Write(&b, src)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("writing twice gives different bytes")
	}
	f, err := New(bytes.NewReader(a.Bytes()), int64(a.Len()), "types")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range src {
		x := f.Tensor(s.Name)
		if x == nil || x.Type != s.Type || !reflect.DeepEqual(x.Shape, s.Shape) {
			t.Fatalf("%q: got %+v", s.Name, x)
		}
		if !bytes.Equal(readAll(t, x), want[s.Name]) {
			t.Errorf("%q: bytes differ", s.Name)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	one := bytes.NewReader(make([]byte, 4))
	for what, src := range map[string][]Source{
		"twice":      {{"a", backend.F32, []int{1}, one}, {"a", backend.F32, []int{1}, one}},
		"block type": {{"a", backend.Q8_0, []int{32}, one}},
		"no type":    {{"a", backend.Invalid, []int{1}, one}},
		"negative":   {{"a", backend.F32, []int{-1}, one}},
		"overflow":   {{"a", backend.F32, []int{0, math.MaxInt, math.MaxInt}, one}},
		"short data": {{"a", backend.F32, []int{2}, one}},
		"bad name":   {{"\xff", backend.F32, []int{1}, one}},
		"rank":       {{"a", backend.F32, make([]int, maxRank+1), one}},
	} {
		dir := t.TempDir()
		var e *Error
		if err := WriteFile(filepath.Join(dir, "x"), src); !errors.As(err, &e) || e.Tensor != src[0].Name {
			t.Errorf("%s: %v", what, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("%s: left %v", what, left)
		}
	}
}

// TestViews reads random views of one storage, whole and in pieces, and
// compares with the element-wise definition of a strided tensor.
func TestViews(t *testing.T) {
	const numel = 60000 // above gatherBytes
	data := make([]byte, 4*numel)
	for i := range numel {
		binary.LittleEndian.PutUint32(data[4*i:], uint32(i))
	}
	views := []view{
		{nil, 7, []int64{100, 90}, []int64{90, 1}},         // contiguous
		{nil, 0, []int64{90, 100}, []int64{1, 90}},         // transposed
		{nil, 3, []int64{50, 20}, []int64{64, 1}},          // columns of a matrix
		{nil, 3, []int64{5, 4, 3}, []int64{1000, 10, 1}},   // two gaps
		{nil, 0, []int64{3, 2}, []int64{20000, 19999}},     // far apart
		{nil, 1, []int64{1, 8, 1}, []int64{99999, 3, 777}}, // strides that are never used
		{nil, 59999, []int64{}, []int64{}},                 // a scalar
		{nil, 5, []int64{4, 5}, []int64{0, 0}},             // one element, repeated within the storage's size
		{nil, 5, []int64{6, 5}, []int64{0, 1}},             // a row, repeated
		{nil, 5, []int64{6, 5}, []int64{1, 0}},             // a column, repeated
		{nil, 60000, []int64{0, 5}, []int64{5, 1}},         // nothing
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		v := view{nil, r.Int64N(50), nil, nil}
		for range 1 + r.IntN(4) {
			v.shape = append(v.shape, 1+r.Int64N(6))
			v.strides = append(v.strides, r.Int64N(40))
		}
		views = append(views, v)
	}
	for i, v := range views {
		b := archiveOf(dictOf("x", tensorCode("torch FloatStorage", "0", numel, v.offset, v.shape, v.strides)), map[string]string{"data/0": string(data)})
		f, err := New(bytes.NewReader(b), int64(len(b)), "views")
		if err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		want := naive(data, v)
		x := f.Tensor("x")
		if got := readAll(t, x); !bytes.Equal(got, want) {
			t.Errorf("view %d %v: differs", i, v)
		}
		for range 30 {
			off := r.Int64N(x.Bytes + 1)
			p := make([]byte, r.Int64N(x.Bytes+3))
			n, err := x.ReadAt(p, off)
			end := min(off+int64(len(p)), x.Bytes)
			if !bytes.Equal(p[:n], want[off:end]) || (err == io.EOF) != (n < len(p) || off == x.Bytes) || err != nil && err != io.EOF {
				t.Errorf("view %v: ReadAt(%d bytes, %d) = %d, %v", v, len(p), off, n, err)
			}
		}
		if _, err := x.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
			t.Errorf("offset -1: %v", err)
		}
		if key, off := x.Storage(); key != "0" || off != v.offset {
			t.Errorf("storage %s at %d", key, off)
		}
	}
}

// naive spells a view out element by element; an element has 4 bytes.
func naive(data []byte, v view) []byte {
	at := []int64{v.offset}
	for i, d := range v.shape {
		var next []int64
		for _, a := range at {
			for j := range d {
				next = append(next, a+j*v.strides[i])
			}
		}
		at = next
	}
	var out []byte
	for _, a := range at {
		out = append(out, data[4*a:4*a+4]...)
	}
	return out
}

// TestContainers reads the forms that torch.save gives a state dict.
func TestContainers(t *testing.T) {
	x := tensorCode("torch CharStorage", "0", 2, 0, []int64{2}, []int64{1})
	long := tensorCode("torch LongStorage", "1", 1, 0, []int64{}, []int64{})
	pairs := "(" + str("x") + x + str("n") + "K\x07" + str("half") + "G" + strings.Repeat("\x00", 8) + str("long") + long +
		str("size") + "ctorch\nSize\n(K\x01K\x02t\x85R" + str("list") + "](K\x01NNe" + "u"
	odict := "ccollections\nOrderedDict\n)R"
	param := "ctorch._utils\n_rebuild_parameter\n(" + x + "\x88" + odict + "tR"
	for what, code := range map[string]string{
		"dict":         "\x80\x02}" + pairs + ".",
		"ordered dict": "\x80\x02" + odict + "q\x00" + pairs + ".",
		"attributes":   "\x80\x02" + odict + pairs + "}" + str("_metadata") + odict + "sb.",
		"set one":      "\x80\x02}" + str("x") + x + "s" + str("long") + long + "s.",
		"parameter":    "\x80\x02}(" + str("x") + param + str("long") + long + "u.",
		"memo":         "\x80\x02}" + str("x") + x + "r\x00\x01\x00\x00s" + str("y") + "j\x00\x01\x00\x00s" + str("long") + long + "s.",
		"long numbers": "\x80\x02}" + str("x") + strings.Replace(x, "J\x02\x00\x00\x00", "\x8a\x01\x02", 1) + "s" + str("long") + long + "s.",
	} {
		b := archiveOf(code, map[string]string{"data/0": "ab", "data/1": "12345678"})
		f, err := New(bytes.NewReader(b), int64(len(b)), what)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := readAll(t, f.Tensor("x")); string(got) != "ab" {
			t.Errorf("%s: x holds %q", what, got)
		}
		if y := f.Tensor("y"); y != nil && !y.SameData(f.Tensor("x")) {
			t.Errorf("%s: y is not x", what)
		}
		l := f.Tensor("long")
		if l.Type != backend.Invalid || l.TypeName != "Long" || l.Bytes != 8 || l.SameData(f.Tensor("x")) {
			t.Errorf("%s: long is %+v", what, l)
		}
		var e *Error
		if _, err := l.ReadAt(make([]byte, 8), 0); !errors.As(err, &e) || e.Tensor != "long" || !strings.Contains(e.Reason, "Long") {
			t.Errorf("%s: reading long gave %v", what, err)
		}
	}
}

func TestTruncatedWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pth")
	if err := WriteFile(path, []Source{{"a", backend.F32, []int{64}, bytes.NewReader(make([]byte, 256))}}); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	a := f.Tensor("a")
	if err := os.Truncate(path, a.start+100); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := a.ReadAt(make([]byte, 256), 0); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &e) || e.Tensor != "a" || e.File != path {
		t.Errorf("reading a truncated file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reading a closed file: %v", err)
	}
}
