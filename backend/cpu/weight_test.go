package cpu

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

func TestPackErrors(t *testing.T) {
	b := open(t, Options{Workers: 3})
	bad := errors.New("bad sector")
	read := func(dst []byte, row, n int) error { return nil }
	for _, c := range []struct {
		name string
		src  backend.WeightSource
		want string
	}{
		{"read", backend.WeightSource{Type: backend.F32, Rows: 100, Cols: 8, ReadRows: func(_ []byte, row, n int) error {
			if row == 64 {
				return bad
			}
			return nil
		}}, "bad sector"},
		{"type", backend.WeightSource{Type: backend.I32, Rows: 1, Cols: 1, ReadRows: read}, "I32"},
		{"part of a block", backend.WeightSource{Type: backend.Q4_K, Rows: 1, Cols: 255, ReadRows: read}, "255"},
		{"no rows", backend.WeightSource{Type: backend.F32, Cols: 8, ReadRows: read}, "[0 8]"},
		{"too many rows", backend.WeightSource{Type: backend.F32, Rows: math.MaxInt, Cols: 8, ReadRows: read}, "too large"},
		{"too large", backend.WeightSource{Type: backend.F32, Rows: 1 << 30, Cols: 1 << 30, ReadRows: read}, ""},
	} {
		c.src.Name = "blk.7.ffn_up"
		w, err := b.Pack(t.Context(), c.src)
		if err == nil || w != nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.src.Name) {
			t.Errorf("%s: weight %v, error %v", c.name, w, err)
		}
	}
	for _, src := range []backend.WeightSource{
		{ReadRows: func([]byte, int, int) error { panic(bad) }},
		{ReadRows: read, Progress: func(int64) { panic(bad) }},
	} {
		src.Name, src.Type, src.Rows, src.Cols = "w", backend.F32, 100, 8
		fault := func() (v any) {
			defer func() { v = recover() }()
			_, err := b.Pack(t.Context(), src)
			return err
		}()
		if fault != bad {
			t.Errorf("the caller's panic comes out as %v", fault)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var rows atomic.Int64
	_, err := b.Pack(ctx, backend.WeightSource{Name: "w", Type: backend.F32, Rows: 1 << 16, Cols: 1, ReadRows: func(_ []byte, _, n int) error {
		rows.Add(int64(n))
		cancel()
		return nil
	}})
	if !errors.Is(err, context.Canceled) || rows.Load() > 1<<13 {
		t.Errorf("cancelled Pack read %d rows and returned %v", rows.Load(), err)
	}
}

// TestPackBytes: all types give the file's bytes back, from a ragged panel too,
// hold no more than the file has in whole panels, and report what they read.
func TestPackBytes(t *testing.T) {
	b := open(t, Options{Workers: 2})
	const rows, cols = 37, 512
	for _, typ := range backend.DTypes() {
		if !typ.Float() && !typ.Quantized() {
			continue
		}
		src := randomSource(typ, rows, cols)
		rowBytes, err := typ.RowBytes(cols)
		if err != nil {
			t.Fatal(err)
		}
		file := make([]byte, rows*rowBytes)
		if err := src.ReadRows(file, 0, rows); err != nil {
			t.Fatal(err)
		}
		src.ReadRows = func(dst []byte, row, n int) error {
			copy(dst, file[int64(row)*rowBytes:int64(row+n)*rowBytes])
			return nil
		}
		var read atomic.Int64
		src.Progress = func(n int64) { read.Add(n) }
		w, err := b.Pack(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 30*rowBytes)
		w.Unpack(got, 7, 30)
		if !bytes.Equal(got, file[7*rowBytes:]) {
			t.Errorf("%v: other bytes after Pack and Unpack", typ)
		}
		if w.Bytes() != 48*rowBytes || read.Load() != rows*rowBytes {
			t.Errorf("%v: %d bytes held, %d read; 48 and %d rows of %d bytes", typ, w.Bytes(), read.Load(), rows, rowBytes)
		}
		w.Free()
		w.Free()
	}
}

// TestTile: the tiles of MatMul have the values of Weight.Tile, whether rows are
// decoded one by one or a panel's codes by a vector kernel.
func TestTile(t *testing.T) {
	const cols = 768
	for _, v := range kernel.Variants() {
		if v.Err != nil {
			t.Logf("%s: %v", v.Name, v.Err)
			continue
		}
		b := open(t, Options{Workers: 1, Variant: v.Name})
		want, got, tmp := make([]float32, panel*cols), make([]float32, panel*cols), make([]float32, panel*cols)
		for _, typ := range backend.DTypes() {
			if !typ.Quantized() {
				continue
			}
			rows := 3 * panel
			if block.Codebook(typ) != nil {
				rows = 64 * panel // so many that every index comes up
			}
			w, err := b.Pack(t.Context(), randomSource(typ, rows, cols))
			if err != nil {
				t.Fatal(err)
			}
			const col, n = 256, 512
			p := w.(*packed)
			for at := range rows / panel {
				w.Tile(want, at*panel, panel, col, n)
				if f := b.kernels.Format(typ); f != nil {
					codes, scales := make([]byte, n*panel), make([]float32, f.Scales(n))
					f.Unpack(codes, scales, p.panel(at)[col/f.Block*f.Bytes:], n)
					f.Tile(got, codes, scales, n)
				} else {
					p.tile(got, tmp, at, col, n)
				}
				for i, x := range want[:panel*n] {
					if y := got[i%n*panel+i/n]; math.Float32bits(x) != math.Float32bits(y) && (x == x || y == y) {
						t.Fatalf("%s, %v: row %d, column %d: %v in the panel, %v in the row", v.Name, typ, at*panel+i/n, i%n, y, x)
					}
				}
			}
			w.Free()
		}
	}
}

func TestFloatErrors(t *testing.T) {
	b := open(t, Options{Workers: 1})
	buf, err := b.Alloc(64)
	if err != nil {
		t.Fatal(err)
	}
	defer buf.Free()
	matrix := backend.Contiguous(buf, backend.F32, 0, backend.Dims(4, 4))
	if _, err := b.Float("w", matrix); err != nil {
		t.Error(err)
	}
	long, f16 := matrix, matrix
	long.Off, f16.Type = 1, backend.F16
	for _, v := range []backend.View{{}, long, f16, matrix.Reshape(backend.Dims(16))} {
		if _, err := b.Float("w", v); err == nil {
			t.Errorf("view %v %v from %d: no error", v.Type, v.Shape, v.Off)
		}
	}
}

func TestAlloc(t *testing.T) {
	b := open(t, Options{Workers: 1})
	for _, n := range []int64{-1, math.MaxInt64, 1 << 60} {
		var short *MemoryError
		if buf, err := b.Alloc(n); !errors.As(err, &short) || short.Bytes != n || buf != nil {
			t.Errorf("Alloc(%d) returned %v, %v", n, buf, err)
		}
	}
	e := begin(t, b, t.Context())
	defer e.End()
	defer func() {
		if _, ok := recover().(*MemoryError); !ok {
			t.Error("an arena of 2^58 bytes: no *MemoryError")
		}
	}()
	e.Alloc(backend.F32, backend.Dims(1<<28, 1<<28))
}

// TestArena takes and releases across chunks; what is held is never handed out
// twice.
func TestArena(t *testing.T) {
	var a arena
	defer a.free()
	for round := range 3 {
		a.reset()
		held := slice[int32](&a, minChunk/8) // half a chunk
		for i := range held {
			held[i] = int32(i)
		}
		for n := range 20 {
			mark := a.mark()
			for range n {
				clear(slice[int32](&a, minChunk/16))
			}
			a.release(mark)
		}
		for i, v := range held {
			if int(v) != i {
				t.Fatalf("round %d: element %d is now %d", round, i, v)
			}
		}
		if round > 0 && len(a.chunks) != 1 {
			t.Errorf("round %d: %d chunks", round, len(a.chunks))
		}
	}
	if want := int64(minChunk/2 + 19*minChunk/4); a.peak < want || a.peak > 2*want {
		t.Errorf("peak of %d bytes, %d were held", a.peak, want)
	}
}
