package llama_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// oracle is a forward pass in float64 that sums up the squares of what each matrix
// multiplies. It is written from the formulas, in loops, and shares nothing with the
// library but the settings.
type oracle struct {
	c       llama.Config
	weights map[string][]float64 // by Hugging Face name
	sums    map[string][]float64 // by GGUF name
}

func newOracle(t *testing.T, hf string, c llama.Config) *oracle {
	o := &oracle{c: c, weights: map[string][]float64{}, sums: map[string][]float64{}}
	files, err := filepath.Glob(filepath.Join(hf, "*.safetensors"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no weights in %s: %v", hf, err)
	}
	for _, file := range files {
		for name, w := range golden.Safetensors(t, file) {
			for _, x := range w.F32 {
				o.weights[name] = append(o.weights[name], float64(x))
			}
			for _, x := range w.U16 {
				wide := block.F16ToF32
				if w.DType == "BF16" {
					wide = block.BF16ToF32
				}
				o.weights[name] = append(o.weights[name], float64(wide(x)))
			}
		}
	}
	return o
}

// linear multiplies rows x with a matrix, and notes x under the GGUF name.
func (o *oracle) linear(hf, gguf string, x [][]float64) [][]float64 {
	in := len(x[0])
	if o.sums[gguf] == nil {
		o.sums[gguf] = make([]float64, in)
	}
	w, bias := o.weights[hf+".weight"], o.weights[hf+".bias"]
	out := make([][]float64, len(x))
	for r, row := range x {
		for i, v := range row {
			o.sums[gguf][i] += v * v
		}
		out[r] = make([]float64, len(w)/in)
		for n := range out[r] {
			if bias != nil {
				out[r][n] = bias[n]
			}
			for i, v := range row {
				out[r][n] += v * w[n*in+i]
			}
		}
	}
	return out
}

func (o *oracle) norm(name string, x [][]float64) [][]float64 {
	w := o.weights[name]
	out := make([][]float64, len(x))
	for r, row := range x {
		square := 0.0
		for _, v := range row {
			square += v * v
		}
		out[r] = make([]float64, len(row))
		for i, v := range row {
			out[r][i] = v / math.Sqrt(square/float64(len(row))+o.c.NormEps) * w[i]
		}
	}
	return out
}

// rotate turns the pairs (i, i+hd/2) of each head by the row's position.
func (o *oracle) rotate(x [][]float64) {
	hd := o.c.HeadDim
	for pos, row := range x {
		for h := 0; h < len(row); h += hd {
			for i := range hd / 2 {
				angle := float64(pos) * math.Pow(o.c.RopeTheta, -2*float64(i)/float64(hd))
				a, b := row[h+i], row[h+i+hd/2]
				row[h+i], row[h+i+hd/2] = a*math.Cos(angle)-b*math.Sin(angle), a*math.Sin(angle)+b*math.Cos(angle)
			}
		}
	}
}

func (o *oracle) attention(q, k, v [][]float64) [][]float64 {
	hd := o.c.HeadDim
	out := make([][]float64, len(q))
	for r := range q {
		out[r] = make([]float64, len(q[r]))
		for h := range o.c.Heads {
			at, of := h*hd, h*o.c.KVHeads/o.c.Heads*hd
			p, sum := make([]float64, r+1), 0.0
			for s := range p {
				for i := range hd {
					p[s] += q[r][at+i] * k[s][of+i]
				}
				p[s] = math.Exp(p[s] / math.Sqrt(float64(hd)))
				sum += p[s]
			}
			for s := range p {
				for i := range hd {
					out[r][at+i] += p[s] / sum * v[s][of+i]
				}
			}
		}
	}
	return out
}

func plus(x, y [][]float64) {
	for r := range x {
		for i := range x[r] {
			x[r][i] += y[r][i]
		}
	}
}

// run is a forward pass of one chunk.
func (o *oracle) run(ids []int32) {
	x := make([][]float64, len(ids))
	for r, id := range ids {
		x[r] = append(x[r], o.weights["model.embed_tokens.weight"][int(id)*o.c.Dim:][:o.c.Dim]...)
	}
	for l := range o.c.Layers {
		hf, gguf := fmt.Sprintf("model.layers.%d.", l), fmt.Sprintf("blk.%d.", l)
		h := o.norm(hf+"input_layernorm.weight", x)
		q := o.linear(hf+"self_attn.q_proj", gguf+"attn_q.weight", h)
		k := o.linear(hf+"self_attn.k_proj", gguf+"attn_k.weight", h)
		v := o.linear(hf+"self_attn.v_proj", gguf+"attn_v.weight", h)
		o.rotate(q)
		o.rotate(k)
		plus(x, o.linear(hf+"self_attn.o_proj", gguf+"attn_output.weight", o.attention(q, k, v)))
		h = o.norm(hf+"post_attention_layernorm.weight", x)
		gate := o.linear(hf+"mlp.gate_proj", gguf+"ffn_gate.weight", h)
		up := o.linear(hf+"mlp.up_proj", gguf+"ffn_up.weight", h)
		for r := range gate {
			for i, g := range gate[r] {
				gate[r][i] = g / (1 + math.Exp(-g)) * up[r][i]
			}
		}
		plus(x, o.linear(hf+"mlp.down_proj", gguf+"ffn_down.weight", gate))
	}
	h := o.norm("model.norm.weight", x)
	if o.c.TiedEmbeddings {
		o.linear("model.embed_tokens", "token_embd.weight", h)
	} else {
		o.linear("lm_head", "output.weight", h)
	}
}

// TestImatrix compares every sum of every model that rotates without scaling with those of
// the oracle.
func TestImatrix(t *testing.T) {
	const size, chunks = 12, 3
	compared := 0
	for _, dir := range golden.Glob(t, "models/*") {
		m := open(t, filepath.Join(dir, "hf"), llama.Options{Precision: llama.PrecisionF32})
		c := m.Config()
		if c.RopeScaling.Type != "" {
			continue
		}
		compared++
		ids := make([]int32, size*chunks+5)
		for i := range ids {
			ids[i] = int32(i * i % c.Vocab)
		}
		o := newOracle(t, filepath.Join(dir, "hf"), c)
		for i := range chunks {
			chunk := append([]int32(nil), ids[i*size:(i+1)*size]...)
			if tok := m.Tokenizer(); tok != nil && tok.AddsBOS() {
				chunk[0], _ = tok.BOS()
			}
			o.run(chunk)
		}
		told := 0
		im, err := m.Imatrix(context.Background(), ids, llama.ImatrixOptions{Context: size, Output: true, Dataset: "text",
			Progress: func(done, total int) {
				if told++; done != told || total != chunks {
					t.Errorf("%s: told of %d of %d", dir, done, total)
				}
			}})
		if err != nil {
			t.Fatal(err)
		}
		if len(im.Entries) != len(o.sums) || im.Chunks != chunks || im.ChunkSize != size || strings.Join(im.Datasets, " ") != "text" {
			t.Errorf("%s: %d entries, want %d; %d chunks of %d of %q", dir, len(im.Entries), len(o.sums), im.Chunks, im.ChunkSize, im.Datasets)
		}
		for name, want := range o.sums {
			got := im.Entries[name]
			if len(got.Sums) != len(want) || got.Count != size*chunks {
				t.Fatalf("%s: %s has %d columns and %v rows, want %d and %d", dir, name, len(got.Sums), got.Count, len(want), size*chunks)
			}
			largest := 0.0
			for _, w := range want {
				largest = max(largest, w)
			}
			for i, w := range want { // squares have twice the error of float32 forward passes
				if math.Abs(float64(got.Sums[i])-w) > 2*golden.F32Logits*largest {
					t.Errorf("%s: %s column %d is %v, want %v", dir, name, i, got.Sums[i], w)
				}
			}
		}
		m.Close()
	}
	if compared == 0 {
		t.Error("no model was compared")
	}
}

// TestImatrixEnds gives up where its context ends, and lets the model be used and closed.
func TestImatrixEnds(t *testing.T) {
	m := open(t, golden.Glob(t, "models/*/model.gguf")[0], llama.Options{})
	ids := make([]int32, 64)
	ctx, stop := context.WithCancel(context.Background())
	_, err := m.Imatrix(ctx, ids, llama.ImatrixOptions{Context: 8, Progress: func(int, int) { stop() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of the context: %v", err)
	}
	if _, err := m.Imatrix(context.Background(), ids[:7], llama.ImatrixOptions{Context: 8}); err == nil {
		t.Error("a text of less than a chunk is taken")
	}
	m.Close()
	if _, err := m.Imatrix(context.Background(), ids, llama.ImatrixOptions{}); !errors.Is(err, llama.ErrClosed) {
		t.Errorf("of a closed model: %v", err)
	}
}
