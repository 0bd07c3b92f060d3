package ref_test

import (
	"context"
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// A step that adds two vectors.
func ExampleNew() {
	e, err := ref.New().NewExec()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Close()
	sum := make([]float32, 2)
	err = backend.Step(context.Background(), e, func() error {
		var a backend.Args
		for i, x := range [][]float32{{1, 2}, {10, 20}} {
			a.In[i] = e.Alloc(backend.F32, backend.Dims(2))
			e.Write(a.In[i], x)
		}
		a.Out[0] = e.Alloc(backend.F32, backend.Dims(2))
		e.Run(backend.Add, &a)
		e.Read(sum, a.Out[0])
		return nil
	})
	fmt.Println(sum, err)
	// Output: [11 22] <nil>
}

// The softmax of numbers that float32 cannot tell apart, and its oracle.
func ExampleValues() {
	b := ref.New()
	buf, err := b.Alloc(4 * 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	v := backend.Contiguous(buf, backend.F32, 0, backend.Dims(2))
	x := ref.Load(&backend.Args{In: [backend.MaxIn]backend.View{v}, Out: [backend.MaxOut]backend.View{v}})
	x.In[0][0] = 1e-10
	x.Eval(backend.Softmax)
	fmt.Println(x.Out[0][0] > x.Out[0][1])
	// Output: true
}

// One operation on memory that the host can address, without a step.
func ExampleRun() {
	b := ref.New()
	buf, err := b.Alloc(4 * 3)
	if err != nil {
		fmt.Println(err)
		return
	}
	v := backend.Contiguous(buf, backend.F32, 0, backend.Dims(3))
	ref.Run(backend.Exp, &backend.Args{In: [backend.MaxIn]backend.View{v}, Out: [backend.MaxOut]backend.View{v}})
	x := ref.Load(&backend.Args{In: [backend.MaxIn]backend.View{v}})
	fmt.Println(x.In[0]) // exp(0)
	// Output: [1 1 1]
}

// What is kept in a buffer is there after its memory has moved.
func ExampleNewOpaque() {
	b := ref.NewOpaque()
	buf, err := b.Alloc(5)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := b.Upload(buf, 0, []byte("moves")); err != nil {
		fmt.Println(err)
		return
	}
	e, err := b.NewExec()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Close()
	err = backend.Step(context.Background(), e, func() error { return nil }) // moves all memory
	kept := make([]byte, 5)
	fmt.Println(err, b.Download(kept, buf, 0), string(kept))
	// Output: <nil> <nil> moves
}
