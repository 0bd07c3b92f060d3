package checkpoint

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// maxJSON bounds config files; the real ones have a few kilobytes.
const maxJSON = 8 << 20

// hfConfig is config.json, in both spellings of the RoPE settings. Fields that
// do not change the numbers are not listed.
type hfConfig struct {
	ModelType       string           `json:"model_type"`
	Architectures   []string         `json:"architectures"`
	HiddenSize      int              `json:"hidden_size"`
	Intermediate    int              `json:"intermediate_size"`
	Layers          int              `json:"num_hidden_layers"`
	Heads           int              `json:"num_attention_heads"`
	KVHeads         *int             `json:"num_key_value_heads"`
	HeadDim         *int             `json:"head_dim"`
	Vocab           int              `json:"vocab_size"`
	Context         int              `json:"max_position_embeddings"`
	NormEps         float64          `json:"rms_norm_eps"`
	RopeTheta       *float64         `json:"rope_theta"`
	RopeScaling     *hfRope          `json:"rope_scaling"`
	RopeParameters  *hfRope          `json:"rope_parameters"`
	Tied            bool             `json:"tie_word_embeddings"`
	AttentionBias   bool             `json:"attention_bias"`
	MLPBias         bool             `json:"mlp_bias"`
	Act             string           `json:"hidden_act"`
	EOS             json.RawMessage  `json:"eos_token_id"`
	Quantization    *json.RawMessage `json:"quantization_config"`
	PartialRotary   *float64         `json:"partial_rotary_factor"`
	NumLocalExperts int              `json:"num_local_experts"`
}

// hfRope is the value of rope_scaling (old) or rope_parameters (new).
type hfRope struct {
	Type          string   `json:"type"`
	RopeType      string   `json:"rope_type"`
	Theta         *float64 `json:"rope_theta"`
	Factor        float64  `json:"factor"`
	Low           float64  `json:"low_freq_factor"`
	High          float64  `json:"high_freq_factor"`
	Original      int      `json:"original_max_position_embeddings"`
	PartialRotary *float64 `json:"partial_rotary_factor"`
}

// openHF opens a Hugging Face folder.
func openHF(dir fs.FS, shown string) (*Checkpoint, error) {
	c := &Checkpoint{Format: FormatHF, Path: shown, dir: dir, Tensors: map[string]*Tensor{}}
	var raw hfConfig
	if err := readJSON(dir, "config.json", shown, &raw); err != nil {
		return nil, err
	}
	c.Architecture = raw.ModelType
	var err error
	if c.Config, err = raw.resolve(); err == nil {
		err = c.Config.Validate()
	}
	if err != nil {
		return nil, &FileError{File: path.Join(shown, "config.json"), Err: err}
	}
	if err := c.addEOS("config.json", raw.EOS); err != nil {
		return nil, err
	}
	if err := c.generationConfig(dir, shown); err != nil {
		return nil, err
	}
	name := "model.safetensors.index.json"
	if _, err := fs.Stat(dir, name); err != nil {
		name = "model.safetensors"
		if _, err := fs.Stat(dir, name); err != nil {
			return nil, Errorf(shown, "", "has neither model.safetensors nor model.safetensors.index.json")
		}
	}
	f, err := safetensors.OpenFS(dir, name)
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, f)
	c.addHF(f)
	if c.Tokenizer, err = tokenizer.OpenFS(dir, "."); err != nil {
		if _, missing := fs.Stat(dir, "tokenizer.json"); missing == nil {
			c.Close()
			return nil, &FileError{File: shown, Reason: "tokenizer", Err: err}
		}
		c.problem("no tokenizer: %v", err)
	}
	c.CheckTokenizer()
	c.ChatTemplate = hfChatTemplate(dir)
	return c, nil
}

// hfChatTemplate returns the chat template of its own file or of
// tokenizer_config.json, where it is a string or a list of named ones; empty
// without one.
func hfChatTemplate(dir fs.FS) string {
	if b, err := vfs.ReadFile(dir, "chat_template.jinja", maxJSON); err == nil {
		return string(b)
	}
	var config struct {
		Template json.RawMessage `json:"chat_template"`
	}
	if b, err := vfs.ReadFile(dir, "tokenizer_config.json", maxJSON); err != nil || json.Unmarshal(b, &config) != nil {
		return ""
	}
	var one string
	if json.Unmarshal(config.Template, &one) == nil {
		return one
	}
	var named []struct{ Name, Template string }
	if json.Unmarshal(config.Template, &named) != nil {
		return ""
	}
	for _, t := range named {
		if t.Name == "default" {
			return t.Template
		}
	}
	return ""
}

func (c *Checkpoint) addHF(f *safetensors.File) {
	want := map[string]bool{}
	for _, p := range Parameters(c.Config) {
		want[p.Name] = true
	}
	for _, t := range f.Tensors() {
		c.Files = append(c.Files, TensorInfo{t.Name, t.Type, t.Shape, t.Bytes})
		switch {
		case want[t.Name]:
			ft := &Tensor{File: c.Path, Name: t.Name, Type: t.Type, Shape: t.Shape}
			ft.Read = PlainRows(t, ft.RowBytes())
			c.add(t.Name, ft)
		case strings.HasSuffix(t.Name, "rotary_emb.inv_freq"): // a table older files carry
		case t.Name == "lm_head.weight" && c.Config.TiedEmbeddings: // a second copy
		default:
			c.problem("tensor %s is not part of a Llama model and is not used", t.Name)
		}
	}
	c.Problems = append(c.Problems, f.Warnings()...)
}

// resolve turns what the file says into a Config.
func (h *hfConfig) resolve() (Config, error) {
	if h.ModelType != "llama" {
		return Config{}, fmt.Errorf("model_type %q is %w; only llama is", h.ModelType, backend.ErrUnsupported)
	}
	switch {
	case h.Act != "" && h.Act != "silu":
		return Config{}, fmt.Errorf("hidden_act %q is %w; only silu is", h.Act, backend.ErrUnsupported)
	case h.Quantization != nil && string(*h.Quantization) != "null":
		return Config{}, fmt.Errorf("quantization_config: quantised safetensors are %w", backend.ErrUnsupported)
	case h.PartialRotary != nil && *h.PartialRotary != 1:
		return Config{}, fmt.Errorf("partial_rotary_factor %v is %w", *h.PartialRotary, backend.ErrUnsupported)
	case h.NumLocalExperts > 0:
		return Config{}, fmt.Errorf("a mixture of %d experts is %w", h.NumLocalExperts, backend.ErrUnsupported)
	}
	c := Config{
		Layers: h.Layers, Dim: h.HiddenSize, Heads: h.Heads, KVHeads: h.Heads, HiddenDim: h.Intermediate,
		Vocab: h.Vocab, Context: h.Context, NormEps: h.NormEps, RopeTheta: 10000,
		TiedEmbeddings: h.Tied, AttentionBias: h.AttentionBias, AttentionOutputBias: h.AttentionBias, MLPBias: h.MLPBias,
	}
	if h.KVHeads != nil {
		c.KVHeads = *h.KVHeads
	}
	switch {
	case h.HeadDim != nil:
		c.HeadDim = *h.HeadDim
	case h.Heads > 0:
		c.HeadDim = h.HiddenSize / h.Heads
	}
	rope := h.RopeScaling
	if h.RopeTheta != nil {
		c.RopeTheta = *h.RopeTheta
	}
	if h.RopeParameters != nil {
		rope = h.RopeParameters
	}
	if rope == nil {
		return c, nil
	}
	if rope.Theta != nil {
		c.RopeTheta = *rope.Theta
	}
	if rope.PartialRotary != nil && *rope.PartialRotary != 1 {
		return Config{}, fmt.Errorf("partial_rotary_factor %v is %w", *rope.PartialRotary, backend.ErrUnsupported)
	}
	c.RopeScaling = rope.resolve()
	return c, nil
}

func (r *hfRope) resolve() RopeScaling {
	kind := r.RopeType
	if kind == "" {
		kind = r.Type
	}
	switch kind {
	case "", "default":
		return RopeScaling{}
	case "linear":
		return RopeScaling{Type: "linear", Factor: r.Factor}
	case "llama3":
		return RopeScaling{Type: "llama3", Factor: r.Factor, LowFreqFactor: r.Low, HighFreqFactor: r.High, OriginalContext: r.Original}
	}
	return RopeScaling{Type: kind} // refused by name in Validate
}

// generationConfig reads sampling settings and stop tokens, where the file is.
func (c *Checkpoint) generationConfig(dir fs.FS, shown string) error {
	if _, err := fs.Stat(dir, "generation_config.json"); err != nil {
		return nil
	}
	var g struct {
		EOS           json.RawMessage `json:"eos_token_id"`
		DoSample      *bool           `json:"do_sample"`
		Temperature   *float32        `json:"temperature"`
		TopK          *int            `json:"top_k"`
		TopP          *float32        `json:"top_p"`
		MinP          *float32        `json:"min_p"`
		RepeatPenalty *float32        `json:"repetition_penalty"`
	}
	if err := readJSON(dir, "generation_config.json", shown, &g); err != nil {
		return err
	}
	if err := c.addEOS("generation_config.json", g.EOS); err != nil {
		return err
	}
	if g.DoSample == nil && g.Temperature == nil && g.TopP == nil && g.TopK == nil {
		return nil // says nothing about sampling
	}
	p := &sample.Params{}
	if g.DoSample != nil && *g.DoSample {
		p.Temperature = 1
		set(&p.Temperature, g.Temperature)
		set(&p.TopK, g.TopK)
		set(&p.TopP, g.TopP)
		set(&p.MinP, g.MinP)
	}
	set(&p.RepeatPenalty, g.RepeatPenalty)
	if err := p.Validate(); err != nil {
		return &FileError{File: path.Join(shown, "generation_config.json"), Err: err}
	}
	c.Sampling = p
	return nil
}

func set[T any](dst, src *T) {
	if src != nil {
		*dst = *src
	}
}

// addEOS adds stop tokens: a number, a list or null.
func (c *Checkpoint) addEOS(file string, raw json.RawMessage) error {
	var (
		one  *int32
		list []int32
	)
	if len(raw) > 0 && json.Unmarshal(raw, &one) != nil {
		if json.Unmarshal(raw, &list) != nil {
			return Errorf(path.Join(c.Path, file), "", "eos_token_id is %.40s, want a number or a list of numbers", raw)
		}
	} else if one != nil {
		list = []int32{*one}
	}
	for _, id := range list {
		if id < 0 || int(id) >= c.Config.Vocab {
			return Errorf(path.Join(c.Path, file), "", "eos_token_id %d is outside the vocabulary of %d", id, c.Config.Vocab)
		}
	}
	c.eos = append(c.eos, list...)
	return nil
}

// readJSON decodes a file of the folder.
func readJSON(dir fs.FS, name, shown string, v any) error {
	b, err := vfs.ReadFile(dir, name, maxJSON)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return &FileError{File: path.Join(shown, name), Reason: "cannot be read", Err: err}
	}
	return nil
}
