package llama_test

import (
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
)

// faultyBackend panics in attention when told to.
type faultyBackend struct {
	backend.Backend
	fail atomic.Bool
}

type faultyExec struct {
	backend.Exec
	b *faultyBackend
}

func (b *faultyBackend) NewExec() (backend.Exec, error) {
	e, err := b.Backend.NewExec()
	return &faultyExec{e, b}, err
}

func (e *faultyExec) Run(op backend.Op, a *backend.Args) {
	if op == backend.Attention && e.b.fail.Load() {
		panic("made to fail")
	}
	e.Exec.Run(op, a)
}
