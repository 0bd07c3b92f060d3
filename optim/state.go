package optim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/tensor"
)

// The keys that Save puts into the metadata of a file.
const (
	keyOptimizer = "optimizer" // "adamw"
	keyStep      = "step"
	keyConfig    = "config" // AdamWConfig as JSON
)

// Saved is what a file of Save says beside the moments.
type Saved struct {
	Step   int
	Config AdamWConfig // of the run that saved
	// Metadata is what the caller gave to Save.
	Metadata map[string]string
}

// StateError says why a file does not fit an AdamW. Nothing was changed.
type StateError struct {
	File string
	// Differs lists what does not fit: tensors that are missing, of another shape, or
	// of no trained parameter.
	Differs []string
}

func (e *StateError) Error() string {
	return "optim: " + e.File + " does not fit: " + listed(e.Differs)
}

// tensors lists the moments under the names that they have in a file.
func (o *AdamW) tensors() (names []string, views []backend.View) {
	for i := range o.params {
		p := &o.params[i]
		names = append(names, "exp_avg."+p.Named.Name, "exp_avg_sq."+p.Named.Name)
		views = append(views, p.m, p.v)
	}
	return names, views
}

// Save writes the moments and the number of steps, bit for bit, to a safetensors file:
// for each trained parameter exp_avg.<name> (the mean m) and exp_avg_sq.<name> (the mean
// v) in F32, the names that PyTorch gives them. The file holds what it held before until
// the new one is complete. metadata are strings of the caller; c is a context on the
// backend that holds the moments.
func (o *AdamW) Save(ctx context.Context, c *tensor.Context, path string, metadata map[string]string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken != nil {
		return o.broken
	}
	config, err := json.Marshal(o.config)
	if err != nil {
		return err // numbers that Validate lets through are JSON
	}
	all := map[string]string{keyOptimizer: "adamw", keyStep: strconv.Itoa(o.step), keyConfig: string(config)}
	for k, v := range metadata {
		if _, taken := all[k]; taken {
			return fmt.Errorf("optim: metadata %q: the key is taken", k)
		}
		all[k] = v
	}
	names, views := o.tensors()
	var list []safetensors.Source
	for i, v := range views {
		list = append(list, safetensors.Source{Name: names[i], Type: backend.F32, Shape: dims(v), Data: ctxerr.Reader(ctx, tensor.Reader(c.Backend(), v))})
	}
	return safetensors.WriteFile(path, list, all)
}

func dims(v backend.View) []int { return slices.Clone(v.Shape.Dim[:v.Shape.Rank]) }

// Load reads the moments and the number of steps from a file of Save. It compares all
// tensors with the trained parameters first; a *StateError lists what differs. It does
// not change the settings of NewAdamW: Saved has those of the file, for the caller to
// compare. If reading fails halfway, Step and Save return an error until a Load succeeds.
func (o *AdamW) Load(ctx context.Context, c *tensor.Context, path string) (Saved, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken == ErrClosed {
		return Saved{}, ErrClosed
	}
	if err := ctxerr.Of(ctx); err != nil {
		return Saved{}, err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return Saved{}, err
	}
	defer f.Close()
	s, differs := readSaved(f)
	names, views := o.tensors()
	for i, name := range names {
		switch t := f.Tensor(name); {
		case t == nil:
			differs = append(differs, "no tensor "+name)
		case t.Type != backend.F32 || !slices.Equal(t.Shape, dims(views[i])):
			differs = append(differs, fmt.Sprintf("%s is %s %v, want F32 %v", name, t.TypeName, t.Shape, dims(views[i])))
		}
	}
	known := make(map[string]bool, len(names))
	for _, name := range names {
		known[name] = true
	}
	for _, t := range f.Tensors() {
		if !known[t.Name] {
			differs = append(differs, t.Name+" is of no trained parameter")
		}
	}
	if len(differs) > 0 {
		return Saved{}, &StateError{path, differs}
	}
	o.broken = fmt.Errorf("optim: %s was not read to its end", path)
	for i, v := range views {
		if err := load(ctx, c, v, f.Tensor(names[i])); err != nil {
			return Saved{}, err
		}
	}
	o.broken, o.step = nil, s.Step
	return s, nil
}

// readSaved reads the metadata of a file and lists what is wrong with them.
func readSaved(f *safetensors.File) (s Saved, differs []string) {
	s.Metadata = maps.Clone(f.Metadata())
	get := func(key string) string {
		defer delete(s.Metadata, key)
		return s.Metadata[key]
	}
	if kind := get(keyOptimizer); kind != "adamw" {
		differs = append(differs, fmt.Sprintf("optimizer %.40q, want adamw", kind))
	}
	text := get(keyStep)
	step, err := strconv.Atoi(text)
	if err != nil || step < 0 {
		differs = append(differs, fmt.Sprintf("step %.40q: want a number from 0 on", text))
	}
	s.Step = step
	if err := jsontext.Unmarshal([]byte(get(keyConfig)), &s.Config); err != nil {
		differs = append(differs, fmt.Sprintf("config: %v", err))
	}
	return s, differs
}

// load copies a tensor of a file to a view.
func load(ctx context.Context, c *tensor.Context, v backend.View, t *safetensors.Tensor) error {
	total := v.Shape.Elems()
	raw := make([]byte, 4*min(blockElems, total))
	for at := 0; at < total; at += blockElems {
		if err := ctxerr.Of(ctx); err != nil {
			return err
		}
		raw := raw[:4*min(blockElems, total-at)]
		if _, err := t.ReadAt(raw, 4*int64(at)); err != nil && err != io.EOF {
			return err
		}
		if err := c.Backend().Upload(v.Buf, 4*int64(v.Off+at), raw); err != nil {
			return err
		}
	}
	return nil
}
