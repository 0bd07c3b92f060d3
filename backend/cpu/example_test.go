package cpu_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
)

// A step multiplies two rows with a weight of three.
func Example() {
	b, err := cpu.New(cpu.Options{Workers: 2, Variant: "generic"})
	if err != nil {
		panic(err)
	}
	defer b.Close()

	matrix := [][]float32{{1, 0}, {0, 1}, {1, 1}}
	w, err := b.Pack(context.Background(), backend.WeightSource{
		Name: "w", Type: backend.F32, Rows: 3, Cols: 2,
		ReadRows: func(dst []byte, row, n int) error {
			for i := range n * 2 {
				binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(matrix[row+i/2][i%2]))
			}
			return nil
		},
	})
	if err != nil {
		panic(err)
	}
	defer w.Free()

	e, err := b.NewExec()
	if err != nil {
		panic(err)
	}
	defer e.Close()
	out := make([]float32, 6)
	err = backend.Step(context.Background(), e, func() error {
		x := e.Alloc(backend.F32, backend.Dims(2, 2))
		y := e.Alloc(backend.F32, backend.Dims(2, 3))
		e.Write(x, []float32{1, 2, 3, 4})
		var a backend.Args
		a.In[0], a.W[0], a.Out[0] = x, w, y
		e.Run(backend.MatMul, &a)
		e.Read(out, y)
		return nil
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(out)
	// Output: [1 2 3 3 4 7]
}

func ExampleNew() {
	_, err := cpu.New(cpu.Options{Variant: "neon"})
	fmt.Println(err)
	// Output: cpu: unknown variant "neon": want generic, avx2, avx512 or amx
}

func ExampleDefault() {
	b := cpu.Default()
	fmt.Println(b.Describe().Device, b == cpu.Default())
	// Output: cpu true
}

// What runs here, for a log or a user who wonders why it is slow.
func ExampleBackend_Describe() {
	b, err := cpu.New(cpu.Options{Workers: 3, Variant: "generic"})
	if err != nil {
		panic(err)
	}
	defer b.Close()
	d := b.Describe()
	fmt.Println(d.Device, d.Variant, d.Workers, len(d.Vector))
	// Output: cpu generic 3 0
}

// A closed backend lets no step in.
func ExampleBackend_Close() {
	b, err := cpu.New(cpu.Options{Workers: 1})
	if err != nil {
		panic(err)
	}
	e, err := b.NewExec()
	if err != nil {
		panic(err)
	}
	b.Close()
	fmt.Println(e.Begin(context.Background()))
	// Output: cpu: closed
}

// More memory than there is comes back as an error.
func ExampleMemoryError() {
	_, err := cpu.Default().Alloc(math.MaxInt64)
	var memory *cpu.MemoryError
	fmt.Println(errors.As(err, &memory), memory.Bytes == math.MaxInt64)
	// Output: true true
}

// A share of the bandwidth says more of a decoding speed than tokens a second.
func ExampleBackend_NewProbe() {
	b := cpu.Default()
	p, err := b.NewProbe(64 << 20)
	if err != nil { // the generic variant has none
		fmt.Println("reads:", errors.Is(err, backend.ErrUnsupported))
		return
	}
	defer p.Close()
	read, err := p.Read(context.Background())
	fmt.Println("reads:", read > 0 && err == nil)
	// Output: reads: true
}

func ExampleBackend_Peak() {
	var b backend.Prober = cpu.Default()
	peak, err := b.Peak(context.Background(), backend.PrecisionF32)
	fmt.Println(peak > 0 || errors.Is(err, backend.ErrUnsupported)) // the generic variant has no probe
	// Output: true
}

// Rows of weights as a block type, one encoder for each goroutine.
func ExampleNewEncoder() {
	e := cpu.NewEncoder()
	row := make([]float32, backend.Q6_K.BlockElems())
	for i := range row {
		row[i] = float32(i%64) - 32
	}
	b := make([]byte, backend.Q6_K.BlockBytes())
	err := e.Row(backend.Q6_K, b, row, nil)
	block.Decode(backend.Q6_K, row, b)
	fmt.Println(row[:7], err)
	// Output: [-32 -31 -30 -29 -28 -27 -26] <nil>
}
