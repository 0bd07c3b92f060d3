package llama_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

// adapterCase is a golden model with one of its adapters.
type adapterCase struct {
	base, path, kind string
	ids              [][]int32
	want             map[string]golden.Tensor // expect.safetensors, of this kind
}

func adapterCases(t *testing.T) []adapterCase {
	var list []adapterCase
	for _, config := range golden.Glob(t, "train/*/*/adapter_config.json") {
		path := filepath.Dir(config)
		c := adapterCase{base: filepath.Dir(path), path: path, kind: filepath.Base(path), want: map[string]golden.Tensor{}}
		in := golden.Safetensors(t, filepath.Join(c.base, "batch.safetensors"))["input_ids"]
		for i := range in.Shape[0] {
			var ids []int32
			for _, id := range in.I64[i*in.Shape[1] : (i+1)*in.Shape[1]] {
				ids = append(ids, int32(id))
			}
			c.ids = append(c.ids, ids)
		}
		for name, x := range golden.Safetensors(t, filepath.Join(c.base, "expect.safetensors")) {
			if rest, ok := strings.CutPrefix(name, c.kind+"."); ok {
				c.want[rest] = x
			}
		}
		list = append(list, c)
	}
	return list
}

// logits runs all rows of the batch.
func (c adapterCase) logits(t *testing.T, m *llama.Model) []float32 {
	t.Helper()
	var all []float32
	s := session(t, m)
	for _, ids := range c.ids {
		all = append(all, scoreAll(t, s, ids)...)
	}
	return all
}

func near(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	if worst, at := golden.MaxRelative(got, want); !(worst <= tolerance) {
		t.Errorf("%s: number %d is %v, want %v: %.3g of the largest, want at most %.3g", what, at, got[at], want[at], worst, tolerance)
	}
}

// TestAdapterGolden: logits of adapted models, by every kernel variant.
func TestAdapterGolden(t *testing.T) {
	for _, c := range adapterCases(t) {
		for _, variant := range []string{"generic", "avx2", "avx512"} {
			t.Run(golden.Name(c.path)+"/"+variant, func(t *testing.T) {
				b, err := cpu.New(cpu.Options{Variant: variant})
				if err != nil {
					t.Skip(err)
				}
				defer b.Close()
				o := llama.Options{Backend: b, Adapters: []llama.Adapter{{Path: c.path}}}
				m := open(t, c.base, o)
				near(t, "logits", c.logits(t, m), c.want["logits"].F32, golden.TrainLogits)
				est, err := llama.Estimate(c.base, o)
				if plain, _ := llama.Estimate(c.base, llama.Options{}); err != nil || est != m.Memory() || plain.Weights >= est.Weights || plain.Scratch > est.Scratch {
					t.Errorf("estimated %v, the model says %v, without adapter %v (%v)", est, m.Memory(), plain, err)
				}
			})
		}
	}
}

// TestAdapterMerge: merged weights, and the merged model's logits, in every
// format and type; the report is of what was stored.
func TestAdapterMerge(t *testing.T) {
	for _, c := range adapterCases(t) {
		for _, to := range []string{"safetensors", "gguf"} {
			for _, dtype := range []backend.DType{backend.F32, backend.F16, backend.BF16} {
				t.Run(fmt.Sprint(golden.Name(c.path), "/", to, "/", dtype), func(t *testing.T) {
					out := filepath.Join(t.TempDir(), targets[to])
					r, err := llama.Convert(context.Background(), c.base, out, llama.ConvertOptions{To: to, Type: dtype, Adapters: []llama.Adapter{{Path: filepath.Join(c.path, "adapter_model.safetensors")}}})
					if err != nil {
						t.Fatal(err)
					}
					merged := 0
					for name := range c.want {
						if strings.HasPrefix(name, "merged.") {
							merged++
						}
					}
					if len(r.Merged) != merged || merged == 0 {
						t.Errorf("%d matrices reported, want %d", len(r.Merged), merged)
					}
					bound := map[backend.DType]float64{backend.F32: 6e-8, backend.F16: 4.9e-4, backend.BF16: 3.91e-3}[dtype]
					for _, e := range r.Merged {
						if !(e.Max > 0 && e.Max <= bound && e.RMS > 0 && e.RMS <= e.Max) {
							t.Errorf("%+v, at most %v is possible", e, bound)
						}
					}
					if to == "safetensors" {
						c.compareMerged(t, filepath.Join(out, "model.safetensors"), r)
						if dtype == backend.F32 { // else the rest of the model is rounded too
							near(t, "logits", c.logits(t, open(t, out, llama.Options{})), c.want["logits"].F32, golden.TrainLogits)
						}
					}
				})
			}
		}
	}
}

// compareMerged compares a written file with the golden merged weights.
func (c adapterCase) compareMerged(t *testing.T, path string, r llama.ConvertReport) {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range r.Merged {
		x := f.Tensor(e.Name + ".weight")
		got, err := peft.Read(safetensors.Source{Type: x.Type, Shape: x.Shape, Data: x})
		if err != nil {
			t.Fatal(err)
		}
		near(t, e.Name, got, c.want["merged."+e.Name+".weight"].F32, golden.MergedWeights+1.01*e.Max)
	}
}

// rework writes an adapter with changes.
func rework(t *testing.T, path string, change func(*peft.Config, *peft.Module)) string {
	t.Helper()
	a, err := peft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for i := range a.Modules {
		change(&a.Config, &a.Modules[i])
	}
	out := t.TempDir()
	if err := peft.Write(out, a.Config, a.Modules); err != nil {
		t.Fatal(err)
	}
	return out
}

// scaled multiplies a tensor.
func scaled(t *testing.T, s safetensors.Source, f float32) safetensors.Source {
	t.Helper()
	values, err := peft.Read(s)
	if err != nil {
		t.Fatal(err)
	}
	for i := range values {
		values[i] *= f
	}
	return peft.Tensor(values, s.Shape...)
}

// TestAdapterScale: a scale of the caller's is a factor of B, several adapters
// are what merging one after the other is, and some layers may have none.
func TestAdapterScale(t *testing.T) {
	for _, c := range adapterCases(t) {
		t.Run(golden.Name(c.path), func(t *testing.T) {
			run := func(a ...llama.Adapter) []float32 {
				t.Helper()
				return c.logits(t, open(t, c.base, llama.Options{Adapters: a}))
			}
			half := rework(t, c.path, func(_ *peft.Config, m *peft.Module) { m.B = scaled(t, m.B, 0.5) })
			minus := rework(t, c.path, func(_ *peft.Config, m *peft.Module) { m.B = scaled(t, m.B, -1) })
			near(t, "scale 0.5", run(llama.Adapter{Path: c.path, Scale: 0.5}), run(llama.Adapter{Path: half}), golden.TrainLogits)
			near(t, "scale -1", run(llama.Adapter{Path: c.path, Scale: -1}), run(llama.Adapter{Path: minus}), golden.TrainLogits)
			some := rework(t, c.path, func(c *peft.Config, m *peft.Module) {
				c.Targets = nil
				if strings.Contains(m.Name, "v_proj") || strings.Contains(m.Name, ".0.mlp.up") {
					m.B = scaled(t, m.B, 3)
				}
			})
			if c.kind != "dora" {
				near(t, "sum", run(llama.Adapter{Path: half}, llama.Adapter{Path: half}), c.want["logits"].F32, golden.TrainLogits)
				near(t, "difference", run(llama.Adapter{Path: minus}, llama.Adapter{Path: c.path}), c.logits(t, open(t, c.base, llama.Options{})), golden.TrainLogits)
			}
			list := []llama.Adapter{{Path: some, Scale: 0.25}, {Path: c.path}, {Path: minus, Scale: 0.5}}
			out := filepath.Join(t.TempDir(), "hf")
			if _, err := llama.Convert(context.Background(), c.base, out, llama.ConvertOptions{To: "safetensors", Adapters: list}); err != nil {
				t.Fatal(err)
			}
			near(t, "three", run(list...), c.logits(t, open(t, out, llama.Options{})), golden.TrainLogits)
		})
	}
}

// TestAdapterBases: an adapter fits every format and type of its base. What
// quantised weights give with it is what their decoded values give.
func TestAdapterBases(t *testing.T) {
	for _, path := range append(golden.Glob(t, "models/*/model.gguf"), golden.Glob(t, "quant/models/*/*.gguf")...) {
		t.Run(golden.Name(path), func(t *testing.T) {
			_, info := floatsAs(t, path)
			for _, dora := range []bool{false, true} {
				adapter := randomAdapter(t, info.Config, dora)
				o := llama.Options{Precision: llama.PrecisionF32, Adapters: []llama.Adapter{{Path: adapter}}}
				c := adapterCase{ids: [][]int32{{1, 5, 9, 200, 17, 3, 3, 80}}}
				got := c.logits(t, open(t, path, o))
				plain := c.logits(t, open(t, path, llama.Options{Precision: llama.PrecisionF32}))
				if worst, _ := golden.MaxRelative(plain, got); !(worst > 1e-2) {
					t.Fatalf("the adapter changes nothing: %v", worst)
				}
				for _, to := range []string{"safetensors", "gguf"} {
					out := filepath.Join(t.TempDir(), targets[to])
					_, err := llama.Convert(context.Background(), path, out, llama.ConvertOptions{To: to, Type: backend.F32, Adapters: o.Adapters})
					if errors.Is(err, llama.ErrUnsupported) {
						continue // RoPE factors that the format cannot say
					}
					if err != nil {
						t.Fatal(err)
					}
					near(t, "merged to "+to, c.logits(t, open(t, out, llama.Options{Precision: llama.PrecisionF32})), got, golden.F32Logits/4)
				}
				o.Precision = llama.PrecisionAuto
				near(t, "auto", c.logits(t, open(t, path, o)), got, golden.AutoQuantLogits)
			}
		})
	}
}

// randomAdapter writes an adapter of some layers of a model, of mixed types.
func randomAdapter(t testing.TB, c llama.Config, dora bool) string {
	t.Helper()
	x := uint64(7)
	tensor := func(scale float32, shape ...int) safetensors.Source {
		n := 1
		for _, d := range shape {
			n *= d
		}
		values := make([]float32, n)
		for i := range values {
			x = x*6364136223846793005 + 1442695040888963407
			values[i] = scale * (float32(x>>40)/(1<<23) - 1)
		}
		return peft.Tensor(values, shape...)
	}
	config := peft.Config{Rank: 3, Alpha: 6, DoRA: dora, Ranks: []peft.Override{{Pattern: "down_proj", Value: 17}}}
	var modules []peft.Module
	for i := range c.Layers {
		for _, m := range []struct {
			name    string
			in, out int
		}{
			{"self_attn.q_proj", c.Dim, c.Heads * c.HeadDim}, {"self_attn.v_proj", c.Dim, c.KVHeads * c.HeadDim},
			{"mlp.gate_proj", c.Dim, c.HiddenDim}, {"mlp.down_proj", c.HiddenDim, c.Dim},
		} {
			name := fmt.Sprintf("model.layers.%d.%s", i, m.name)
			_, r, _ := config.Layer(name)
			p := peft.Module{Name: name, A: tensor(0.2, r, m.in), B: tensor(0.1, m.out, r)}
			if dora {
				p.Magnitude = tensor(0.5, m.out)
			}
			modules = append(modules, p)
		}
	}
	dir := t.TempDir()
	if err := peft.Write(dir, config, modules); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestAdapterSteps: decoding gives the bits of a prefill with adapters too, on
// sessions at once.
func TestAdapterSteps(t *testing.T) {
	for _, c := range adapterCases(t)[:3] {
		for _, p := range []llama.Precision{llama.PrecisionF32, llama.PrecisionAuto} {
			m := open(t, c.base, llama.Options{Precision: p, Adapters: []llama.Adapter{{Path: c.path}}})
			ids, vocab := c.ids[0], m.Config().Vocab
			want := scoreAll(t, session(t, m), ids)
			t.Run(golden.Name(c.path)+"/"+p.String(), func(t *testing.T) {
				for range 3 {
					t.Run("", func(t *testing.T) {
						t.Parallel()
						s := session(t, m)
						for n := 1; n <= len(ids); n++ {
							got, err := s.Logits(context.Background(), ids[:n])
							if err != nil {
								t.Fatal(err)
							}
							for i, x := range want[(n-1)*vocab : n*vocab] {
								if got[i] != x {
									t.Fatalf("position %d, token %d: %v, want %v", n, i, got[i], x)
								}
							}
						}
					})
				}
			})
		}
	}
}

// TestAdapterOutput: the output layer may have an adapter at run time; merging
// it would change the embedding of a tied model.
func TestAdapterOutput(t *testing.T) {
	for _, c := range adapterCases(t) {
		if c.kind != "lora" {
			continue
		}
		m := open(t, c.base, llama.Options{})
		cfg := m.Config()
		a, b := make([]float32, cfg.Dim), make([]float32, cfg.Vocab)
		a[0], b[3] = 1, 2
		dir := t.TempDir()
		err := peft.Write(dir, peft.Config{Rank: 1, Alpha: 1, Targets: []string{"lm_head"}},
			[]peft.Module{{Name: "lm_head", A: peft.Tensor(a, 1, cfg.Dim), B: peft.Tensor(b, cfg.Vocab, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		list := []llama.Adapter{{Path: dir}}
		plain, got := c.logits(t, m), c.logits(t, open(t, c.base, llama.Options{Adapters: list}))
		for i := range plain {
			if changed := plain[i] != got[i]; changed != (i%cfg.Vocab == 3) {
				t.Fatalf("token %d: %v became %v", i%cfg.Vocab, plain[i], got[i])
			}
		}
		out := filepath.Join(t.TempDir(), "hf")
		report, err := llama.Convert(context.Background(), c.base, out, llama.ConvertOptions{To: "safetensors", Adapters: list})
		if err != nil {
			t.Fatal(err)
		}
		if untied := strings.Contains(strings.Join(report.Warnings, "; "), "no longer tied"); untied != cfg.TiedEmbeddings {
			t.Errorf("tied %v, warnings %q", cfg.TiedEmbeddings, report.Warnings)
		}
		near(t, "merged", c.logits(t, open(t, out, llama.Options{})), got, golden.TrainLogits)
	}
}

// TestAdapterErrors: an adapter that does not fit names its file and tensor.
func TestAdapterErrors(t *testing.T) {
	c := adapterCases(t)[0]
	cut := func(s safetensors.Source, axis int) safetensors.Source { // one less
		values, err := peft.Read(s)
		if err != nil {
			t.Fatal(err)
		}
		shape := append([]int{}, s.Shape...)
		n := len(values) / shape[axis] * (shape[axis] - 1)
		shape[axis]--
		return peft.Tensor(values[:n], shape...)
	}
	const q = "layers.1.self_attn.q_proj"
	for what, a := range map[string]struct {
		path string
		want []string
	}{
		"in":    {rework(t, c.path, func(_ *peft.Config, m *peft.Module) { m.A = cut(m.A, 1) }), []string{"lora_A.weight", "has shape", "want ["}},
		"out":   {rework(t, c.path, func(c *peft.Config, m *peft.Module) { m.B = cut(m.B, 0); cutMagnitude(c, m, cut) }), []string{"lora_B.weight", "has shape", "want ["}},
		"layer": {rework(t, c.path, func(_ *peft.Config, m *peft.Module) { m.Name = strings.Replace(m.Name, "layers.1.", "layers.77.", 1) }), []string{"layers.77.", "does not have"}},
		"name": {rework(t, c.path, func(c *peft.Config, m *peft.Module) {
			c.Targets = nil
			m.Name = strings.Replace(m.Name, q, "layers.1.block_sparse_moe.gate", 1)
		}), []string{"block_sparse_moe.gate", "does not have"}},
		"gone": {filepath.Join(t.TempDir(), "gone"), []string{"gone", "cannot be opened"}},
		"base": {c.base, []string{"adapter_config.json", "is missing"}},
	} {
		_, err := llama.Open(context.Background(), c.base, llama.Options{Adapters: []llama.Adapter{{Path: c.path}, {Path: a.path}}})
		_, errC := llama.Convert(context.Background(), c.base, filepath.Join(t.TempDir(), "x"), llama.ConvertOptions{To: "gguf", Adapters: []llama.Adapter{{Path: a.path}}})
		_, errE := llama.Estimate(c.base, llama.Options{Adapters: []llama.Adapter{{Path: a.path}}})
		for _, err := range []error{err, errC, errE} {
			for _, part := range append(a.want, a.path) {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v, want %q", what, err, part)
				}
			}
		}
	}
	err := llama.Options{Adapters: []llama.Adapter{{}, {Path: "x", Scale: float32(math.Inf(1))}}}.Validate()
	for _, part := range []string{"Adapters[0]", "Adapters[1].Scale"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Error(err)
		}
	}
	o := llama.Options{Adapters: []llama.Adapter{{Path: c.path}}}
	est, err := llama.Estimate(c.base, o)
	if err != nil {
		t.Fatal(err)
	}
	o.MemoryLimit = est.Total() - 1
	if _, err := llama.Open(context.Background(), c.base, o); !errors.Is(err, llama.ErrMemory) {
		t.Error(err)
	}
	// A merge whose numbers do not fit the type.
	huge := rework(t, c.path, func(_ *peft.Config, m *peft.Module) {
		m.B = scaled(t, m.B, 1e7)
		if m.Magnitude.Data != nil {
			m.Magnitude = scaled(t, m.Magnitude, 1e7)
		}
	})
	out := filepath.Join(t.TempDir(), "x")
	_, err = llama.Convert(context.Background(), c.base, out, llama.ConvertOptions{To: "safetensors", Type: backend.F16, Adapters: []llama.Adapter{{Path: huge}}})
	if err == nil || !strings.Contains(err.Error(), "F16 does not hold") || exists(out) {
		t.Error(err)
	}
	if _, err := json.Marshal(est); err != nil {
		t.Error(err)
	}
}

func cutMagnitude(c *peft.Config, m *peft.Module, cut func(safetensors.Source, int) safetensors.Source) {
	if c.DoRA {
		m.Magnitude = cut(m.Magnitude, 0)
	}
}

// TestAdapterFS opens an adapter of another file system.
func TestAdapterFS(t *testing.T) {
	c := adapterCases(t)[0]
	root, name := os.DirFS(filepath.Dir(c.path)), filepath.Base(c.path)
	m, err := llama.OpenFS(context.Background(), os.DirFS(c.base), ".", llama.Options{Adapters: []llama.Adapter{{FS: root, Path: name}}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	near(t, "logits", c.logits(t, m), c.want["logits"].F32, golden.TrainLogits)
}
