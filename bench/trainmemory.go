package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/herd-ml/herd/backend/cpu"
)

// memorySteps is how many steps a process makes before its memory is asked for.
const memorySteps = 3

// trainMemoryWords are what the mode measures without arguments.
var trainMemoryWords = []string{"15m-bf16", "15m-f32", "135m-bf16", "135m-f32"}

// trainMemory is the mode: each side trains in a fresh process. The ratio is the
// peer's to herd's, as that of seconds: above 1 herd is better.
func (h *harness) trainMemory(ctx context.Context) error {
	return h.eachTrainJob(ctx, trainMemoryWords, (*harness).trainMemoryOf)
}

func (h *harness) trainMemoryOf(ctx context.Context, j trainJob, r *trainRequest) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	request := filepath.Join(filepath.Dir(r.Folder), "request.json")
	if err := os.WriteFile(request, text, 0o600); err != nil {
		return err
	}
	var ours trainPeak
	if err := h.itself(ctx, "trainmemory-once", request, &ours); err != nil {
		return err
	}
	p, err := h.peer(ctx, j.peer, "torchtrain.py", fmt.Sprint(h.run.Workers), j.peer)
	if err != nil {
		return err
	}
	defer p.close()
	o := outcome{rates: [2][]float64{{float64(ours.Peak) / 1e6}}}
	if p != nil {
		losses, err := p.open(r, memorySteps)
		if err != nil {
			return err
		}
		if err := r.agree(ours.Losses, losses); err != nil {
			return err
		}
		a, err := p.ask(struct {
			What string `json:"what"`
		}{"peak"})
		if err != nil {
			return err
		}
		o.rates[1] = []float64{float64(a.Peak) / 1e6}
		o.ratios = []float64{float64(a.Peak) / float64(ours.Peak)}
	}
	res := h.trainResult("trainmemory", j, r)
	res.Peer, res.Unit = p.label(), "MB"
	res.fill(o, "")
	if err := h.add(res); err != nil {
		return err
	}
	if p != nil {
		fmt.Fprintf(h.w, "%s: peak %.0f MB, %s %.0f MB: %.2f times its memory\n", res.What, res.Herd, res.Peer, res.Other, res.Herd/res.Other)
	}
	return nil
}

// trainPeak is what trainmemory-once answers.
type trainPeak struct {
	Peak   int64     `json:"peak"` // bytes
	Losses []float64 `json:"losses"`
}

func trainMemoryOnce(ctx context.Context, b *cpu.Backend, path string) (any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r trainRequest
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t, err := openTraining(ctx, b, &r)
	if err != nil {
		return nil, err
	}
	defer t.close()
	losses, err := t.steps(ctx, memorySteps)
	if err != nil {
		return nil, err
	}
	s, err := status()
	if err != nil {
		return nil, err
	}
	peak, err := statusBytes(s, "VmHWM")
	return trainPeak{peak, losses}, err
}
