package backend_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/ref"
)

// TestRanges: packed ranges of rows and columns of one source have the numbers of those
// in the whole.
func TestRanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := ref.New()
	for _, typ := range []backend.DType{backend.F32, backend.BF16, backend.Q8_0, backend.Q4_K, backend.E4M3} {
		const rows = 300
		e := typ.BlockElems()
		unit := e
		if e == 1 {
			unit = 101
		}
		cols := 6 * unit
		size, err := typ.RowBytes(int64(cols))
		if err != nil {
			t.Fatal(err)
		}
		file := make([]byte, rows*size)
		for i := range file {
			file[i] = byte(rng.Uint32())
		}
		src := backend.WeightSource{Name: "w", Type: typ, Rows: rows, Cols: cols, ReadRows: func(dst []byte, row, n int) error {
			copy(dst, file[row*int(size):(row+n)*int(size)])
			return nil
		}}
		all := make([]float32, rows*cols)
		block.DecodeRows(typ, all, file, cols)
		for _, r := range [][4]int{{0, rows, 0, 6}, {100, 150, 2, 3}, {299, 1, 5, 1}, {0, rows, 3, 3}} {
			row, n, col, k := r[0], r[1], r[2]*unit, r[3]*unit
			part, err := src.RowRange(row, n)
			if err == nil {
				part, err = part.ColumnRange(col, k)
			}
			if err != nil {
				t.Fatal(err)
			}
			w, err := b.Pack(t.Context(), part)
			if err != nil {
				t.Fatal(err)
			}
			got, want := make([]float32, n*k), make([]byte, 0, 4*n*k)
			w.Tile(got, 0, n, 0, k)
			for i := range n {
				line := make([]byte, 4*k)
				block.Encode(backend.F32, line, all[(row+i)*cols+col:][:k])
				want = append(want, line...)
			}
			have := make([]byte, 4*len(got))
			block.Encode(backend.F32, have, got)
			if w.Rows() != n || w.Cols() != k || !bytes.Equal(have, want) {
				t.Errorf("%v: rows [%d, +%d), columns [%d, +%d) differ from those of the whole", typ, row, n, col, k)
			}
		}
		if _, err := src.RowRange(rows-1, 2); err == nil {
			t.Errorf("%v: rows beyond the last are taken", typ)
		}
		if _, err := src.ColumnRange(cols-e, 2*e); err == nil {
			t.Errorf("%v: columns beyond the last are taken", typ)
		}
		if _, err := src.ColumnRange(0, e/2); e > 1 && err == nil {
			t.Errorf("%v: a part of a block is taken", typ)
		}
		fail := errors.New("a reader's error")
		src.ReadRows = func([]byte, int, int) error { return fail }
		part, err := src.ColumnRange(0, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Pack(t.Context(), part); !errors.Is(err, fail) {
			t.Errorf("%v: the error of a failing reader is %v", typ, err)
		}
	}
}

// The second of two machines that share a product by its inputs.
func ExampleWeightSource_ColumnRange() {
	src := backend.WeightSource{Name: "down_proj", Type: backend.I8, Rows: 2, Cols: 4, ReadRows: func(dst []byte, row, n int) error {
		copy(dst, []byte{1, 2, 3, 4, 5, 6, 7, 8}[4*row:4*(row+n)])
		return nil
	}}
	half, err := src.ColumnRange(2, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	dst := make([]byte, 4)
	fmt.Println(half.Rows, half.Cols, half.ReadRows(dst, 0, 2), dst)
	// Output: 2 2 <nil> [3 4 7 8]
}

func ExampleWeightSource_RowRange() {
	src := backend.WeightSource{Name: "q_proj", Type: backend.I8, Rows: 4, Cols: 2, ReadRows: func(dst []byte, row, n int) error {
		copy(dst, []byte{1, 2, 3, 4, 5, 6, 7, 8}[2*row:2*(row+n)])
		return nil
	}}
	half, err := src.RowRange(2, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	dst := make([]byte, 4)
	fmt.Println(half.Rows, half.Cols, half.ReadRows(dst, 0, 2), dst)
	// Output: 2 2 <nil> [5 6 7 8]
}
