package llama

import (
	"sync/atomic"

	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// snapshots are the packed copies of matrices that may change, with which sessions
// multiply. They belong to the running step, but for bytes.
type snapshots struct {
	params  []*tensor.Param // that have one
	bytes   atomic.Int64    // counted against the memory limit
	made    bool
	version uint64 // of the weights that they are of
}

// snapshot makes packed copies of the matrices that training changes, within a step of a
// session, unless the copies are those of the present weights. So sampling from a model in
// training is as fast as from one that was saved and opened again, and has the bits of
// training. Models whose weights cannot change need no copies.
func (m *Model) snapshot() error {
	s, v := &m.snapshots, m.version.Load()
	if s.made && s.version == v {
		return nil
	}
	var params []*tensor.Param
	bytes := int64(0)
	for _, l := range nn.Linears(m.net) {
		list := []*tensor.Param{l.Linear.Weight}
		for _, a := range l.Linear.Adapters {
			list = append(list, a.A, a.B)
		}
		for _, p := range list {
			n, err := m.cx.SnapshotBytes(p)
			if err != nil {
				return err
			}
			if n > 0 {
				params, bytes = append(params, p), bytes+n
			}
		}
	}
	more := max(bytes-s.bytes.Load(), 0)
	if err := m.pages.reserve(more); err != nil {
		return err
	}
	s.bytes.Add(more)
	s.params = params
	for _, p := range params {
		if err := m.cx.Snapshot(p); err != nil {
			return err
		}
	}
	s.made, s.version = true, v
	return nil
}

// drop frees the copies, once no step runs.
func (s *snapshots) drop() {
	for _, p := range s.params {
		p.DropSnapshot()
	}
}
