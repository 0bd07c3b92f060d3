package llama_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
)

// countingBackend counts what was taken and not given back.
type countingBackend struct {
	backend.Backend
	held atomic.Int64
}

// once counts a thing that is freed once or more often.
func (b *countingBackend) once() func() {
	b.held.Add(1)
	var freed atomic.Bool
	return func() {
		if !freed.Swap(true) {
			b.held.Add(-1)
		}
	}
}

type countedBuffer struct {
	backend.Buffer
	free func()
}

type countedWeight struct {
	backend.Weight
	free func()
}

type countedExec struct {
	backend.Exec
	free func()
}

func (b countedBuffer) Free() { b.free(); b.Buffer.Free() }
func (w countedWeight) Free() { w.free(); w.Weight.Free() }
func (e countedExec) Close()  { e.free(); e.Exec.Close() }

// Write is of the numbers in a buffer of the backend itself.
func (e countedExec) Write(v backend.View, src []float32) {
	if buf, ok := v.Buf.(countedBuffer); ok {
		v.Buf = buf.Buffer
	}
	e.Exec.Write(v, src)
}

func (b *countingBackend) Alloc(n int64) (backend.Buffer, error) {
	buf, err := b.Backend.Alloc(n)
	if err != nil {
		return nil, err
	}
	return countedBuffer{buf, b.once()}, nil
}

func (b *countingBackend) Pack(ctx context.Context, src backend.WeightSource) (backend.Weight, error) {
	w, err := b.Backend.Pack(ctx, src)
	if err != nil {
		return nil, err
	}
	return countedWeight{w, b.once()}, nil
}

func (b *countingBackend) NewExec() (backend.Exec, error) {
	e, err := b.Backend.NewExec()
	if err != nil {
		return nil, err
	}
	return countedExec{e, b.once()}, nil
}

// TestNothingKept: opening that fails anywhere, or ends with its context, gives
// everything back, and at once; so does Close.
func TestNothingKept(t *testing.T) {
	path, _ := tiny(t, 0)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b := &countingBackend{Backend: cpu.Default()}
	var total int64
	load := func(ctx context.Context, o llama.Options, r *failing) error {
		t.Helper()
		o.Backend = b
		m, err := llama.OpenReader(ctx, r, int64(len(content)), "memory", o)
		if err == nil {
			if b.held.Load() == 0 {
				t.Fatal("nothing is counted")
			}
			m.Close()
		}
		if n := b.held.Load(); n != 0 {
			t.Fatalf("%d things are kept after %v", n, err)
		}
		return err
	}
	whole := &failing{ReaderAt: bytes.NewReader(content), after: 1 << 40}
	if err := load(context.Background(), llama.Options{Progress: func(p llama.Progress) { total = p.Total }}, whole); err != nil {
		t.Fatal(err)
	}
	calls := whole.calls.Load()
	for i := range int64(20) {
		// the last of them fails in the last read
		fails := &failing{ReaderAt: bytes.NewReader(content), after: (calls - 1) * i / 19, with: func([]byte) (int, error) { return 0, errDisk }}
		if err := load(context.Background(), llama.Options{}, fails); !errors.Is(err, errDisk) {
			t.Errorf("failing at %d of %d reads: %v", fails.after, calls, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		reader, at := &failing{ReaderAt: bytes.NewReader(content), after: 1 << 40}, int64(-1)
		err := load(ctx, llama.Options{Progress: func(p llama.Progress) {
			if p.Done >= p.Total*i/20 && at < 0 {
				cancel()
				at = reader.calls.Load()
			}
		}}, reader)
		// Reads that are under way end, one for each goroutine that packs, and each
		// may have begun the next one before it saw the cancel.
		if later := reader.calls.Load() - at; !errors.Is(err, context.Canceled) || later > int64(2*runtime.GOMAXPROCS(0)) {
			t.Errorf("cancelled after %d of %d bytes: %v, and %d more reads", total*i/20, total, err, later)
		}
	}
}
