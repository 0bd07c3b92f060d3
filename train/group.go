package train

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// errOther is the error of a step that this machine could have done.
var errOther = errors.New("train: another machine of the group has failed, or its numbers are not finite")

// sum replaces numbers by their sums over the group. Where this machine has failed, err
// says how; the others are told by a first number that is NaN, and get an error too.
func (t *Trainer) sum(ctx context.Context, err error, x ...*float64) error {
	if t.o.Group == nil {
		return err
	}
	values := make([]float64, len(x))
	for i, p := range x {
		values[i] = *p
	}
	if err != nil {
		values[0] = math.NaN()
	}
	group := t.o.Group.Reduce(ctx, values)
	switch {
	case err != nil:
		return err
	case group != nil:
		return fmt.Errorf("train: a sum over the group: %w", group)
	}
	for i, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%w: %w", errOther, ErrNotFinite)
		}
		*x[i] = v
	}
	return nil
}

// sumElems is how many numbers of gradients are added up over a group at once.
const sumElems = 1 << 18

// sumGradients replaces the gradients by their sums over the group, rounded once.
func (t *Trainer) sumGradients(ctx context.Context) error {
	if t.o.Group == nil {
		return nil
	}
	n := int(t.grads.Size() / int64(backend.F32.BlockBytes()))
	x, y := make([]float32, min(n, sumElems)), make([]float64, min(n, sumElems))
	for at := 0; at < n; at += sumElems {
		x, y := x[:min(sumElems, n-at)], y[:min(sumElems, n-at)]
		part := backend.Contiguous(t.grads, backend.F32, at, backend.Dims(len(x)))
		if err := tensor.Download(t.m.Backend(), x, part); err != nil {
			return err
		}
		for i, v := range x {
			y[i] = float64(v)
		}
		if err := t.o.Group.Reduce(ctx, y); err != nil {
			return fmt.Errorf("train: the sum of the gradients over the group: %w", err)
		}
		for i, v := range y {
			x[i] = float32(v)
		}
		if err := tensor.Upload(t.m.Backend(), part, x); err != nil {
			return err
		}
	}
	return nil
}
