package tensor_test

import (
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// TestWindowsKeepNumbers: what a window shares with another tensor is not written over
// while backward needs it.
func TestWindowsKeepNumbers(t *testing.T) {
	w := newWorld(t)
	w.input(4, 3)
	w.input(4, 3)
	m := w.param(2, 3)
	w.differentiate("AddTo after a window", func(c *tensor.Context, in []*tensor.Tensor) []*tensor.Tensor {
		x := tensor.Scale(c, in[0], 2)
		y := tensor.MatMul(c, tensor.SliceRows(c, x, 1, 2), m)
		return one(y, tensor.AddTo(c, x, in[1]))
	})
}

// TestCheckpointOfWindows: parameters whose products are only written to a window of the
// result have gradients.
func TestCheckpointOfWindows(t *testing.T) {
	w := newWorld(t)
	w.input(4, 3)
	m := w.param(3, 3)
	w.inputs, w.shapes = nil, nil
	x := make([]float32, 12)
	for i := range x {
		x[i] = float32(i%5) - 2
	}
	w.differentiate("written to a window", func(c *tensor.Context, _ []*tensor.Tensor) []*tensor.Tensor {
		return one(tensor.Checkpoint(c, write(c, x, 4, 3), func(x *tensor.Tensor) *tensor.Tensor {
			h := tensor.Add(c, x, x)
			if c.Recording() {
				return tensor.MatMulAdd(c, h, tensor.Tanh(c, h), m)
			}
			for from := 0; from < 4; from += 2 {
				part := tensor.SliceRows(c, h, from, 2)
				tensor.MatMulAdd(c, part, tensor.Tanh(c, part), m)
			}
			return h
		}))
	})
}

// TestWatchOfResults: only what nothing on the tape has computed is watched.
func TestWatchOfResults(t *testing.T) {
	w := newWorld(t)
	w.input(2, 2)
	w.run(func(in []*tensor.Tensor) {
		tape := tensor.NewTape()
		w.c.Record(tape)
		tape.Watch(in[0])
		y := tensor.Exp(w.c, in[0])
		defer func() {
			if _, ok := recover().(*backend.ShapeError); !ok {
				t.Error("a result is watched")
			}
		}()
		tape.Watch(y)
	})
}
