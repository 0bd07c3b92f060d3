package peft_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

func open(t *testing.T, path string) *peft.Adapter {
	t.Helper()
	a, err := peft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// TestGolden reads what PEFT wrote, and writes the same bytes.
func TestGolden(t *testing.T) {
	for _, dir := range golden.Glob(t, "train/*/*/adapter_config.json") {
		dir = filepath.Dir(dir)
		t.Run(golden.Name(dir), func(t *testing.T) {
			kind := filepath.Base(dir)
			var expect map[string]json.RawMessage
			golden.JSON(t, filepath.Join(filepath.Dir(dir), "expect.json"), &expect)
			var want struct {
				R       int
				Scale   float64
				Targets []string
			}
			if err := json.Unmarshal(expect[kind], &want); err != nil {
				t.Fatal(err)
			}
			a := open(t, filepath.Join(dir, "adapter_model.safetensors"))
			if a.Config.Rank != want.R || !slices.Equal(a.Config.Targets, want.Targets) || a.Config.DoRA != (kind == "dora") || a.Config.RSLoRA != (kind == "rslora") {
				t.Errorf("%+v, want %+v", a.Config, want)
			}
			tensors := golden.Safetensors(t, filepath.Join(dir, "adapter_model.safetensors"))
			for _, m := range a.Modules {
				if m.Rank != want.R || math.Abs(m.Scale-want.Scale) > 1e-12 {
					t.Errorf("%s: rank %d, scale %v, want %+v", m.Name, m.Rank, m.Scale, want)
				}
				for _, s := range []safetensors.Source{m.A, m.B, m.Magnitude} {
					if s.Data == nil {
						continue
					}
					got, err := peft.Read(s)
					if err != nil || !slices.Equal(got, tensors[s.Name].F32) {
						t.Errorf("%s: other numbers (%v)", s.Name, err)
					}
					delete(tensors, s.Name)
				}
			}
			if len(tensors) > 0 {
				t.Errorf("not read: %v", tensors)
			}
			out := filepath.Join(t.TempDir(), "new", "adapter")
			if err := peft.Write(out, a.Config, a.Modules); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"adapter_config.json", "adapter_model.safetensors"} {
				got, err := os.ReadFile(filepath.Join(out, name))
				want, err2 := os.ReadFile(filepath.Join(dir, name))
				if err = errors.Join(err, err2); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s is not what PEFT wrote (%v)", name, err)
				}
			}
		})
	}
}

// small is an adapter of one layer [2, 3], of rank 1.
func small(dora bool) (peft.Config, []peft.Module) {
	c := peft.Config{Rank: 1, Alpha: 2, DoRA: dora, Targets: []string{"q_proj"}}
	m := peft.Module{Name: "model.layers.0.self_attn.q_proj", A: peft.Tensor([]float32{1, 2, 3}, 1, 3), B: peft.Tensor([]float32{4, 5}, 2, 1)}
	if dora {
		m.Magnitude = peft.Tensor([]float32{6, 7}, 2)
	}
	return c, []peft.Module{m}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	c, m := small(true)
	c.Ranks = []peft.Override{{"z.q_proj", 3}, {`model\.layers\.[0-9]+\.self_attn\.q_proj`, 1}, {"q_proj", 2}}
	c.Alphas = []peft.Override{{"layers.0.self_attn.q_proj", 2.5}}
	c.Dropout, c.BaseModel = 0.05, "a/b <c>"
	if err := peft.Write(dir, c, m); err != nil {
		t.Fatal(err)
	}
	a := open(t, dir)
	got, err := a.Config.JSON()
	want, err2 := c.JSON()
	if err := errors.Join(err, err2); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the settings came back as %s\nwant %s (%v)", got, want, err)
	}
	if m := a.Modules[0]; m.Scale != 2.5 || m.In != 3 || m.Out != 2 || m.Rank != 1 {
		t.Errorf("%+v", m)
	}
	a.Config.Other = nil
	if !reflect.DeepEqual(a.Config, c) {
		t.Errorf("%+v, want %+v", a.Config, c)
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("files: %v", files)
	}
	// What does not fit is not written, and what was there stays.
	for what, change := range map[string]func(*peft.Config, *peft.Module){
		"rank":          func(c *peft.Config, _ *peft.Module) { c.Ranks = nil; c.Rank = 2 },
		"target":        func(c *peft.Config, _ *peft.Module) { c.Targets = []string{"k_proj"} },
		"use_dora":      func(c *peft.Config, _ *peft.Module) { c.DoRA = false },
		"is missing":    func(_ *peft.Config, m *peft.Module) { m.B = safetensors.Source{} },
		"shape [3 2]":   func(_ *peft.Config, m *peft.Module) { m.B.Shape = []int{3, 2} },
		"shape [3]":     func(_ *peft.Config, m *peft.Module) { m.Magnitude.Shape = []int{3} },
		"lora_alpha":    func(c *peft.Config, _ *peft.Module) { c.Alpha = math.NaN() },
		"lora_dropout":  func(c *peft.Config, _ *peft.Module) { c.Dropout = 1 },
		"copying":       func(_ *peft.Config, m *peft.Module) { m.A.Data = strings.NewReader("short") },
		"alpha_pattern": func(c *peft.Config, _ *peft.Module) { c.Alphas = []peft.Override{{"a", math.Inf(1)}} },
	} {
		c, m := c, slices.Clone(m)
		change(&c, &m[0])
		if err := peft.Write(dir, c, m); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b := open(t, dir); len(b.Modules) != 1 || b.Modules[0].Rank != 1 {
		t.Error("the old adapter is gone")
	}
}

// configText is a valid file with some keys set to other values; "" drops one.
func configText(changes map[string]string) string {
	all := map[string]string{"peft_type": `"LORA"`, "r": "1", "lora_alpha": "2", "target_modules": `["q_proj"]`}
	for k, v := range changes {
		all[k] = v
	}
	var parts []string
	for k, v := range all {
		if v != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", k, v))
		}
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ",") + "}"
}

func TestConfig(t *testing.T) {
	for key, values := range map[string][]string{ // each refused, by name
		"peft_type": {"", "null", `"IA3"`, `"ADALORA"`}, "r": {"", "0", "-1", "1.5", "null", `"8"`, "1e300", "9999999"}, "lora_alpha": {"", "null", `"x"`},
		"target_modules": {"3", "[1]", `"(a"`, `"` + strings.Repeat("a", 9000) + `"`}, "bias": {`"some"`, "null"},
		"fan_in_fan_out": {"true"}, "modules_to_save": {`"lm_head"`, "[1]"}, "lora_bias": {"1"}, "use_dora": {"1", "null"}, "use_rslora": {`"yes"`},
		"init_lora_weights": {`"pissa"`, `"pissa_niter_4"`, `"olora"`, `"loftq"`, `"corda"`}, "layer_replication": {"[[0,4]]"}, "use_qalora": {"true"},
		"target_parameters": {`["a"]`}, "trainable_token_indices": {"[-1]", "[1,1]", `["a"]`, "7", `{"a":1}`}, "alora_invocation_tokens": {"[1]"}, "made_up": {"1", `"x"`, "[0]", `{"a":0}`},
		"rank_pattern": {`{"q":0}`, `{"q":1.5}`, `{"q":"x"}`, "[]", `{"(":1}`}, "alpha_pattern": {`{"q":null}`, `{"q[":1}`}, "lora_dropout": {"1", "-0.5", `"x"`},
		"base_model_name_or_path": {"3"},
	} {
		for _, v := range values {
			_, err := peft.ParseConfig([]byte(configText(map[string]string{key: v})))
			if err == nil || !strings.Contains(err.Error(), key) && !(key == "r" && strings.Contains(err.Error(), "r is")) {
				t.Errorf("%s: %s: %v", key, v, err)
			}
		}
	}
	for key, values := range map[string][]string{
		"made_up": {"null", "false", `""`, "[]", "{ }", "0"}, "modules_to_save": {"null", "[]", `["lm_head"]`}, "target_modules": {"null", `"all-linear"`, `".*_proj"`, `[]`, `"a{1000}"`, `"(?=x)"`, `"(?P<part>q|k)_proj"`, `"` + strings.Repeat("a", 8000) + `"`},
		"bias": {`"none"`, `"all"`, `"lora_only"`}, "lora_bias": {"true", "false"}, "trainable_token_indices": {"null", "[]", "[1,2]", `{"lm_head":[3]}`},
		"init_lora_weights": {"true", "false", `"gaussian"`}, "megatron_core": {`"megatron.core"`}, "qalora_group_size": {"16"}, "inference_mode": {"true", "false"},
		"layers_to_transform": {"[0,1]"}, "lora_dropout": {"0.05"}, "task_type": {`"CAUSAL_LM"`}, "rank_pattern": {"null", "{}", `{"a|b":3}`}, "lora_alpha": {"16", "16.5", "-1"},
	} {
		for _, v := range values {
			if _, err := peft.ParseConfig([]byte(configText(map[string]string{key: v}))); err != nil {
				t.Errorf("%s: %s: %v", key, v, err)
			}
		}
	}
	for what, text := range map[string]string{
		"object": "[1]", "too early": `{"r":1`, "follows": configText(nil) + "{}", "twice": `{"r":1,"r":2}`, "too many": strings.Repeat(" ", 2<<20), "unexpected 'N'": `{"r":NaN}`,
		"byte 10004": `{"x":` + strings.Repeat("[", 20000),
	} {
		if _, err := peft.ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := peft.ParseConfig([]byte(`{"bias":"some","lora_bias":3,"r":0}`))
	for _, part := range []string{`"bias"`, `"lora_bias"`, `"peft_type" is missing`, `"lora_alpha" is missing`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("not all violations are listed: %v", err)
		}
	}
}

// TestLayer: PEFT's rules of names.
func TestLayer(t *testing.T) {
	c := peft.Config{Rank: 8, Alpha: 16, Targets: []string{"q_proj", "mlp.up_proj", "lm_head"},
		Ranks:  []peft.Override{{`.*\.1\..*`, 4}, {"q_proj", 2}, {"up.proj", 3}},
		Alphas: []peft.Override{{"layers.0.self_attn.q_proj", 6}, {"proj", 1}}}
	for _, w := range []struct {
		name   string
		target bool
		rank   int
		scale  float64
	}{
		{"model.layers.0.self_attn.q_proj", true, 2, 3}, {"model.layers.1.self_attn.q_proj", true, 4, 4}, {"model.layers.10.self_attn.q_proj", true, 2, 8},
		{"model.layers.0.mlp.up_proj", true, 3, 16.0 / 3}, {"up_proj", false, 3, 16.0 / 3}, {"lm_head", true, 8, 2}, {"my_q_proj", false, 8, 2}, {"x.my_q_proj", false, 8, 2},
	} {
		if target, rank, scale := c.Layer(w.name); target != w.target || rank != w.rank || math.Abs(scale-w.scale) > 1e-12 {
			t.Errorf("%s: %v, rank %d, scale %v, want %+v", w.name, target, rank, scale, w)
		}
	}
	for pattern, want := range map[string]string{"all-linear": "a.b", `a\..*`: "a.b", "": "lm_head"} {
		c := peft.Config{Rank: 1, TargetPattern: pattern}
		ok, _, _ := c.Layer(want)
		other, _, _ := c.Layer("x.a.b")
		head, _, _ := c.Layer("lm_head")
		if !ok || other == (pattern == `a\..*`) || head != (pattern == "") {
			t.Errorf("%q: %v, %v, %v", pattern, ok, other, head)
		}
	}
}

// files is a folder with a small adapter.
func files(t testing.TB, dora bool, change func(list []safetensors.Source) []safetensors.Source, config string) fstest.MapFS {
	t.Helper()
	_, modules := small(dora)
	m := modules[0]
	var list []safetensors.Source
	for _, s := range []struct {
		name string
		safetensors.Source
	}{{"lora_A.weight", m.A}, {"lora_B.weight", m.B}, {"lora_magnitude_vector", m.Magnitude}} {
		if s.Data != nil {
			s.Name = "base_model.model." + m.Name + "." + s.name
			list = append(list, s.Source)
			list[len(list)-1].Name = s.Name
		}
	}
	if change != nil {
		list = change(list)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, list, nil); err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"adapter_model.safetensors": {Data: b.Bytes()}, "adapter_config.json": {Data: []byte(config)}}
}

// TestHostile: each error names the file, and the tensor where it is of one.
func TestHostile(t *testing.T) {
	const a, b = "model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight"
	plain, dora := configText(nil), configText(map[string]string{"use_dora": "true"})
	one := func(x float32) safetensors.Source { return peft.Tensor([]float32{x}, 1) }
	named := func(name string, s safetensors.Source) func([]safetensors.Source) []safetensors.Source {
		s.Name = name
		return func(l []safetensors.Source) []safetensors.Source { return append(l, s) }
	}
	set := func(i int, s safetensors.Source) func([]safetensors.Source) []safetensors.Source {
		return func(l []safetensors.Source) []safetensors.Source { s.Name = l[i].Name; l[i] = s; return l }
	}
	for what, c := range map[string]struct {
		fs   fstest.MapFS
		want []string
	}{
		"no A":         {files(t, false, func(l []safetensors.Source) []safetensors.Source { return l[1:] }, plain), []string{a, "missing"}},
		"no B":         {files(t, false, func(l []safetensors.Source) []safetensors.Source { return l[:1] }, plain), []string{b, "missing"}},
		"no tensors":   {files(t, false, func(l []safetensors.Source) []safetensors.Source { return nil }, plain), []string{"no adapter"}},
		"no magnitude": {files(t, false, nil, dora), []string{"lora_magnitude_vector", "missing"}},
		"magnitude":    {files(t, true, nil, plain), []string{"lora_magnitude_vector", "use_dora"}},
		"two spellings": {files(t, true, named("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight", one(1)), dora),
			[]string{"twice"}},
		"rank of A": {files(t, false, set(0, peft.Tensor(make([]float32, 6), 2, 3)), plain), []string{a, "rank", "1", "[2 3]"}},
		"rank of B": {files(t, false, set(1, peft.Tensor(make([]float32, 6), 2, 3)), plain), []string{b, "rank", "1", "[2 3]"}},
		"vector":    {files(t, false, set(0, peft.Tensor(make([]float32, 3), 3)), plain), []string{a, "shape [3]"}},
		"scalar":    {files(t, false, set(0, peft.Tensor(make([]float32, 1))), plain), []string{a, "shape []"}},
		"empty":     {files(t, false, set(1, peft.Tensor(nil, 0, 1)), plain), []string{b, "shape [0 1]"}},
		"type":      {files(t, false, set(0, safetensors.Source{Type: backend.I32, Shape: []int{1, 3}, Data: bytes.NewReader(make([]byte, 12))}), plain), []string{a, "type"}},
		"config":    {files(t, false, nil, configText(map[string]string{"r": "2"})), []string{a, "rank", "2"}},
		"target":    {files(t, false, nil, configText(map[string]string{"target_modules": `["k_proj"]`})), []string{a, "target_modules"}},
		"embedding": {files(t, false, named("base_model.model.model.embed_tokens.lora_embedding_A", one(1)), plain), []string{"lora_embedding_A", "shape [1]"}},
		"whole":     {files(t, false, named("base_model.model.model.norm.weight", one(1)), plain), []string{"model.norm.weight", "modules_to_save"}},
		"bias":      {files(t, false, named("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", one(1)), plain), []string{"lora_B.bias", "lora_bias"}},
		"own bias":  {files(t, false, named("base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias", one(1)), plain), []string{"base_layer.bias", "bias is none"}},
		"no bias":   {files(t, false, nil, configText(map[string]string{"lora_bias": "true"})), []string{"lora_B.bias", "missing"}},
		"rows":      {files(t, false, named("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", peft.Tensor(make([]float32, 6), 2, 3)), configText(map[string]string{"trainable_token_indices": "[1]"})), []string{"trainable_tokens_delta", "[2 3]"}},
		"slow":      {files(t, false, nil, configText(map[string]string{"target_modules": `"(?=x)?(([a-z._]|[a-z0-9._])*)*!"`})), []string{"too long"}},
		"other":     {files(t, false, named("base_model.model.x.lora_E", one(1)), plain), []string{"lora_E", "not supported"}},
		"prefix":    {files(t, false, named("model.x.lora_A.weight", one(1)), plain), []string{"model.x.lora_A.weight", "base_model.model."}},
		"nameless":  {files(t, false, named("base_model.model..lora_A.weight", one(1)), plain), []string{"base_model.model..lora_A.weight"}},
		"infinite":  {files(t, false, nil, configText(map[string]string{"lora_alpha": "1e39"})), []string{"lora_alpha"}},
		"not json":  {files(t, false, nil, "GGUF"), []string{"adapter_config.json"}},
		"no config": {fstest.MapFS{"adapter_model.safetensors": {}}, []string{"adapter_config.json", "missing"}},
		"no file":   {fstest.MapFS{"adapter_config.json": {Data: []byte(plain)}}, []string{"adapter_model.safetensors"}},
		"bin":       {fstest.MapFS{"adapter_config.json": {Data: []byte(plain)}, "adapter_model.bin": {}}, []string{"adapter_model.bin", "safetensors"}},
		"not tensors": {fstest.MapFS{"adapter_config.json": {Data: []byte(plain)}, "adapter_model.safetensors": {Data: []byte("GGUF1234")}},
			[]string{"adapter_model.safetensors"}},
		"large config": {fstest.MapFS{"adapter_config.json": {Data: bytes.Repeat([]byte(" "), 2<<20)}, "adapter_model.safetensors": {}}, []string{"adapter_config.json", "larger"}},
	} {
		in := fstest.MapFS{}
		for name, f := range c.fs {
			in["x/y/"+name] = f
		}
		_, err := peft.OpenFS(in, "x/y")
		for _, part := range append(c.want, "x/y/adapter_") {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", what, err, part)
			}
		}
		var p *peft.Error
		var s *safetensors.Error
		if !errors.As(err, &p) && !errors.As(err, &s) {
			t.Errorf("%s: %T", what, err)
		}
	}
}

// TestNames: an adapter is named by its folder or by its file; other names are refused with
// what they are.
func TestNames(t *testing.T) {
	good := files(t, true, nil, configText(map[string]string{"use_dora": "true"}))
	for _, name := range []string{".", "adapter_model.safetensors"} {
		a, err := peft.OpenFS(good, name)
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
	for name, want := range map[string]string{"gone": "gone", "adapter_config.json": "is no adapter", "a.gguf": "GGUF"} {
		good["a.gguf"] = &fstest.MapFile{}
		if _, err := peft.OpenFS(good, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := peft.Open(filepath.Join(t.TempDir(), "gone")); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestTruncated: a file that is cut anywhere gives an error, not a panic.
func TestTruncated(t *testing.T) {
	whole := files(t, true, nil, configText(map[string]string{"use_dora": "true"}))
	data := whole["adapter_model.safetensors"].Data
	for n := range data {
		whole["adapter_model.safetensors"] = &fstest.MapFile{Data: data[:n]}
		if _, err := peft.OpenFS(whole, "."); err == nil {
			t.Fatalf("%d of %d bytes open", n, len(data))
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(configText(nil))
	f.Add(configText(map[string]string{"rank_pattern": `{"a.*":3,"b":2}`, "target_modules": `".*q"`, "use_dora": "true"}))
	for _, path := range golden.Glob(f, "train/*/*/adapter_config.json") {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := peft.ParseConfig([]byte(text))
		if err != nil {
			return
		}
		c.Layer("model.layers.0.self_attn.q_proj")
		b, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := peft.ParseConfig(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if b2, err := again.JSON(); err != nil || !bytes.Equal(b, b2) {
			t.Fatalf("%s\n%s\n%v", b, b2, err)
		}
	})
}
