package llama

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
)

// warnings is a log that counts its warnings by their text.
type warnings struct {
	slog.Handler
	mu   sync.Mutex
	seen map[string]int
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen[r.Message]++
	}
	return nil
}

func (w *warnings) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[text]
}

// collected runs the collector until a condition holds.
func collected(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(end) {
			t.Fatal("not collected: ", what)
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}

// TestDropped: sessions and models that nobody closes give back their pages and their
// memory when the collector finds them, and the log is told.
func TestDropped(t *testing.T) {
	log := &warnings{seen: map[string]int{}}
	o := Options{Logger: slog.New(log), Context: 256}
	m := randomModel(t, backend.Q8_0, o)
	const sessions = 2000
	for i := range sessions {
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if i%100 > 0 {
			continue
		}
		if _, err := s.Logits(t.Context(), randomTokens(uint64(i), 100)); err != nil {
			t.Fatal(err)
		}
	}
	collected(t, "sessions", func() bool { return log.count("llama: a session was dropped without Close") == sessions })
	m.pages.mu.Lock()
	if n, idle := len(m.pages.all), m.pages.count; n > m.pages.most || n != idle {
		t.Errorf("%d pages are left, %d of them idle, want at most %d, all idle", n, idle, m.pages.most)
	}
	m.pages.mu.Unlock()

	b, err := cpu.New(cpu.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const models = 8
	o.Backend = b
	before, weights := mapped(t), int64(0)
	var held []*Session
	for range models {
		c := Config135M()
		c.Layers, c.Vocab, c.HiddenDim = 2, 320, 8192
		m, err := NewRandom(t.Context(), c, backend.Q8_0, o)
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Logits(t.Context(), []int32{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		weights += m.Memory().Weights
		held = append(held, s)
	}
	if taken := mapped(t) - before; taken < weights/2 {
		t.Fatalf("models of %d bytes take %d", weights, taken)
	}
	runtime.KeepAlive(held) // till here: the collector may have come by before
	collected(t, "models", func() bool { return log.count("llama: a model was dropped without Close") == models })
	collected(t, "their weights and buffers", func() bool { return mapped(t)-before < weights/4 })
}

// mapped is the address space of the process, in bytes.
func mapped(t *testing.T) int64 {
	t.Helper()
	all, _ := processMemory(t)
	return all
}

// processMemory is the memory of the process that is mapped, and that is in use, in bytes.
func processMemory(t *testing.T) (mapped, resident int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no count of memory: ", err)
	}
	if _, err := fmt.Sscan(string(text), &mapped, &resident); err != nil {
		t.Fatal(err)
	}
	page := int64(os.Getpagesize())
	return mapped * page, resident * page
}
