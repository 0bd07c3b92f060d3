package llama

import (
	"runtime/debug"
	"testing"

	"github.com/herd-ml/herd/backend/cpu"
)

// TestResident: a model that is trained, one of its sessions and its first step have no more
// memory in use than was estimated, and a tenth.
func TestResident(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it takes 300 MB")
	}
	b, err := cpu.New(cpu.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := Config135M()
	c.Layers, c.Vocab, c.HiddenDim = 3, 4096, 8192
	before := resident(t)
	m, err := New(t.Context(), c, nil, Init{}, Options{Backend: b, Precision: PrecisionBF16, Context: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	s, err := m.NewSession(SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Score(t.Context(), make([]int32, 512), func(int, []float32) {}); err != nil {
		t.Fatal(err)
	}
	taken, est := resident(t)-before, m.Memory()
	t.Logf("%d bytes are in use, %d (%v) were estimated", taken, est.Total(), est)
	if taken > est.Total()*11/10 || taken < est.Total()*8/10 {
		t.Error("that is not within a tenth above and a fifth below")
	}
}

// resident is the memory of the process that is in use, in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	_, n := processMemory(t)
	return n
}
