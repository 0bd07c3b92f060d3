package llama

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/quantize"
	"github.com/herd-ml/herd/tensor"
)

// ImatrixOptions are the settings of Imatrix. The zero value works.
type ImatrixOptions struct {
	// Context is the length of a chunk; 0 is 512.
	Context int
	// Chunks bounds the chunks; 0 is all.
	Chunks int
	// Output adds the output layer.
	Output bool
	// Dataset is the name of the text, for the file.
	Dataset string
	// Progress, where set, is told after each chunk.
	Progress func(done, total int)
}

// Imatrix measures which columns of each matrix matter: it runs a text, given as ids, in
// chunks as Perplexity does, and sums up the squares of what each linear layer multiplies,
// of all rows. It has llama.cpp's names of the matrices, but not of the embedding, and of
// the output layer where that is wanted.
func (m *Model) Imatrix(ctx context.Context, ids []int32, o ImatrixOptions) (*quantize.Imatrix, error) {
	c, err := m.chunks(ids, PerplexityOptions{Context: o.Context, Chunks: o.Chunks})
	if err != nil {
		return nil, err
	}
	t, err := m.Training()
	if err != nil {
		return nil, err
	}
	ctx, done, err := t.Use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	cx, err := t.NewContext(tensor.Options{Precision: m.opts.Precision})
	if err != nil {
		return nil, err
	}
	defer cx.Close()
	w := newInputs(cx, t)
	cx.Watch(w.watch)
	layout := backend.Documents(c.size)
	for i := range c.n {
		err := cx.Step(ctx, layout, t.KV(), func() error {
			h, err := t.Forward(cx, c.at(i), ForwardOptions{})
			if err == nil && o.Output {
				w.watch(h, [backend.MaxWeights]*tensor.Param{t.Output()})
			}
			return err
		})
		if err != nil {
			return nil, cause(ctx, err)
		}
		if o.Progress != nil {
			o.Progress(i+1, c.n)
		}
	}
	return w.result(c, o.Dataset)
}

// inputs sums up squares of what layers multiply.
type inputs struct {
	cx    *tensor.Context
	names map[*tensor.Param]string
	sums  map[*tensor.Param][]float64
	rows  map[*tensor.Param]int
	x     []float32
	part  []float64 // of one product
}

func newInputs(cx *tensor.Context, t *Training) *inputs {
	w := &inputs{cx: cx, names: map[*tensor.Param]string{}, sums: map[*tensor.Param][]float64{}, rows: map[*tensor.Param]int{}}
	for _, p := range t.Params() {
		if name, ok := checkpoint.GGUFName(p.Name); ok {
			w.names[p.Param] = name
		}
	}
	return w
}

// watch is a tensor.Watcher.
func (w *inputs) watch(x *tensor.Tensor, params [backend.MaxWeights]*tensor.Param) {
	rows, cols := x.Rows(), x.Cols()
	w.x, w.part = slices.Grow(w.x[:0], rows*cols)[:rows*cols], slices.Grow(w.part[:0], cols)[:cols]
	w.cx.Read(w.x, x)
	clear(w.part)
	for r := range rows {
		for i, v := range w.x[r*cols:][:cols] {
			w.part[i] += float64(v) * float64(v)
		}
	}
	for _, p := range params {
		if w.names[p] == "" { // absent, or an adapter's
			continue
		}
		if w.sums[p] == nil {
			w.sums[p] = make([]float64, cols)
		}
		for i, s := range w.part {
			w.sums[p][i] += s
		}
		w.rows[p] += rows
	}
}

// result refuses sums that are not finite: those of a model that is damaged.
func (w *inputs) result(c *chunks, dataset string) (*quantize.Imatrix, error) {
	m := &quantize.Imatrix{Entries: map[string]quantize.Entry{}, Chunks: c.n, ChunkSize: c.size}
	if dataset != "" {
		m.Datasets = []string{dataset}
	}
	for p, sums := range w.sums {
		e := quantize.Entry{Sums: make([]float32, len(sums)), Count: float64(w.rows[p])}
		for i, s := range sums {
			if e.Sums[i] = float32(s); math.IsNaN(s) || math.IsInf(float64(e.Sums[i]), 0) {
				return nil, fmt.Errorf("llama: what %s multiplies has numbers that are not finite, or too large: column %d", w.names[p], i)
			}
		}
		m.Entries[w.names[p]] = e
	}
	return m, nil
}
