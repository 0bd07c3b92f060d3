package tensor

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// A snapshot is a packed copy of a matrix that may change. A product packs such a matrix
// each time it multiplies with it; where many products follow a change, as in sampling,
// they multiply with the snapshot instead. The bits are the same.
type snapshot struct {
	weight  backend.Weight // nil where there is none
	version uint64         // of the matrix that was packed
}

// SnapshotBytes is the memory of the snapshot of a matrix: 0 where the matrix cannot change.
func (c *Context) SnapshotBytes(p *Param) (int64, error) {
	w := p.bound("Snapshot")
	if w.Packed() {
		return 0, nil
	}
	return c.Backend().WeightBytes(c.snapshotType(p), w.Rows(), w.Cols())
}

// snapshotType is what products of the context pack a matrix as.
func (c *Context) snapshotType(p *Param) backend.DType {
	if c.rounding(p) == backend.RoundBothBF16 {
		return backend.BF16
	}
	return p.weight.Type()
}

// Snapshot makes a packed copy of a matrix that may change, for products of the context's
// precision. Forward products use it until the matrix changes (Weight.Changed). It takes
// SnapshotBytes until DropSnapshot. Snapshot does nothing for a matrix that cannot change,
// or that has not changed since its last snapshot. It must be called within a step, so that
// no other step changes the numbers meanwhile.
func (c *Context) Snapshot(p *Param) error {
	w := p.bound("Snapshot")
	if w.Packed() || p.snapshot.fits(w, c.snapshotType(p)) {
		return nil
	}
	p.DropSnapshot()
	version, rounded := w.Version(), c.snapshotType(p) != w.Type()
	packed, err := c.Backend().Pack(c.ctx, backend.WeightSource{
		Name: w.Name(), Type: c.snapshotType(p), Rows: w.Rows(), Cols: w.Cols(),
		ReadRows: func(dst []byte, row, n int) error {
			if !rounded {
				w.Unpack(dst, row, n)
				return nil
			}
			x := make([]float32, n*w.Cols())
			w.Tile(x, row, n, 0, w.Cols())
			block.Encode(backend.BF16, dst, x)
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("tensor: a snapshot of %s: %w", w.Name(), err)
	}
	p.snapshot = snapshot{packed, version}
	return nil
}

// DropSnapshot frees the snapshot, if there is one.
func (p *Param) DropSnapshot() {
	if p.snapshot.weight != nil {
		p.snapshot.weight.Free()
	}
	p.snapshot = snapshot{}
}

// fits reports whether the snapshot is of a matrix as it is now, packed as a type.
func (s *snapshot) fits(w backend.Weight, t backend.DType) bool {
	return s.weight != nil && s.version == w.Version() && s.weight.Type() == t
}

// multiplied is what a forward product with a rounding multiplies with: the matrix, or its
// snapshot.
func (p *Param) multiplied(r backend.Rounding) backend.Weight {
	s := &p.snapshot
	if s.weight == nil || !s.fits(p.weight, s.weight.Type()) || (s.weight.Type() == backend.BF16) != (r == backend.RoundBothBF16) {
		return p.weight
	}
	return s.weight
}
