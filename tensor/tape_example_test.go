package tensor_test

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/tensor"
)

// weight makes a matrix or a vector that can be trained, with memory for its gradient.
func weight(b backend.Backend, x []float32, dims ...int) *tensor.Param {
	p := tensor.NewParam(dims...)
	n := p.Shape.Elems()
	buf, err := b.Alloc(int64(8 * n))
	if err != nil {
		panic(err)
	}
	v := backend.Contiguous(buf, backend.F32, 0, p.Shape)
	if err := tensor.Upload(b, v, x); err != nil {
		panic(err)
	}
	if p.Matrix() {
		w, err := b.Float("example", v)
		if err != nil {
			panic(err)
		}
		p.BindMatrix(w, v)
	} else {
		p.BindValue(v)
	}
	p.BindGrad(backend.Contiguous(buf, backend.F32, n, p.Shape))
	return p
}

// gradOf reads a gradient.
func gradOf(b backend.Backend, p *tensor.Param) []float32 {
	x := make([]float32, p.Shape.Elems())
	if err := tensor.Download(b, x, p.Grad()); err != nil {
		panic(err)
	}
	return x
}

// The gradient of the sum of (x W^T)^2, with respect to W and to x.
func ExampleTape() {
	w := weight(cpu.Default(), []float32{1, 2, 3, 4}, 2, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tape := tensor.NewTape()
		c.Record(tape)
		x := c.New(backend.F32, backend.Dims(1, 2))
		c.Write(x, []float32{1, -1})
		tape.Watch(x)
		y := tensor.MatMul(c, x, w) // -1, -1
		loss := tensor.Sum(c, tensor.Mul(c, y, y), 1)
		fmt.Println(c.Recording(), read(c, loss)) // before Backward
		tape.Backward(tensor.Seed{Y: loss})
		fmt.Println(read(c, tape.Grad(x)))
	})
	fmt.Println(gradOf(cpu.Default(), w))
	// Output:
	// true [2]
	// [-8 -12]
	// [-2 2 -2 2]
}

// A gradient that comes from above, for more than one result.
func ExampleSeed() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tape := tensor.NewTape()
		c.Record(tape)
		x := c.Const(3)
		tape.Watch(x)
		square, half := tensor.Mul(c, x, x), tensor.Scale(c, x, 0.5)
		tape.Backward(tensor.Seed{Y: square, DY: c.Const(10)}, tensor.Seed{Y: half})
		fmt.Println(read(c, tape.Grad(x)))
	})
	// Output: [60.5]
}

// An operation of one's own: the absolute value. What is computed for it is not
// recorded; its gradient is given.
func ExampleCustom() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tape := tensor.NewTape()
		c.Record(tape)
		x := c.New(backend.F32, backend.Dims(3))
		c.Write(x, []float32{-2, 0, 5})
		tape.Watch(x)
		var y, sign *tensor.Tensor
		c.NoGrad(func() {
			host, signs := read(c, x), make([]float32, 3)
			for i, v := range host {
				if v < 0 {
					host[i], signs[i] = -v, -1
				} else if v > 0 {
					signs[i] = 1
				}
			}
			y, sign = c.New(backend.F32, x.Shape()), c.New(backend.F32, x.Shape())
			c.Write(y, host)
			c.Write(sign, signs)
		})
		tensor.Custom(c, tensor.Operation{Name: "Abs", In: []*tensor.Tensor{x}, Out: []*tensor.Tensor{y},
			Backward: func(c *tensor.Context, dy []*tensor.Tensor) []*tensor.Tensor {
				return []*tensor.Tensor{tensor.Mul(c, dy[0], sign)}
			}})
		fmt.Println(read(c, y))
		tape.Backward(tensor.Seed{Y: y})
		fmt.Println(read(c, tape.Grad(x)))
	})
	// Output:
	// [2 0 5]
	// [-1 0 1]
}

// A checkpoint keeps nothing of what it computes but the result.
func ExampleCheckpoint() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tape := tensor.NewTape()
		c.Record(tape)
		x := c.Const(1)
		tape.Watch(x)
		y := tensor.Checkpoint(c, x, func(x *tensor.Tensor) *tensor.Tensor {
			return tensor.Scale(c, tensor.Mul(c, x, x), 3)
		})
		tape.Backward(tensor.Seed{Y: y})
		fmt.Println(read(c, tape.Grad(x)))
	})
	// Output: [6]
}

// Drop gives back what is cheap to compute again, once nothing else uses it.
func ExampleContext_Drop() {
	w := weight(cpu.Default(), []float32{1, 1}, 1, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tape := tensor.NewTape()
		c.Record(tape)
		x := c.New(backend.F32, backend.Dims(1, 2))
		c.Write(x, []float32{0, 2})
		tape.Watch(x)
		h := tensor.SwiGLU(c, x, x) // silu(x) x
		y := tensor.MatMul(c, h, w)
		c.Drop(h)
		tape.Backward(tensor.Seed{Y: y})
	})
	fmt.Printf("%.3f\n", gradOf(cpu.Default(), w))
	// Output: [0.000 3.523]
}

// The mean loss of two tokens, one of which has no target, and its gradient.
func ExampleCrossEntropy() {
	w := weight(cpu.Default(), []float32{1, 0, 0, 1, -1, -1}, 3, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tape := tensor.NewTape()
		c.Record(tape)
		x := c.New(backend.F32, backend.Dims(2, 2))
		c.Write(x, []float32{1, 0, 0, 1})
		loss, logp, _ := tensor.CrossEntropy(c, x, w, tensor.Targets{IDs: []int32{0, -1}, Scale: 1})
		fmt.Printf("%.3f %.3f\n", read(c, loss), read(c, logp)[:1])
		tape.Backward(tensor.Seed{Y: loss})
	})
	fmt.Printf("%.3f\n", gradOf(cpu.Default(), w))
	// Output:
	// [0.408] [-0.408]
	// [-0.335 0.000 0.245 0.000 0.090 0.000]
}

// The log-probability of a token in each row, and how uncertain the rows are.
func ExampleLogProbEntropy() {
	w := matrix(cpu.Default(), []float32{1, 0, 0, 1}, 2, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		x := c.New(backend.F32, backend.Dims(2, 2))
		c.Write(x, []float32{0, 0, 3, 0})
		logp, lse, entropy := tensor.LogProbEntropy(c, x, []int32{0, 0}, w)
		fmt.Printf("%.3f %.3f %.3f\n", read(c, logp), read(c, lse), read(c, entropy))
	})
	// Output: [-0.693 -0.049] [0.693 3.049] [0.693 0.191]
}

// The general operations, with what is repeated.
func ExampleMul() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		x := c.New(backend.F32, backend.Dims(2, 3))
		c.Write(x, []float32{1, 2, 3, 4, 5, 6})
		row := c.New(backend.F32, backend.Dims(3))
		c.Write(row, []float32{1, 10, 100})
		fmt.Println(read(c, tensor.Mul(c, x, row)))
		fmt.Println(read(c, tensor.Sum(c, x, 0)), read(c, tensor.Max(c, x, 1)))
		fmt.Println(read(c, tensor.Transpose(c, x, 0, 1)))
		fmt.Println(read(c, tensor.Concat(c, 1, tensor.Slice(c, x, 1, 2, 1), x)))
		fmt.Println(read(c, tensor.ScatterAdd(c, x, []int32{1, 1}, 2)))
		y := tensor.Reshape(c, x, backend.Dims(1, 3, 2))
		fmt.Println(tensor.BatchMatMul(c, tensor.Reshape(c, x, backend.Dims(1, 2, 3)), y).Shape())
	})
	// Output:
	// [1 20 300 4 50 600]
	// [5 7 9] [3 6]
	// [1 4 2 5 3 6]
	// [3 1 2 3 6 4 5 6]
	// [0 0 0 5 7 9]
	// [1 2 2]
}

// Functions of single numbers.
func ExampleExp() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		x := c.New(backend.F32, backend.Dims(2))
		c.Write(x, []float32{0, 1})
		for _, f := range []func(*tensor.Context, *tensor.Tensor) *tensor.Tensor{tensor.Exp, tensor.Sigmoid, tensor.Tanh, tensor.GELU, tensor.Softmax} {
			fmt.Printf("%.3f ", read(c, f(c, x)))
		}
		fmt.Printf("%.3f\n", read(c, tensor.Log(c, tensor.Exp(c, x))))
	})
	// Output: [1.000 2.718] [0.500 0.731] [0.000 0.762] [0.000 0.841] [0.269 0.731] [0.000 1.000]
}

// A machine has half of the inputs of a product. What the other half gives is added,
// here that of a machine that has the same numbers, and so is its gradient of an input
// that both have.
func ExampleGroupSum() {
	twice := func(x []float32) error {
		for i := range x {
			x[i] *= 2
		}
		return nil
	}
	w := weight(cpu.Default(), []float32{1, 2, 3, 4}, 2, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		tape := tensor.NewTape()
		c.Record(tape)
		x := c.New(backend.F32, backend.Dims(1, 2))
		c.Write(x, []float32{1, -1})
		tape.Watch(x)
		y := tensor.GroupSum(c, tensor.MatMul(c, tensor.GroupCopy(c, x, twice), w), twice)
		fmt.Println(read(c, y))
		tape.Backward(tensor.Seed{Y: y})
		fmt.Println(read(c, tape.Grad(x)))
	})
	// Output:
	// [-2 -2]
	// [8 12]
}
