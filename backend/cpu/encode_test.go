package cpu

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// The kernels change no byte of any type, with importance or without.
func TestEncoder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(41, 42))
	const n = 1024
	row, importance := make([]float32, n), make([]float32, n)
	e := NewEncoder()
	for _, typ := range backend.DTypes() {
		if !block.Encodable(typ) {
			continue
		}
		size, err := typ.RowBytes(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range [][]float32{nil, importance} {
			for i := range row {
				row[i], importance[i] = float32(rnd.NormFloat64()), float32(rnd.ExpFloat64())
			}
			got, want := make([]byte, size), make([]byte, size)
			if err := e.Row(typ, got, row, w); err != nil {
				t.Fatal(err)
			}
			if err := block.EncodeRow(typ, want, row, w); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%v: other bytes, importance %v", typ, w != nil)
			}
		}
	}
}

func BenchmarkEncoder(b *testing.B) {
	rnd := rand.New(rand.NewPCG(43, 44))
	const n = 2048
	row := make([]float32, n)
	for i := range row {
		row[i] = float32(rnd.NormFloat64()) / 50
	}
	for _, typ := range backend.DTypes() {
		if !block.Encodable(typ) {
			continue
		}
		b.Run(typ.String(), func(b *testing.B) {
			size, err := typ.RowBytes(n)
			if err != nil {
				b.Fatal(err)
			}
			e, dst := NewEncoder(), make([]byte, size)
			for b.Loop() {
				if err := e.Row(typ, dst, row, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/weight")
		})
	}
}
