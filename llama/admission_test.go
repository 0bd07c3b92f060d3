package llama

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
)

// limitedModel has room for so many pages.
func limitedModel(t *testing.T, pages int) *Model {
	t.Helper()
	o := Options{Context: 128, MemoryLimit: 1 << 40} // two pages a session
	m := randomModel(t, backend.Q8_0, o)
	est := m.estimate
	o.MemoryLimit = est.Weights + est.Scratch + int64(pages)*est.Session/2
	return randomModel(t, backend.Q8_0, o)
}

// within fails the test where a model has more pages than its limit, at any step.
func within(t *testing.T, m *Model) {
	forward := m.sched.forward
	m.sched.forward = func() error {
		p := m.pages
		p.mu.Lock()
		if n, most := len(p.all), p.capacity(); n > most || p.room() < 0 {
			t.Errorf("%d pages, %d of them idle and %d promised, the limit is %d", n, p.count, p.promised, most)
		}
		p.mu.Unlock()
		return forward()
	}
}

// TestAdmission: calls that together need several times the memory that there is wait for
// each other and all end, with the tokens that they have alone; sessions keep caches beside
// them, forks share pages, and there are never more pages than the limit has room for.
func TestAdmission(t *testing.T) {
	m, alone := limitedModel(t, 5), randomModel(t, backend.Q8_0, Options{})
	within(t, m)
	prompt := func(i int) []int32 { return randomTokens(uint64(i%5), 20+17*(i%5)) }
	var want [5][]int32
	for i := range want {
		want[i], _ = generated(t.Context(), newSession(t, alone, SessionOptions{}), prompt(i), GenerateOptions{MaxTokens: 20})
	}
	var calls sync.WaitGroup
	for i := range 24 {
		s := newSession(t, m, SessionOptions{Priority: i % 2})
		calls.Go(func() {
			for range 3 {
				got, err := generated(t.Context(), s, prompt(i), GenerateOptions{MaxTokens: 20})
				if err != nil || !slices.Equal(got, want[i%5]) {
					t.Errorf("call %d: %v, or other tokens than alone", i, err)
				}
				if f, err := s.Fork(); err != nil {
					t.Error(err)
				} else if i%3 == 0 {
					f.Close()
				} // else it stays, as a cache
			}
			if i%4 == 0 {
				s.Close()
			}
		})
	}
	calls.Wait()
	n := m.Stats()
	if n.Waiting != 0 || n.Refused != 0 || n.Admitted != 72 || n.PagesUsed > n.PagesLimit || n.PagesLimit != 5 {
		t.Errorf("afterwards %+v", n)
	}
	if m.pages.promised != 0 {
		t.Errorf("%d pages are promised to nobody", m.pages.promised)
	}
}

// TestNeverAdmitted: a call that may need more pages than the limit has room for is refused
// at once, and one that declares less is not; what runs is not disturbed.
func TestNeverAdmitted(t *testing.T) {
	m := limitedModel(t, 3)
	s := newSession(t, m, SessionOptions{Context: 512})
	for _, err := range []error{
		func() error { _, err := generated(t.Context(), s, randomTokens(1, 10), GenerateOptions{}); return err }(),
		func() error {
			_, err := generated(t.Context(), s, randomTokens(1, 10), GenerateOptions{MaxTokens: 300})
			return err
		}(),
		func() error { _, err := s.Logits(t.Context(), randomTokens(1, 300)); return err }(),
		func() error { _, err := s.Logprobs(t.Context(), randomTokens(1, 300), 1); return err }(),
	} {
		if !errors.Is(err, ErrMemory) {
			t.Errorf("too much is asked for: %v", err)
		}
	}
	if _, err := generated(t.Context(), s, randomTokens(1, 10), GenerateOptions{MaxTokens: 100}); err != nil {
		t.Error(err)
	}
	if n := m.Stats(); n.Refused != 4 || n.Admitted != 1 {
		t.Errorf("%+v", n)
	}
}

// TestAdmittedInOrder: of calls that wait for pages the higher priority is admitted first,
// then who came first; one that is cancelled leaves the line at once.
func TestAdmittedInOrder(t *testing.T) {
	m := limitedModel(t, 2)
	first := newSession(t, m, SessionOptions{})
	number := map[*Session]int{}
	var order []int // of their steps: there is no room for two at once
	forward := m.sched.forward
	m.sched.forward = func() error {
		if i, ok := number[m.batch.requests[0].session]; ok {
			order = append(order, i)
		}
		return forward()
	}
	var calls sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := false
	for _, err := range first.GenerateIDs(t.Context(), randomTokens(1, 100), GenerateOptions{MaxTokens: 2, IgnoreEOS: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if begun { // the others wait, as both pages are in use
			continue
		}
		begun = true
		for i, priority := range []int{0, 1, 0, 2, 1} {
			s, call := newSession(t, m, SessionOptions{Priority: priority}), t.Context()
			if number[s] = i; i == 3 {
				call = ctx
			}
			calls.Go(func() {
				_, err := s.Logits(call, randomTokens(uint64(10+i), 100))
				if i == 3 && !errors.Is(err, context.Canceled) || i != 3 && err != nil {
					t.Errorf("call %d: %v", i, err)
				}
			})
			for m.Stats().Waiting <= i {
				runtime.Gosched()
			}
		}
		cancel()
		for end := time.Now().Add(10 * time.Second); m.Stats().Waiting > 4; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatal("a cancelled call still waits")
			}
		}
	}
	calls.Wait()
	if want := []int{1, 4, 0, 2}; !slices.Equal(order, want) {
		t.Errorf("admitted %v, want %v", order, want)
	}
}

// TestCachesGiveWay: what sessions hold that no call runs on gives way to a call that needs
// the memory; they then hold nothing, and compute it again.
func TestCachesGiveWay(t *testing.T) {
	m := limitedModel(t, 2)
	within(t, m)
	a, b := newSession(t, m, SessionOptions{}), newSession(t, m, SessionOptions{})
	text := randomTokens(1, 100)
	want, err := a.Logits(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Logits(t.Context(), randomTokens(2, 100)); err != nil {
		t.Fatal(err)
	}
	if a.Len() != 0 || len(a.IDs()) != 0 || b.Len() != 100 {
		t.Errorf("the sessions hold %d and %d positions, want 0 and 100", a.Len(), b.Len())
	}
	got, err := a.Logits(t.Context(), text)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, or other logits than before", err)
	}
}
