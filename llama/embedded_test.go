package llama_test

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/tensor"
)

// spread makes the layout of documents whose rows lie one after the other, with logits of
// some rows only.
func spread(logits []int32, lengths ...int) *backend.Layout {
	l := backend.Documents(lengths...)
	l.Logits = logits
	return l
}

// embedded is a model whose matrix of embeddings has a gradient, and a step of three
// documents: all ids, mixed, and all embeddings of rows at, read from the matrix.
type embedded struct {
	m         *llama.Model
	embed     *tensor.Param
	layout    *backend.Layout
	ids, at   []int32
	given, dy []float32
}

func newEmbedded(t *testing.T) *embedded {
	shape := llama.Config{Layers: 2, Dim: 64, Heads: 4, KVHeads: 2, HeadDim: 16, HiddenDim: 128, Vocab: 300, Context: 128,
		NormEps: 1e-5, RopeTheta: 10000}
	m, err := llama.New(t.Context(), shape, nil, llama.Init{Seed: 3, Std: 0.1}, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := &embedded{m: m, layout: spread([]int32{0, 6, 10, 11, 16, 22}, 7, 10, 6),
		at: []int32{8, 9, 12, 16, 17, 18, 19, 20, 21, 22}}
	for _, p := range training(t, m).Params() {
		if p.Name == "model.embed_tokens.weight" {
			e.embed = p.Param
		}
	}
	grad, err := training(t, m).Backend().Alloc(int64(4 * e.embed.Shape.Elems()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { grad.Free(); m.Close() })
	e.embed.BindGrad(backend.Contiguous(grad, backend.F32, 0, e.embed.Shape))
	for i := range e.layout.Rows() {
		e.ids = append(e.ids, int32(7*i+5)) // each once
	}
	raw := make([]byte, 4*shape.Dim)
	for _, r := range e.at {
		e.embed.Weight().Unpack(raw, int(e.ids[r]), 1)
		for i := range shape.Dim {
			e.given = append(e.given, math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
		}
	}
	for i := range len(e.layout.Logits) * shape.Dim {
		e.dy = append(e.dy, float32(math.Sin(float64(i))))
	}
	return e
}

// run returns the hidden states, and the gradients of the rows that are given, nil for
// none, and of the matrix.
func (e *embedded) run(t *testing.T, precision backend.Precision, o llama.ForwardOptions, ids []int32, given []float32) (h, dRows, dEmbed []float32) {
	t.Helper()
	c, err := training(t, e.m).NewContext(tensor.Options{Precision: precision})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dEmbed = make([]float32, e.embed.Shape.Elems())
	if err := tensor.Upload(training(t, e.m).Backend(), e.embed.Grad(), dEmbed); err != nil {
		t.Fatal(err)
	}
	err = c.Step(t.Context(), e.layout, training(t, e.m).KV(), func() error {
		tape := tensor.NewTape()
		c.Record(tape)
		if given != nil {
			o.Embedded, o.EmbeddedRows = c.New(backend.F32, backend.Dims(len(e.at), len(given)/len(e.at))), e.at
			c.Write(o.Embedded, given)
			tape.Watch(o.Embedded)
		}
		y, err := training(t, e.m).Forward(c, ids, o)
		if err != nil {
			return err
		}
		h = make([]float32, len(e.dy))
		c.Read(h, y)
		up := c.New(backend.F32, y.Shape())
		c.Write(up, e.dy)
		tape.Backward(tensor.Seed{Y: y, DY: up})
		if given != nil {
			dRows = make([]float32, len(given))
			c.Read(dRows, tape.Grad(o.Embedded))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := tensor.Download(training(t, e.m).Backend(), dEmbed, e.embed.Grad()); err != nil {
		t.Fatal(err)
	}
	return h, dRows, dEmbed
}

// TestEmbeddedRows: rows that come in as embeddings give the bits of their ids, and their
// gradients are the bits of those of the matrix's rows, which get none. Ids in the place
// of embeddings are outside of the vocabulary.
func TestEmbeddedRows(t *testing.T) {
	e := newEmbedded(t)
	mixed := slices.Clone(e.ids)
	for _, r := range e.at {
		mixed[r] = 128256
	}
	for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
		for _, checkpoint := range []bool{false, true} {
			o := llama.ForwardOptions{Checkpoint: checkpoint}
			want, _, dWant := e.run(t, precision, o, e.ids, nil)
			got, dRows, dEmbed := e.run(t, precision, o, mixed, e.given)
			if !slices.Equal(got, want) {
				t.Errorf("%v, checkpoint %v: embedded rows give other bits than ids", precision, checkpoint)
			}
			dim := len(dRows) / len(e.at)
			for i, r := range e.at {
				row := dEmbed[int(e.ids[r])*dim:][:dim]
				if slices.ContainsFunc(row, func(v float32) bool { return v != 0 }) {
					t.Errorf("the matrix's row of embedded row %d has a gradient", r)
				}
				copy(row, dRows[i*dim:])
			}
			if !slices.Equal(dEmbed, dWant) {
				t.Errorf("%v, checkpoint %v: other gradients than with ids", precision, checkpoint)
			}
		}
	}
}

// TestEmbeddedRowsRefused: what does not fit is an error.
func TestEmbeddedRowsRefused(t *testing.T) {
	m, err := llama.Open(t.Context(), smallModel, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c, err := training(t, m).NewContext(tensor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dim := m.Config().Dim
	for _, x := range []struct {
		rows, cols int
		at         []int32
		want       string
	}{
		{0, 0, []int32{1}, "without embeddings"},
		{2, dim, []int32{1}, "want [1"},
		{1, dim - 1, []int32{1}, "want [1"},
		{2, dim, []int32{2, 1}, "ascending"},
		{2, dim, []int32{1, 1}, "ascending"},
		{1, dim, []int32{3}, "of 3 rows"},
		{1, dim, []int32{-1}, "ascending"},
		{1, dim, []int32{1}, "token 99999999"},
	} {
		err := c.Step(t.Context(), backend.Documents(3), training(t, m).KV(), func() error {
			o := llama.ForwardOptions{EmbeddedRows: x.at}
			if x.rows > 0 {
				o.Embedded = c.New(backend.F32, backend.Dims(x.rows, x.cols))
				c.Write(o.Embedded, make([]float32, x.rows*x.cols))
			}
			_, err := training(t, m).Forward(c, []int32{1, 99999999, 99999999}, o)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("rows %v of [%d %d]: error %v, want one with %q", x.at, x.rows, x.cols, err, x.want)
		}
	}
}

// splice is the golden case of a sound's rows between two special tokens of a text.
type splice struct {
	Before []int32 `json:"ids_before"`
	After  []int32 `json:"ids_after"`
	Cases  []struct{ File string }
	Tuning struct {
		File   string
		Answer []int32
		Loss   float64
	} `json:"finetune"`

	m             *llama.Model
	want, encoded map[string]golden.Tensor
}

// TestSplice: rows of a speech adapter in a text, held to the golden logits, and their
// gradient to those of the adapter's output layer.
func TestSplice(t *testing.T) {
	for _, file := range golden.Glob(t, "multimodal/speech/splice.json") {
		var v splice
		golden.JSON(t, file, &v)
		dir := filepath.Dir(file)
		v.want = golden.Safetensors(t, filepath.Join(dir, "splice.safetensors"))
		v.encoded = golden.Safetensors(t, filepath.Join(dir, "encoder.safetensors"))
		var encoder struct{ Config struct{ LLM string } }
		golden.JSON(t, filepath.Join(dir, "encoder.json"), &encoder)
		m, err := llama.Open(t.Context(), filepath.Join(dir, "../../models", encoder.Config.LLM, "hf"), llama.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		v.m = m
		for _, u := range v.Cases {
			v.logits(t, u.File)
		}
		v.tune(t)
	}
}

// forward calls f with the hidden states of a text around the rows of a sound, which is
// followed by more ids; logits says of which of so many rows.
func (v *splice) forward(t *testing.T, sound string, more []int32, logits func(rows int) []int32, f func(c *tensor.Context, tape *tensor.Tape, rows, h *tensor.Tensor)) {
	t.Helper()
	x := v.encoded[sound+".adapter"]
	ids := slices.Concat(v.Before, make([]int32, x.Shape[0]), v.After, more)
	at := make([]int32, x.Shape[0])
	for i := range at {
		at[i] = int32(len(v.Before) + i)
	}
	c, err := training(t, v.m).NewContext(tensor.Options{Precision: backend.PrecisionF32})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Step(t.Context(), spread(logits(len(ids)), len(ids)), training(t, v.m).KV(), func() error {
		tape := tensor.NewTape()
		c.Record(tape)
		rows := c.New(backend.F32, backend.Dims(x.Shape...))
		c.Write(rows, x.F32)
		tape.Watch(rows)
		h, err := training(t, v.m).Forward(c, ids, llama.ForwardOptions{Embedded: rows, EmbeddedRows: at})
		if err == nil {
			f(c, tape, rows, h)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (v *splice) logits(t *testing.T, sound string) {
	all := func(rows int) []int32 { return backend.Documents(rows).Logits }
	v.forward(t, sound, nil, all, func(c *tensor.Context, _ *tensor.Tape, _, h *tensor.Tensor) {
		y := tensor.MatMul(c, h, training(t, v.m).Output())
		got := make([]float32, y.Shape().Elems())
		c.Read(got, y)
		if worst, at := golden.MaxRelative(got, v.want[sound+".logits"].F32); !(worst <= golden.F32Logits) {
			t.Errorf("%s: logit %d is off by %.2g", sound, at, worst)
		}
	})
}

// tune compares the loss of the answer and what the rows' gradient makes of the adapter's
// last layer: they are x W^T + b, so that db and dW follow.
func (v *splice) tune(t *testing.T) {
	answer := v.Tuning.Answer
	last := func(rows int) (list []int32) { // each row says what comes next
		for r := rows - len(answer); r < rows; r++ {
			list = append(list, int32(r))
		}
		return list
	}
	v.forward(t, v.Tuning.File, answer[:len(answer)-1], last, func(c *tensor.Context, tape *tensor.Tape, rows, h *tensor.Tensor) {
		logp, _ := tensor.LogProb(c, h, answer, training(t, v.m).Output())
		values, loss := make([]float32, len(answer)), 0.0
		c.Read(values, logp)
		for _, v := range values {
			loss -= float64(v) / float64(len(values))
		}
		if d := math.Abs(loss - v.Tuning.Loss); !(d <= 1e-5) {
			t.Errorf("the loss is %v, want %v", loss, v.Tuning.Loss)
		}
		up := c.New(backend.F32, logp.Shape())
		c.Write(up, slices.Repeat([]float32{-1 / float32(len(values))}, len(values)))
		tape.Backward(tensor.Seed{Y: logp, DY: up})
		d := make([]float32, rows.Shape().Elems())
		c.Read(d, tape.Grad(rows))
		x, width := v.encoded[v.Tuning.File+".adapter_layer"].F32, rows.Cols()
		db, dw := make([]float32, width), make([]float32, width*width)
		for i, g := range d {
			db[i%width] += g
			for k := range width {
				dw[i%width*width+k] += g * x[i/width*width+k]
			}
		}
		for name, got := range map[string][]float32{"bias": db, "weight": dw} {
			// The README of the folder allows 2e-4 of gradients.
			if worst, at := golden.MaxRelative(got, v.want["finetune.grad.adapter.output."+name].F32); !(worst <= 2e-4) {
				t.Errorf("element %d of the gradient of %s is off by %.2g", at, name, worst)
			}
		}
	})
}

// training is the handle of those who train a model.
func training(t testing.TB, m *llama.Model) *llama.Training {
	t.Helper()
	h, err := m.Training()
	if err != nil {
		t.Fatal(err)
	}
	return h
}
