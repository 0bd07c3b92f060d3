package tensor_test

import (
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// watched is a backend that counts the weights its operations multiply with.
type watched struct {
	backend.Backend
	packed, float int
}

type watchedExec struct {
	backend.Exec
	b *watched
}

func (b *watched) NewExec() (backend.Exec, error) {
	e, err := b.Backend.NewExec()
	return &watchedExec{e, b}, err
}

func (e *watchedExec) Backend() backend.Backend { return e.b }

func (e *watchedExec) Run(op backend.Op, a *backend.Args) {
	for _, w := range a.W[:a.Weights()] {
		if w.Packed() {
			e.b.packed++
		} else {
			e.b.float++
		}
	}
	e.Exec.Run(op, a)
}

// changing is a random matrix that may change.
func changing(t *testing.T, b backend.Backend, n, k int) *tensor.Param {
	t.Helper()
	p := tensor.NewParam(n, k)
	buf, err := b.Alloc(4 * int64(n*k))
	check(t, err)
	v := backend.Contiguous(buf, backend.F32, 0, p.Shape)
	check(t, tensor.Upload(b, v, random(n*k)))
	w, err := b.Float("w", v)
	check(t, err)
	p.BindMatrix(w, v)
	return p
}

// TestSnapshot: products with snapshots have the bits of those with the matrices, in either
// precision; a matrix that has changed is multiplied as it is now, before its snapshot is
// made again and afterwards; and a context of the other precision does not take it.
func TestSnapshot(t *testing.T) {
	each(t, func(t *testing.T, inner backend.Backend) {
		const rows, n, k = 3, 37, 70
		for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
			b := &watched{Backend: inner}
			c := newContext(t, b, tensor.Options{Precision: precision})
			other := newContext(t, b, tensor.Options{Precision: backend.PrecisionF32 + backend.PrecisionBF16 - precision})
			params := [3]*tensor.Param{changing(t, b, n, k), changing(t, b, n, k), changing(t, b, n, k)}
			x, y := random(rows*k), random(rows*n)
			// products are the bits of every product that sampling has, and how many
			// weights of each kind they took.
			products := func(c *tensor.Context) (bits []uint32, packed, float int) {
				b.packed, b.float = 0, 0
				step(t, c, nil, backend.KV{}, func() {
					keep := func(list ...*tensor.Tensor) {
						for _, z := range list {
							values := make([]float32, z.Shape().Elems())
							c.Read(values, z)
							for _, v := range values {
								bits = append(bits, math.Float32bits(v))
							}
						}
					}
					in := write(c, x, rows, k)
					all := tensor.MatMuls(c, in, params)
					keep(all[:]...)
					keep(tensor.MatMulAdd(c, write(c, y, rows, n), in, params[1]))
					keep(tensor.MatMulSwiGLU(c, in, params[0], params[2]))
					logp, lse := tensor.LogProb(c, in, []int32{1, 36, 0}, params[2])
					keep(logp, lse)
					loss, _, _ := tensor.CrossEntropy(c, in, params[1], tensor.Targets{IDs: []int32{4, -1, 0}, Scale: 1})
					keep(loss)
				})
				return bits, b.packed, b.float
			}
			snapshots := func() {
				step(t, c, nil, backend.KV{}, func() {
					for _, p := range params {
						check(t, c.Snapshot(p))
					}
				})
			}
			const weights = 3 + 1 + 2 + 1 + 1
			compare := func(c *tensor.Context, what string, want []uint32, wantPacked int) {
				t.Helper()
				got, packed, float := products(c)
				if packed != wantPacked || float != weights-wantPacked {
					t.Errorf("%v %s: %d packed weights and %d others, want %d of %d packed", precision, what, packed, float, wantPacked, weights)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%v %s: the bits differ", precision, what)
				}
			}
			want, _, _ := products(c)
			wantOther, _, _ := products(other)
			compare(c, "without", want, 0)
			snapshots()
			compare(c, "with", want, weights)
			compare(other, "in the other precision", wantOther, 0)
			check(t, tensor.Upload(b, params[1].Numbers(), random(n*k)))
			params[1].Weight().Changed()
			changed, packed, _ := products(c)
			if slices.Equal(changed, want) || packed != weights-3 {
				t.Errorf("%v: after a change the products are those of before, or %d weights are packed", precision, packed)
			}
			snapshots()
			compare(c, "after a change", changed, weights)
			bytes, err := c.SnapshotBytes(params[0])
			size := map[backend.Precision]int64{backend.PrecisionF32: 4, backend.PrecisionBF16: 2}[precision]
			if check(t, err); bytes < size*n*k || bytes > size*(n+16)*(k+1) {
				t.Errorf("%v: a snapshot takes %d bytes", precision, bytes)
			}
			for _, p := range params {
				p.DropSnapshot()
			}
			compare(c, "dropped", changed, 0)
		}
	})
}
