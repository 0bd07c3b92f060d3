package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
)

// A load is measured until loadTokens tokens after a prompt of loadPrompt.
const (
	loadTokens = 32
	loadPrompt = 16
	loadRoom   = 512 // positions of both sides
)

// loading asks llama.cpp to open a file, and for "load" to go on to n tokens after
// ids, in the time that it tells.
type loading struct {
	What    string  `json:"what"`
	Path    string  `json:"path"`
	Threads int     `json:"threads"`
	Room    int     `json:"room"`
	IDs     []int32 `json:"ids"`
	N       int     `json:"n"`
}

// load is the mode: each measurement is a process of its own, whose time counts
// from the call that opens the file. The system has the file in memory.
func (h *harness) load(ctx context.Context) error {
	return h.each(func(path string) error { return h.loadOf(ctx, path) })
}

func (h *harness) loadOf(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	f.Close()
	if err != nil {
		return err
	}
	info, err := llama.ReadInfo(ctx, path, llama.Options{})
	if err != nil {
		return err
	}
	ask := loading{"load", path, h.run.Workers, loadRoom, loadIDs(info.Config.Vocab), loadTokens}
	c := comparison{beside: h.beside(nil), pairs: h.pairs}
	c.ours = func(ctx context.Context, _ int) (float64, error) {
		var l loaded
		err := h.itself(ctx, "load-once", path, &l)
		return 1 / l.Seconds, err
	}
	first, err := h.peer(ctx, "llama.cpp", "llamacpp.py") // whether it is there, and its name
	if err != nil {
		return err
	}
	first.close()
	if first != nil {
		c.peer = func(ctx context.Context, _ int) (float64, error) {
			p, err := startPeer(ctx, h.python, "llamacpp.py")
			if err != nil {
				return 0, err
			}
			defer p.close()
			return p.side(ask)(ctx, 0)
		}
	}
	o, err := c.compare(ctx)
	if err != nil {
		return err
	}
	r := result{Kind: "load", What: fmt.Sprintf("to token %d", loadTokens), On: fileName(path), Peer: first.label(), Unit: "s"}
	r.fill(o, "")
	r.Herd = 1 / r.Herd
	if r.Ratio != nil {
		r.Other = 1 / r.Other
	}
	return h.add(r)
}

func loadIDs(vocab int) []int32 { return randomIDs(loadPrompt, vocab) }

// loaded is what load-once answers.
type loaded struct {
	Seconds float64 `json:"seconds"`
}

func loadOnce(ctx context.Context, b *cpu.Backend, path string) (any, error) {
	start := time.Now()
	m, err := llama.Open(ctx, path, llama.Options{Backend: b, Context: loadRoom})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := generate(ctx, s, loadIDs(m.Config().Vocab), loadTokens, nil); err != nil {
		return nil, err
	}
	return loaded{time.Since(start).Seconds()}, nil
}

// Memory is measured after memoryTokens tokens are decoded that end at position
// memoryRoom. Above weights, keys and values, memorySpare is fine.
const (
	memoryRoom   = 2048
	memoryTokens = 32
	memorySpare  = 64e6
	ofBudget     = "weights, keys and values, and 64 MB"
)

// memory is the mode.
func (h *harness) memory(ctx context.Context) error {
	models, err := h.models()
	if err != nil {
		return err
	}
	for _, path := range models {
		var r resident
		if err := h.itself(ctx, "memory-once", path, &r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		limit := float64(r.Weights) + float64(r.Session) + memorySpare
		used := newSpread([]float64{float64(r.Peak) / limit})
		err := h.add(result{
			Kind: "memory", What: fmt.Sprintf("at %d, peak", memoryRoom), On: fileName(path), Unit: "MB",
			Herd: float64(r.Peak) / 1e6, Pairs: 1, Share: &share{used, limit, ofBudget},
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(h.w, "%s: peak %.1f MB, of that no file's %.1f MB at the end; weights %.1f MB, keys and values %.1f MB\n",
			fileName(path), float64(r.Peak)/1e6, float64(r.Anonymous)/1e6, float64(r.Weights)/1e6, float64(r.Session)/1e6)
	}
	return nil
}

// resident is what memory-once answers, in bytes.
type resident struct {
	Peak      int64 `json:"peak"`      // the most that was resident at a time
	Anonymous int64 `json:"anonymous"` // resident now, less what belongs to files
	Weights   int64 `json:"weights"`
	Session   int64 `json:"session"`
}

func memoryOnce(ctx context.Context, b *cpu.Backend, path string) (any, error) {
	m, err := llama.Open(ctx, path, llama.Options{Backend: b, Context: memoryRoom})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		return nil, err
	}
	h := &session{m: m, s: s, ids: randomIDs(memoryRoom, m.Config().Vocab)}
	defer s.Close()
	if _, err := s.Logits(ctx, h.ids[:memoryRoom-memoryTokens]); err != nil { // takes the memory of a prefill
		return nil, err
	}
	if _, err := h.measure(ctx, work{"decode", memoryTokens, memoryRoom - memoryTokens}); err != nil {
		return nil, err
	}
	text, err := status()
	if err != nil {
		return nil, err
	}
	r := resident{Weights: m.Memory().Weights, Session: m.Memory().Session}
	if r.Peak, err = statusBytes(text, "VmHWM"); err != nil {
		return nil, err
	}
	r.Anonymous, err = statusBytes(text, "RssAnon")
	return r, err
}

// status is what the system says about this process.
func status() (string, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", fmt.Errorf("only Linux says how much is resident: %w", err)
	}
	return string(text), nil
}

// statusBytes reads a field of /proc/PID/status, which has kB.
func statusBytes(text, field string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("the system does not tell %s", field)
}
