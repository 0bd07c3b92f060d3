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

// TestEmbeddedRows: rows that come in as embeddings, those of their ids read from the
// matrix, give the bits of the ids, and their gradients are the bits of those of the
// matrix's rows. Documents are all ids, mixed, and all embeddings; ids in the place of
// embeddings are outside of the vocabulary.
func TestEmbeddedRows(t *testing.T) {
	const dim, vocab = 64, 300
	shape := llama.Config{Layers: 2, Dim: dim, Heads: 4, KVHeads: 2, HeadDim: 16, HiddenDim: 128, Vocab: vocab, Context: 128,
		NormEps: 1e-5, RopeTheta: 10000}
	m, err := llama.New(t.Context(), shape, nil, llama.Init{Seed: 3, Std: 0.1}, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var embed *tensor.Param
	for _, p := range m.Params() {
		if p.Name == "model.embed_tokens.weight" {
			embed = p.Param
		}
	}
	grad, err := m.Backend().Alloc(4 * dim * vocab)
	if err != nil {
		t.Fatal(err)
	}
	defer grad.Free()
	embed.BindGrad(backend.Contiguous(grad, backend.F32, 0, embed.Shape))
	defer embed.BindGrad(backend.View{})

	ids := make([]int32, 23) // each once
	for i := range ids {
		ids[i] = int32(7*i + 5)
	}
	layout := spread([]int32{0, 6, 10, 11, 16, 22}, 7, 10, 6)
	at := []int32{8, 9, 12, 16, 17, 18, 19, 20, 21, 22}
	raw, given := make([]byte, 4*dim), []float32(nil)
	for _, r := range at {
		embed.Weight().Unpack(raw, int(ids[r]), 1)
		for i := range dim {
			given = append(given, math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
		}
	}
	dy := make([]float32, len(layout.Logits)*dim)
	for i := range dy {
		dy[i] = float32(math.Sin(float64(i)))
	}
	for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
		for _, checkpoint := range []bool{false, true} {
			run := func(ids []int32, embedded bool) (h, dRows, dEmbed []float32) {
				c, err := m.NewContext(tensor.Options{Precision: precision})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				dEmbed = make([]float32, dim*vocab)
				if err := tensor.Upload(m.Backend(), embed.Grad(), dEmbed); err != nil {
					t.Fatal(err)
				}
				err = c.Step(t.Context(), layout, m.KV(), func() error {
					tape := tensor.NewTape()
					c.Record(tape)
					o := llama.ForwardOptions{Checkpoint: checkpoint}
					if embedded {
						o.Embedded, o.EmbeddedRows = c.New(backend.F32, backend.Dims(len(at), dim)), at
						c.Write(o.Embedded, given)
						tape.Watch(o.Embedded)
					}
					y, err := m.Forward(c, ids, o)
					if err != nil {
						return err
					}
					h = make([]float32, y.Shape().Elems())
					c.Read(h, y)
					up := c.New(backend.F32, y.Shape())
					c.Write(up, dy)
					tape.Backward(tensor.Seed{Y: y, DY: up})
					if embedded {
						dRows = make([]float32, len(given))
						c.Read(dRows, tape.Grad(o.Embedded))
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := tensor.Download(m.Backend(), dEmbed, embed.Grad()); err != nil {
					t.Fatal(err)
				}
				return h, dRows, dEmbed
			}
			want, _, dWant := run(ids, false)
			mixed := slices.Clone(ids)
			for _, r := range at {
				mixed[r] = 128256
			}
			got, dRows, dEmbed := run(mixed, true)
			if !slices.Equal(got, want) {
				t.Errorf("%v, checkpoint %v: embedded rows give other bits than ids", precision, checkpoint)
			}
			for i, r := range at { // what the table does not get, the rows do
				row := dEmbed[int(ids[r])*dim:][:dim]
				if slices.ContainsFunc(row, func(v float32) bool { return v != 0 }) {
					t.Errorf("the table's row of embedded row %d has a gradient", r)
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
	c, err := m.NewContext(tensor.Options{})
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
		err := c.Step(t.Context(), backend.Documents(3), m.KV(), func() error {
			o := llama.ForwardOptions{EmbeddedRows: x.at}
			if x.rows > 0 {
				o.Embedded = c.New(backend.F32, backend.Dims(x.rows, x.cols))
				c.Write(o.Embedded, make([]float32, x.rows*x.cols))
			}
			_, err := m.Forward(c, []int32{1, 99999999, 99999999}, o)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("rows %v of [%d %d]: error %v, want one with %q", x.at, x.rows, x.cols, err, x.want)
		}
	}
}

// TestSplice: rows of a speech adapter between two special tokens of a text, held to the
// golden logits, and their gradient to those of the adapter's output layer.
func TestSplice(t *testing.T) {
	for _, file := range golden.Glob(t, "multimodal/speech/splice.json") {
		var v struct {
			Before []int32 `json:"ids_before"`
			After  []int32 `json:"ids_after"`
			Cases  []struct{ File string }
			Tuning struct {
				File   string
				Answer []int32
				Loss   float64
			} `json:"finetune"`
		}
		golden.JSON(t, file, &v)
		dir := filepath.Dir(file)
		want := golden.Safetensors(t, filepath.Join(dir, "splice.safetensors"))
		encoded := golden.Safetensors(t, filepath.Join(dir, "encoder.safetensors"))
		m, err := llama.Open(t.Context(), filepath.Join(dir, "../../models/gqa-untied/hf"), llama.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		// forward calls f with the hidden states of a text around the rows of a sound.
		forward := func(sound string, more []int32, logits func(rows int) []int32, f func(c *tensor.Context, tape *tensor.Tape, rows, h *tensor.Tensor)) {
			t.Helper()
			x := encoded[sound+".adapter"]
			n := x.Shape[0]
			ids := slices.Concat(v.Before, make([]int32, n), v.After, more)
			at := make([]int32, n)
			for i := range at {
				at[i] = int32(len(v.Before) + i)
			}
			c, err := m.NewContext(tensor.Options{Precision: backend.PrecisionF32})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Step(t.Context(), spread(logits(len(ids)), len(ids)), m.KV(), func() error {
				tape := tensor.NewTape()
				c.Record(tape)
				rows := c.New(backend.F32, backend.Dims(x.Shape...))
				c.Write(rows, x.F32)
				tape.Watch(rows)
				h, err := m.Forward(c, ids, llama.ForwardOptions{Embedded: rows, EmbeddedRows: at})
				if err == nil {
					f(c, tape, rows, h)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, u := range v.Cases {
			all := func(rows int) []int32 { return backend.Documents(rows).Logits }
			forward(u.File, nil, all, func(c *tensor.Context, _ *tensor.Tape, _, h *tensor.Tensor) {
				y := tensor.MatMul(c, h, m.Output())
				got := make([]float32, y.Shape().Elems())
				c.Read(got, y)
				if worst, at := golden.MaxRelative(got, want[u.File+".logits"].F32); !(worst <= golden.F32Logits) {
					t.Errorf("%s: logit %d is off by %.2g", u.File, at, worst)
				}
			})
		}

		answer := v.Tuning.Answer
		last := func(rows int) (list []int32) { // the rows before the answer's
			for r := rows - len(answer); r < rows; r++ {
				list = append(list, int32(r))
			}
			return list
		}
		forward(v.Tuning.File, answer[:len(answer)-1], last, func(c *tensor.Context, tape *tensor.Tape, rows, h *tensor.Tensor) {
			logp, _ := tensor.LogProb(c, h, answer, m.Output())
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

			// The rows are x W^T + b: db and dW follow from theirs.
			x, width := encoded[v.Tuning.File+".adapter_layer"].F32, rows.Cols()
			db, dw := make([]float32, width), make([]float32, width*width)
			for i, g := range d {
				db[i%width] += g
				for k := range width {
					dw[i%width*width+k] += g * x[i/width*width+k]
				}
			}
			for name, got := range map[string][]float32{"bias": db, "weight": dw} {
				if worst, at := golden.MaxRelative(got, want["finetune.grad.adapter.output."+name].F32); !(worst <= 2e-4) { // as its README says
					t.Errorf("element %d of the gradient of %s is off by %.2g", at, name, worst)
				}
			}
		})
	}
}
