package tensor_test

import (
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/tensor"
)

// goldenOp is a case of ops.json, with its tensors of ops.safetensors.
type goldenOp struct {
	Name, Op                  string
	Params                    map[string]any
	Inputs, Constants         []string
	Output, Upstream, Formula string
	Grads                     map[string]string

	t       *testing.T
	b       backend.Backend
	c       *tensor.Context
	tensors map[string]golden.Tensor
	in      map[string]*tensor.Tensor // inputs in the step
	params  map[string]*tensor.Param  // those that are parameters instead
	used    map[string]bool           // of Params and Constants
}

// tensor returns one of the case's.
func (g *goldenOp) tensor(field string) golden.Tensor {
	g.t.Helper()
	x, ok := g.tensors[g.Name+"."+field]
	if !ok {
		g.t.Fatalf("there is no tensor %s.%s", g.Name, field)
	}
	return x
}

// setting returns one of Params.
func setting[T any](g *goldenOp, name string) T {
	g.t.Helper()
	x, ok := g.Params[name].(T)
	if !ok {
		g.t.Fatalf("%s is %v", name, g.Params[name])
	}
	g.used[name] = true
	return x
}

func (g *goldenOp) number(name string) float64 { g.t.Helper(); return setting[float64](g, name) }
func (g *goldenOp) int(name string) int        { g.t.Helper(); return int(g.number(name)) }

// ids returns one of Constants.
func (g *goldenOp) ids(name string) []int32 {
	g.t.Helper()
	g.used[name] = true
	return narrow(g.tensor(name).I64)
}

func narrow(x []int64) []int32 {
	y := make([]int32, len(x))
	for i := range x {
		y[i] = int32(x[i])
	}
	return y
}

// identity is a matrix that makes logits of the input of a fused loss.
func (g *goldenOp) identity(n int) *tensor.Param { return pack(g.t, g.b, eye(n), n, n) }

func eye(n int) []float32 {
	x := make([]float32, n*n)
	for i := range n {
		x[i*n+i] = 1
	}
	return x
}

// A route is a way to compute an operation with this package.
type route struct {
	name      string
	params    []string // inputs that are parameters
	tolerance float64  // 0 is golden.Operation
	far       string   // the input of positions, where the tolerance grows with them
	noGrads   bool
	// layout is that of the step, where it has one.
	layout func(g *goldenOp) (*backend.Layout, backend.KV)
	run    func(g *goldenOp) *tensor.Tensor
	steps  func(g *goldenOp) []float32 // instead of run: values, from steps of its own
}

// routes are by the operation's kind.
var routes = map[string][]route{
	"softmax": {{name: "Softmax", run: func(g *goldenOp) *tensor.Tensor { return tensor.Softmax(g.c, g.in["x"]) }}},
	"logsumexp": {
		{name: "LogProb", tolerance: golden.LogSoftmax, run: fusedLSE}, // whose gradient is exp(x - lse)
		{name: "Exp", run: generalLSE},
	},
	"log_softmax": {
		{name: "LogProb", tolerance: golden.LogSoftmax, run: func(g *goldenOp) *tensor.Tensor { return g.minus(fusedLSE(g)) }},
		{name: "Exp", tolerance: golden.LogSoftmax, run: func(g *goldenOp) *tensor.Tensor { return g.minus(generalLSE(g)) }},
	},
	"rms_norm": {{name: "RMSNorm", params: []string{"weight"}, run: func(g *goldenOp) *tensor.Tensor {
		return tensor.RMSNorm(g.c, g.in["x"], g.params["weight"], float32(g.number("eps")))
	}}},
	"silu": {
		{name: "Sigmoid", run: func(g *goldenOp) *tensor.Tensor {
			return tensor.Mul(g.c, g.in["x"], tensor.Sigmoid(g.c, g.in["x"]))
		}},
		{name: "SwiGLU", run: func(g *goldenOp) *tensor.Tensor {
			ones := slices.Repeat([]float32{1}, g.in["x"].Shape().Elems())
			return tensor.SwiGLU(g.c, g.in["x"], write(g.c, ones, g.in["x"].Rows(), g.in["x"].Cols()))
		}},
	},
	"swiglu": {{name: "SwiGLU", run: func(g *goldenOp) *tensor.Tensor { return tensor.SwiGLU(g.c, g.in["gate"], g.in["up"]) }}},
	"linear": {
		{name: "MatMul", params: []string{"weight"}, run: func(g *goldenOp) *tensor.Tensor {
			return tensor.MatMul(g.c, g.in["x"], g.params["weight"])
		}},
		{name: "MatMulAdd", params: []string{"weight"}, run: func(g *goldenOp) *tensor.Tensor {
			zero := write(g.c, make([]float32, len(g.tensor("y").F32)), g.tensor("y").Shape...)
			return tensor.MatMulAdd(g.c, zero, g.in["x"], g.params["weight"])
		}},
		{name: "BatchMatMul", run: func(g *goldenOp) *tensor.Tensor {
			x, w := g.in["x"], tensor.Transpose(g.c, g.in["weight"], 0, 1)
			return tensor.BatchMatMul(g.c, tensor.Reshape(g.c, x, backend.Dims(1, x.Rows(), x.Cols())),
				tensor.Reshape(g.c, w, backend.Dims(1, w.Rows(), w.Cols())))
		}},
	},
	"feed_forward": {
		{name: "recorded", params: []string{"gate", "up", "down"}, run: feedForward},
		{name: "fused", params: []string{"gate", "up", "down"}, noGrads: true, run: feedForward},
	},
	"embedding": {
		{name: "Embedding", params: []string{"table"}, run: func(g *goldenOp) *tensor.Tensor {
			return tensor.Embedding(g.c, g.c.IDs(g.ids("ids")), g.params["table"])
		}},
		{name: "Gather", run: func(g *goldenOp) *tensor.Tensor { return tensor.Gather(g.c, g.in["table"], g.ids("ids")) }},
	},
	"cross_entropy": {
		{name: "LogProb", run: func(g *goldenOp) *tensor.Tensor {
			x := g.in["logits"]
			ids, mean := g.targets()
			logp, _ := tensor.LogProb(g.c, x, slices.Clone(ids), g.identity(x.Cols()))
			return tensor.Sum(g.c, tensor.Mul(g.c, logp, write(g.c, mean, len(mean))), 0)
		}},
		{name: "Softmax", run: func(g *goldenOp) *tensor.Tensor {
			x := g.in["logits"]
			ids, mean := g.targets()
			picked := make([]float32, x.Rows()*x.Cols())
			for i, id := range ids {
				picked[i*x.Cols()+int(id)] = mean[i]
			}
			logp := tensor.Log(g.c, tensor.Softmax(g.c, x))
			return tensor.Sum(g.c, tensor.Sum(g.c, tensor.Mul(g.c, logp, write(g.c, picked, x.Rows(), x.Cols())), 1), 0)
		}},
	},
	"rope": {{name: "RoPE", layout: ropeLayout, run: rope, far: "positions"}},
	"attention": {
		{name: "rows", layout: rowsLayout, run: attendRows},
		{name: "pages", steps: attendPages},
	},
}

// fusedLSE is the log-sum-exp of the fused loss.
func fusedLSE(g *goldenOp) *tensor.Tensor {
	x := g.in["x"]
	_, lse := tensor.LogProb(g.c, x, make([]int32, x.Rows()), g.identity(x.Cols()))
	return lse
}

// generalLSE is the log-sum-exp from general operations.
func generalLSE(g *goldenOp) *tensor.Tensor {
	most := tensor.Max(g.c, g.in["x"], 1)
	less := tensor.Add(g.c, g.in["x"], g.column(tensor.Scale(g.c, most, -1)))
	return tensor.Add(g.c, tensor.Log(g.c, tensor.Sum(g.c, tensor.Exp(g.c, less), 1)), most)
}

func (g *goldenOp) column(x *tensor.Tensor) *tensor.Tensor {
	return tensor.Reshape(g.c, x, backend.Dims(x.Shape().Elems(), 1))
}

// minus is the input x less a number for each row.
func (g *goldenOp) minus(y *tensor.Tensor) *tensor.Tensor {
	return tensor.Add(g.c, g.in["x"], g.column(tensor.Scale(g.c, y, -1)))
}

func feedForward(g *goldenOp) *tensor.Tensor {
	return tensor.MatMul(g.c, tensor.MatMulSwiGLU(g.c, g.in["x"], g.params["gate"], g.params["up"]), g.params["down"])
}

// targets are the ids, 0 where there is none, and what makes a mean loss of
// log-probabilities.
func (g *goldenOp) targets() (ids []int32, mean []float32) {
	ids, ignored := g.ids("targets"), int32(g.int("ignore_index"))
	mean = make([]float32, len(ids))
	kept := 0
	for i, id := range ids {
		if ids[i] = max(id, 0); id != ignored {
			mean[i], kept = -1, kept+1
		}
	}
	for i := range mean {
		mean[i] /= float32(kept)
	}
	return ids, mean
}

// ropeLayout has the positions of the tokens of all sequences.
func ropeLayout(g *goldenOp) (*backend.Layout, backend.KV) {
	pos := g.ids("positions")
	return &backend.Layout{Pos: pos, Segments: []backend.Segment{{Rows: len(pos), Spans: []backend.Span{{Len: len(pos)}}}}}, backend.KV{}
}

// rope rotates pairs (i, i + hd/2). Where pairs are adjacent, the elements of a head
// are put in that order and back, as loaders do with rows of weights.
func rope(g *goldenOp) *tensor.Tensor {
	hd, theta := g.int("head_dim"), g.number("theta")
	freqs := make([]float32, hd/2)
	for i := range freqs {
		freqs[i] = float32(math.Pow(theta, -2*float64(i)/float64(hd)))
	}
	x, shape := g.in["x"], g.in["x"].Shape()
	reorder := func(x *tensor.Tensor, from, to int) *tensor.Tensor {
		x = tensor.Transpose(g.c, tensor.Reshape(g.c, x, backend.Dims(shape.Elems()/hd, from, to)), 1, 2)
		return tensor.Reshape(g.c, x, shape)
	}
	table := tensor.RoPETable(g.c, vector(g.t, g.b, freqs, 1), nil)
	switch pairs := setting[string](g, "pairing"); pairs {
	case "half":
		return tensor.RoPE(g.c, x, table)
	case "adjacent":
		return reorder(tensor.RoPE(g.c, reorder(x, hd/2, 2), table), 2, hd/2)
	default:
		g.t.Fatalf("there are no %s pairs", pairs)
		return nil
	}
}

// kv is the geometry of an attention's pages.
func (g *goldenOp) kv() backend.KV {
	if q := g.tensor("q").Shape; q[2] != g.int("heads") || q[1] != g.int("queries") {
		g.t.Fatalf("q is %v", q)
	}
	return backend.KV{Type: backend.F32, Layers: 1, Heads: g.int("kv_heads"), HeadDim: g.int("head_dim")}
}

// documents are runs of rows [from, to) of a sequence of keys, where each sees its own
// document alone: segments whose spans are numbered from the sequence's first key.
func (g *goldenOp) documents(sequence, from, to int) (list []backend.Segment) {
	keys := g.int("keys")
	docs := make([]int32, keys) // all one
	if slices.Contains(g.Constants, "documents") {
		docs = g.ids("documents")[sequence*keys:][:keys]
	}
	for start := 0; start < to; {
		end := start
		for end < to && docs[end] == docs[start] {
			end++
		}
		if end > from {
			row := max(start, from)
			list = append(list, backend.Segment{Row: row, Rows: end - row, Seq: sequence, Spans: []backend.Span{{Start: start, Len: end - start}}})
		}
		start = end
	}
	return list
}

// rowsLayout is for keys in rows, one sequence after the other.
func rowsLayout(g *goldenOp) (*backend.Layout, backend.KV) {
	keys, l := g.int("keys"), &backend.Layout{}
	for sequence := range g.tensor("k").Shape[0] {
		for _, s := range g.documents(sequence, 0, keys) {
			s.Row += sequence * keys
			s.Spans[0].Start += sequence * keys
			l.Segments = append(l.Segments, s)
		}
		l.Pos = append(l.Pos, make([]int32, keys)...)
	}
	return l, g.kv()
}

func (g *goldenOp) scale() float32 { return float32(1 / math.Sqrt(g.number("head_dim"))) }

// attendRows is attention as in training. Rows whose keys only are given get queries
// of zero, whose results are cut off.
func attendRows(g *goldenOp) *tensor.Tensor {
	sequences, queries, keys := g.tensor("q").Shape[0], g.int("queries"), g.int("keys")
	q, past := g.in["q"], keys-queries
	width := q.Cols()
	if past > 0 {
		none := write(g.c, make([]float32, sequences*past*width), sequences, past, width)
		q = tensor.Concat(g.c, 1, none, tensor.Reshape(g.c, q, backend.Dims(sequences, queries, width)))
		q = tensor.Reshape(g.c, q, backend.Dims(sequences*keys, width))
	}
	y := tensor.Attention(g.c, q, g.in["k"], g.in["v"], tensor.AttentionOptions{Scale: g.scale()})
	if past > 0 {
		y = tensor.Slice(g.c, tensor.Reshape(g.c, y, backend.Dims(sequences, keys, width)), 1, past, queries)
	}
	return y
}

// attendPages is attention as in inference: keys without queries are in pages from a
// step before.
func attendPages(g *goldenOp) (out []float32) {
	sequences, queries, keys := g.tensor("q").Shape[0], g.int("queries"), g.int("keys")
	q, k, v := g.tensor("q").F32, g.tensor("k").F32, g.tensor("v").F32
	kv, past := g.kv(), keys-queries
	width, kvWidth := len(q)/(sequences*queries), len(k)/(sequences*keys)
	all := make([]sequence, sequences)
	for i := range all {
		all[i].grow(g.t, g.b, kv, keys)
	}
	c := newContext(g.t, g.b, tensor.Options{Precision: backend.PrecisionF32})
	for _, part := range [][2]int{{0, past}, {past, keys}} {
		from, to := part[0], part[1]
		if from == to {
			continue
		}
		l := &backend.Layout{}
		var pq, pk, pv []float32
		for i := range all {
			for _, s := range g.documents(i, from, to) {
				s.Row, s.Pages = s.Row-from+l.Rows(), all[i].pages
				l.Segments = append(l.Segments, s)
			}
			l.Pos = append(l.Pos, make([]int32, to-from)...)
			pk = append(pk, k[(i*keys+from)*kvWidth:(i*keys+to)*kvWidth]...)
			pv = append(pv, v[(i*keys+from)*kvWidth:(i*keys+to)*kvWidth]...)
		}
		if pq = q; to < keys {
			pq = make([]float32, l.Rows()*width)
		}
		step(g.t, c, l, kv, func() {
			out = read(c, tensor.Attention(c, write(c, pq, l.Rows(), width), write(c, pk, l.Rows(), kvWidth), write(c, pv, l.Rows(), kvWidth), tensor.AttentionOptions{Scale: g.scale()}))
		})
	}
	return out
}

// TestGoldenOperations: values and gradients of every case.
func TestGoldenOperations(t *testing.T) {
	for _, path := range golden.Glob(t, "losses/ops.json") {
		var file struct{ Cases []goldenOp }
		golden.JSON(t, path, &file)
		tensors := golden.Safetensors(t, strings.TrimSuffix(path, filepath.Ext(path))+".safetensors")
		if len(file.Cases) == 0 {
			t.Fatalf("%s has no cases", path)
		}
		each(t, func(t *testing.T, b backend.Backend) {
			for _, g := range file.Cases {
				ways, ok := routes[g.Op]
				if !ok {
					t.Errorf("%s: there is no operation %s", g.Name, g.Op)
				}
				for _, r := range ways {
					t.Run(g.Name+"/"+r.name, func(t *testing.T) {
						g.t, g.b, g.tensors = t, b, tensors
						g.check(r)
					})
				}
			}
		})
	}
}

// check runs a case one way.
func (g *goldenOp) check(r route) {
	t := g.t
	g.in, g.params, g.used = map[string]*tensor.Tensor{}, map[string]*tensor.Param{}, map[string]bool{}
	for _, name := range r.params {
		x := g.tensor(name)
		g.params[name] = weight(g.b, x.F32, x.Shape...)
	}
	tolerance := r.tolerance
	if tolerance == 0 {
		tolerance = golden.Operation
	}
	if r.far != "" {
		tolerance = golden.Rotation(float64(slices.Max(g.ids(r.far))))
	}
	near := func(what string, got, want []float32) {
		t.Helper()
		if len(got) != len(want) || len(want) == 0 {
			t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
		}
		if worst, at := golden.MaxRelative(got, want); !(worst <= tolerance) {
			t.Errorf("%s: number %d is %v, want %v: off by %.3g of the largest", what, at, got[at], want[at], worst)
		}
	}
	defer func() {
		for _, name := range slices.Concat(slices.Collect(maps.Keys(g.Params)), g.Constants) {
			if !g.used[name] && !t.Failed() {
				t.Errorf("%s is not used", name)
			}
		}
	}()
	if r.steps != nil {
		near(g.Output, r.steps(g), g.tensor(g.Output).F32)
		return
	}
	var layout *backend.Layout
	var kv backend.KV
	if r.layout != nil {
		layout, kv = r.layout(g)
	}
	g.c = newContext(t, g.b, tensor.Options{Precision: backend.PrecisionF32})
	step(t, g.c, layout, kv, func() {
		tape := tensor.NewTape()
		if !r.noGrads {
			g.c.Record(tape)
		}
		for _, name := range g.Inputs {
			if g.params[name] == nil {
				g.in[name] = g.place(name)
				if !r.noGrads {
					tape.Watch(g.in[name])
				}
			}
		}
		y := r.run(g)
		near(g.Output, read(g.c, y), g.tensor(g.Output).F32)
		if r.noGrads {
			return
		}
		dy := g.c.New(backend.F32, y.Shape())
		g.c.Write(dy, g.tensor(g.Upstream).F32)
		tape.Backward(tensor.Seed{Y: y, DY: dy})
		for _, name := range g.Inputs {
			if g.params[name] != nil {
				continue // once the step has ended
			}
			d := tape.Grad(g.in[name])
			if d == nil {
				t.Fatalf("%s has no gradient", name)
			}
			near("the gradient of "+name, read(g.c, d), g.tensor(g.Grads[name]).F32)
		}
	})
	for name, p := range g.params {
		if !r.noGrads {
			near("the gradient of "+name, gradOf(g.c.Backend(), p), g.tensor(g.Grads[name]).F32)
		}
	}
}

// place writes an input to the step. Layouts [batch, token, head, head_dim] are
// matrices of a row for each token.
func (g *goldenOp) place(name string) *tensor.Tensor {
	x := g.tensor(name)
	dims := x.Shape
	if len(dims) == 4 {
		dims = []int{dims[0] * dims[1], dims[2] * dims[3]}
	}
	return write(g.c, x.F32, dims...)
}
