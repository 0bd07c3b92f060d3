package train_test

import (
	"context"
	"errors"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/train"
)

// counting is a backend that counts what operations of sessions multiply with: weights
// that lie packed, and those that a product has to pack first. Pack is counted too.
type counting struct {
	backend.Backend
	packed, float, packs int
	bytes                int64 // that were packed
}

type countingExec struct {
	backend.Exec
	b *counting
}

func (b *counting) NewExec() (backend.Exec, error) {
	e, err := b.Backend.NewExec()
	return &countingExec{e, b}, err
}

func (e *countingExec) Backend() backend.Backend { return e.b }

func (e *countingExec) Run(op backend.Op, a *backend.Args) {
	for _, w := range a.W[:a.Weights()] {
		switch {
		case op == backend.Embedding: // rows are looked up
		case w.Packed():
			e.b.packed++
		default:
			e.b.float++
		}
	}
	e.Exec.Run(op, a)
}

func (b *counting) Pack(ctx context.Context, src backend.WeightSource) (backend.Weight, error) {
	w, err := b.Backend.Pack(ctx, src)
	if err == nil {
		b.packs, b.bytes = b.packs+1, b.bytes+w.Bytes()
	}
	return w, err
}

// TestSnapshots: sessions of a model that is trained multiply with packed copies alone,
// made once for each change, of all its weights or of its adapter, and counted as memory.
// Where there is no room for them a session says so.
func TestSnapshots(t *testing.T) {
	inner, err := cpu.New(cpu.Options{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	ids := []int32{1, 2, 3, 4, 5}
	for name, open := range agreeing(t) {
		for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
			t.Run(name+" "+precision.String(), func(t *testing.T) {
				b := &counting{Backend: inner}
				m := open(llama.Options{Precision: precision, Backend: b, Context: 64})
				defer m.Close()
				tr, err := train.NewTrainer(m, train.TrainerOptions{Precision: precision})
				if err != nil {
					t.Fatal(err)
				}
				defer tr.Close()
				s, err := m.NewSession(llama.SessionOptions{Context: 64})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				matrices, size := 0, int64(0)
				for _, p := range tr.Params() {
					if p.Param.Matrix() && p.Name != "model.embed_tokens.weight" { // no product has it
						matrices, size = matrices+1, size+2*int64(p.Param.Shape.Elems())
					}
				}
				before := m.Memory()
				if name == "masters" && before.Snapshots < size {
					t.Errorf("%v before a session, at least %d bytes of copies will be made", before, size)
				}
				for step := range 2 {
					*b = counting{Backend: inner}
					n := 0
					for token, err := range s.GenerateIDs(t.Context(), ids, llama.GenerateOptions{MaxTokens: 4, IgnoreEOS: true}) {
						if err != nil {
							t.Fatal(err)
						}
						n += len(token.Text) + 1
					}
					if n == 0 || b.float > 0 || b.packed == 0 || b.packs != matrices {
						t.Errorf("step %d: products with %d weights that lie packed and %d others; %d were packed, want %d", step, b.packed, b.float, b.packs, matrices)
					}
					if got := m.Memory(); got.Snapshots != b.bytes || b.bytes < size || got.Weights != before.Weights || name == "masters" && got != before {
						t.Errorf("step %d: %v, before a session %v; the copies are %d bytes, of at least %d", step, got, before, b.bytes, size)
					}
					batch := train.Batch{IDs: ids, Docs: []int{5}, Targets: []int32{2, 3, 4, 5, train.NoTarget}}
					if _, err := tr.Step(t.Context(), []train.Batch{batch}, 1e-3); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
	o := llama.Options{Backend: inner, Context: 64}
	m := agreeing(t)["lora on F32"](o)
	defer m.Close()
	o.MemoryLimit = m.Memory().Total()
	full := agreeing(t)["lora on F32"](o)
	defer full.Close()
	s, err := full.NewSession(llama.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.Logits(t.Context(), ids); !errors.Is(err, llama.ErrMemory) {
			t.Errorf("without room for copies: %v", err)
		}
	}
	if full.Memory() != m.Memory() {
		t.Errorf("copies that were not made count: %v, want %v", full.Memory(), m.Memory())
	}
}
