package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/chat"
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
	HiddenSize      whole            `json:"hidden_size"`
	Intermediate    whole            `json:"intermediate_size"`
	Layers          whole            `json:"num_hidden_layers"`
	Heads           whole            `json:"num_attention_heads"`
	KVHeads         *whole           `json:"num_key_value_heads"`
	HeadDim         *whole           `json:"head_dim"`
	Vocab           whole            `json:"vocab_size"`
	Context         whole            `json:"max_position_embeddings"`
	MaxSequence     *whole           `json:"max_sequence_length"` // what older files call the context
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
	NumLocalExperts whole            `json:"num_local_experts"`
	OriginalContext *whole           `json:"original_max_position_embeddings"` // stronger than RoPE's
	hfFamily
}

// hfRope is the value of rope_scaling (old) or rope_parameters (new).
type hfRope struct {
	Type          string   `json:"type"`
	RopeType      string   `json:"rope_type"`
	Theta         *float64 `json:"rope_theta"`
	Factor        float64  `json:"factor"`
	Low           float64  `json:"low_freq_factor"`
	High          float64  `json:"high_freq_factor"`
	Original      whole    `json:"original_max_position_embeddings"`
	PartialRotary *float64 `json:"partial_rotary_factor"`
	hfLongRope
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
	c.noteWindow()
	c.noteRope(&raw)
	if err := c.addEOS("config.json", raw.EOS); err != nil {
		return nil, err
	}
	if err := c.generationConfig(dir, shown); err != nil {
		return nil, err
	}
	name, err := c.weightsFile(dir)
	if err != nil {
		return nil, err
	}
	f, err := safetensors.OpenFS(dir, name)
	if err != nil {
		return nil, err
	}
	c.closers = append(c.closers, f)
	if err := c.addHF(f); err != nil {
		c.Close()
		return nil, err
	}
	if c.Tokenizer, err = tokenizer.OpenFS(dir, "."); err != nil {
		if _, missing := fs.Stat(dir, "tokenizer.json"); missing == nil {
			c.Close()
			return nil, &FileError{File: shown, Reason: "tokenizer", Err: err}
		}
		c.problem("no tokenizer: %v", err)
	}
	c.CheckTokenizer()
	if err := c.hfChatTemplates(dir); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// templateFolder holds templates beside the default one, a file for each.
const templateFolder = "additional_chat_templates"

// hfChatTemplates reads the chat templates: those of files of their own, else those of
// tokenizer_config.json, where there is a string or a list of named ones.
func (c *Checkpoint) hfChatTemplates(dir fs.FS) error {
	c.ChatTemplates = map[string]string{}
	read := func(name, file string) error {
		b, err := vfs.ReadFile(dir, file, maxJSON)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return &FileError{File: path.Join(c.Path, file), Reason: "cannot be read", Err: err}
		}
		c.ChatTemplates[name] = string(b)
		return nil
	}
	if err := read(chat.DefaultTemplate, "chat_template.jinja"); err != nil {
		return err
	}
	more, err := fs.Glob(dir, templateFolder+"/*.jinja")
	if err != nil {
		return err
	}
	for _, file := range more {
		if err := read(strings.TrimSuffix(path.Base(file), ".jinja"), file); err != nil {
			return err
		}
	}
	c.templatesInFiles = len(c.ChatTemplates) > 0
	var config struct {
		Template json.RawMessage `json:"chat_template"`
	}
	if _, err := fs.Stat(dir, "tokenizer_config.json"); err != nil {
		return nil
	}
	if err := readJSON(dir, "tokenizer_config.json", c.Path, &config); err != nil {
		return err
	}
	if len(config.Template) == 0 || string(config.Template) == "null" {
		return nil
	}
	if len(c.ChatTemplates) > 0 {
		c.problem("the chat templates are those of files of their own, as other readers have it; tokenizer_config.json has some too")
		return nil
	}
	return c.configTemplates(config.Template)
}

// configTemplates reads the value of chat_template.
func (c *Checkpoint) configTemplates(raw json.RawMessage) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		if one != "" {
			c.ChatTemplates[chat.DefaultTemplate] = one
		}
		return nil
	}
	var named []struct{ Name, Template string }
	var byName map[string]string
	switch {
	case json.Unmarshal(raw, &named) == nil:
		for _, t := range named {
			c.ChatTemplates[t.Name] = t.Template
		}
	case json.Unmarshal(raw, &byName) == nil:
		c.ChatTemplates = byName
	default:
		return Errorf(path.Join(c.Path, "tokenizer_config.json"), "", "chat_template is neither a text nor a list of named ones")
	}
	return nil
}

// weightsFile is the file that names the tensors. As in the reference, a whole file is
// stronger than an index.
func (c *Checkpoint) weightsFile(dir fs.FS) (string, error) {
	const whole, index = "model.safetensors", "model.safetensors.index.json"
	has := func(name string) bool { _, err := fs.Stat(dir, name); return err == nil }
	switch {
	case has(whole) && has(index):
		c.problem("%s is read, as other readers do; %s beside it is not", whole, index)
		return whole, nil
	case has(whole):
		return whole, nil
	case has(index):
		return index, nil
	}
	return "", Errorf(c.Path, "", "has neither %s nor %s", whole, index)
}

// addHF enters the file's tensors.
func (c *Checkpoint) addHF(f *safetensors.File) error {
	prefix := hfPrefix(f)
	full := func(name string) string {
		if name == lmHead+".weight" {
			return name
		}
		return prefix + name
	}
	tensors := map[string]*Tensor{}
	for _, t := range f.Tensors() {
		c.Files = append(c.Files, TensorInfo{t.Name, t.Type, t.Shape, t.Bytes})
		ft := &Tensor{File: c.Path, Name: t.Name, Type: t.Type, TypeName: t.TypeName, Shape: t.Shape}
		ft.Read = PlainRows(t, ft.RowBytes())
		tensors[full(t.Name)] = ft
	}
	if err := c.untie(tensors); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, p := range Parameters(c.Config) {
		want[p.Name] = true
	}
	for _, t := range f.Tensors() {
		switch name := full(t.Name); {
		case want[name]:
			c.add(name, tensors[name])
		case strings.HasSuffix(name, "rotary_emb.inv_freq"): // a table older files carry
		case name == lmHead+".weight" && c.Config.TiedEmbeddings: // a second copy
		default:
			c.problem("tensor %s is not part of a Llama model and is not used", t.Name)
		}
	}
	if c.Config.TiedEmbeddings && tensors[embedding+".weight"] == nil && tensors[lmHead+".weight"] != nil {
		c.add(embedding+".weight", tensors[lmHead+".weight"]) // the one that is there serves as both
	}
	c.Problems = append(c.Problems, f.Warnings()...)
	return nil
}

// hfPrefix is what the names of a network's tensors lack that was saved without its
// output layer.
func hfPrefix(f *safetensors.File) string {
	base := false
	for _, t := range f.Tensors() {
		if strings.HasPrefix(t.Name, "model.") {
			return ""
		}
		base = base || "model."+t.Name == embedding+".weight"
	}
	if base {
		return "model."
	}
	return ""
}

// untie makes the output layer a matrix of its own where the files hold two that differ,
// although their settings tie them.
func (c *Checkpoint) untie(tensors map[string]*Tensor) error {
	e, o := tensors[embedding+".weight"], tensors[lmHead+".weight"]
	if !c.Config.TiedEmbeddings || e == nil || o == nil {
		return nil
	}
	same, err := sameTensors(e, o)
	if err == nil && !same {
		c.Config.TiedEmbeddings = false
		c.problem("config.json ties the output layer to the embedding, but %s is another matrix: it is used, as other readers do", o.Name)
	}
	return err
}

// sameTensors compares two tensors byte by byte.
func sameTensors(a, b *Tensor) (bool, error) {
	if a.Type != b.Type || !slices.Equal(a.Shape, b.Shape) {
		return false, nil
	}
	const some = 1 << 20 // bytes at once
	rows := max(1, some/max(a.RowBytes(), 1))
	x, y := make([]byte, rows*a.RowBytes()), make([]byte, rows*a.RowBytes())
	for row := 0; row < a.Rows(); row += rows {
		n := min(rows, a.Rows()-row)
		for _, r := range []struct {
			t   *Tensor
			dst []byte
		}{{a, x}, {b, y}} {
			if err := r.t.Read(r.dst[:n*a.RowBytes()], row, n); err != nil {
				return false, &FileError{File: r.t.File, Tensor: r.t.Name, Reason: "cannot be read", Err: err}
			}
		}
		if !bytes.Equal(x[:n*a.RowBytes()], y[:n*a.RowBytes()]) {
			return false, nil
		}
	}
	return true, nil
}

// resolve turns what the file says into a Config.
func (h *hfConfig) resolve() (Config, error) {
	if architectures[h.ModelType] == "" {
		return Config{}, unsupported("model_type", h.ModelType)
	}
	switch {
	case h.Act != "" && h.Act != "silu" && h.Act != "swish":
		return Config{}, fmt.Errorf("hidden_act %q is %w; only silu is", h.Act, backend.ErrUnsupported)
	case h.Quantization != nil && string(*h.Quantization) != "null":
		return Config{}, fmt.Errorf("quantization_config: quantised safetensors are %w", backend.ErrUnsupported)
	case h.PartialRotary != nil && *h.PartialRotary != 1:
		return Config{}, fmt.Errorf("partial_rotary_factor %v is %w", *h.PartialRotary, backend.ErrUnsupported)
	case h.NumLocalExperts > 0:
		return Config{}, fmt.Errorf("a mixture of %d experts is %w", h.NumLocalExperts, backend.ErrUnsupported)
	}
	if err := h.missing(); err != nil {
		return Config{}, err
	}
	c := Config{
		Layers: int(h.Layers), Dim: int(h.HiddenSize), Heads: int(h.Heads), KVHeads: int(h.Heads), HiddenDim: int(h.Intermediate),
		Vocab: int(h.Vocab), Context: int(h.Context), NormEps: h.NormEps, RopeTheta: 10000,
		TiedEmbeddings: h.Tied, AttentionBias: h.AttentionBias, AttentionOutputBias: h.AttentionBias, MLPBias: h.MLPBias,
	}
	if h.Context == 0 {
		setWhole(&c.Context, h.MaxSequence)
	}
	setWhole(&c.KVHeads, h.KVHeads)
	switch {
	case h.HeadDim != nil:
		c.HeadDim = int(*h.HeadDim)
	case h.Heads > 0:
		c.HeadDim = int(h.HiddenSize / h.Heads)
	}
	if err := h.hfFamily.resolve(h.ModelType, &c); err != nil {
		return Config{}, err
	}
	rope := h.rope()
	if h.RopeTheta != nil {
		c.RopeTheta = *h.RopeTheta
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
	if h.OriginalContext != nil {
		rope.Original = *h.OriginalContext
	}
	var err error
	c.RopeScaling, err = rope.resolve(c.Context)
	return c, err
}

// missing names the keys without which there is no model.
func (h *hfConfig) missing() error {
	var keys []string
	for key, given := range map[string]bool{
		"hidden_size": h.HiddenSize != 0, "intermediate_size": h.Intermediate != 0, "num_hidden_layers": h.Layers != 0, "num_attention_heads": h.Heads != 0,
		"vocab_size": h.Vocab != 0, "rms_norm_eps": h.NormEps != 0, "max_position_embeddings": h.Context != 0 || h.MaxSequence != nil,
	} {
		if !given {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		return nil
	}
	slices.Sort(keys)
	return fmt.Errorf("missing or 0: %s", strings.Join(keys, ", "))
}

// rope is the RoPE settings of one spelling; of both, the reference takes rope_scaling.
func (h *hfConfig) rope() *hfRope {
	if h.RopeScaling == nil || reflect.ValueOf(*h.RopeScaling).IsZero() {
		return h.RopeParameters
	}
	return h.RopeScaling
}

// noteRope warns where the two spellings do not agree.
func (c *Checkpoint) noteRope(h *hfConfig) {
	if rope := h.rope(); h.RopeParameters != nil && !reflect.DeepEqual(rope, h.RopeParameters) {
		c.problem("config.json has rope_scaling and another rope_parameters: rope_scaling is used, as the reference does")
	}
}

// resolve is for a model of a context.
func (r *hfRope) resolve(context int) (RopeScaling, error) {
	kind := r.RopeType
	if kind == "" {
		kind = r.Type
	}
	original := int(r.Original)
	if original == 0 {
		original = context // as the reference has it
	}
	switch kind {
	case "", "default":
		return RopeScaling{}, nil
	case "linear":
		return RopeScaling{Type: "linear", Factor: r.Factor}, nil
	case "llama3":
		return RopeScaling{Type: "llama3", Factor: r.Factor, LowFreqFactor: r.Low, HighFreqFactor: r.High, OriginalContext: original}, nil
	case "yarn", "longrope":
		return r.hfLongRope.resolve(RopeScaling{Type: kind, Factor: r.Factor, OriginalContext: original}, context)
	case "su": // what longrope was called at first
		return r.hfLongRope.resolve(RopeScaling{Type: "longrope", Factor: r.Factor, OriginalContext: original}, context)
	}
	return RopeScaling{Type: kind}, nil // refused by name in Validate
}

// generationConfig reads sampling settings and stop tokens, where the file is. They mean
// what they mean to the reference, whose defaults and order of filters hold
// (https://github.com/huggingface/transformers, generation/configuration_utils.py).
func (c *Checkpoint) generationConfig(dir fs.FS, shown string) error {
	if _, err := fs.Stat(dir, "generation_config.json"); err != nil {
		return nil
	}
	var g struct {
		EOS           json.RawMessage `json:"eos_token_id"`
		DoSample      *bool           `json:"do_sample"`
		Temperature   *float32        `json:"temperature"`
		TopK          *whole          `json:"top_k"`
		TopP          *float32        `json:"top_p"`
		MinP          *float32        `json:"min_p"`
		TypicalP      *float32        `json:"typical_p"`
		RepeatPenalty *float32        `json:"repetition_penalty"`
	}
	if err := readJSON(dir, "generation_config.json", shown, &g); err != nil {
		return err
	}
	if err := c.addEOS("generation_config.json", g.EOS); err != nil {
		return err
	}
	if g.DoSample == nil && g.Temperature == nil && g.TopP == nil && g.TopK == nil && g.MinP == nil && g.TypicalP == nil && g.RepeatPenalty == nil {
		return nil // says nothing about sampling
	}
	p := &sample.Params{PenaltyLastN: -1} // the whole sequence
	if g.DoSample != nil && *g.DoSample {
		p.Temperature, p.TopK = 1, 50
		set(&p.Temperature, g.Temperature)
		setWhole(&p.TopK, g.TopK)
		set(&p.TopP, g.TopP)
		set(&p.MinP, g.MinP)
		set(&p.TypicalP, g.TypicalP)
		p.Order = []sample.Stage{sample.StagePenalties, sample.StageTemperature, sample.StageTopK, sample.StageTopP, sample.StageMinP, sample.StageTypical}
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

func setWhole(dst *int, src *whole) {
	if src != nil {
		*dst = int(*src)
	}
}

// addEOS adds stop tokens: a number, a list or null. What the vocabulary does not have,
// -1 for one, is no stop token.
func (c *Checkpoint) addEOS(file string, raw json.RawMessage) error {
	var (
		one  *whole
		list []whole
	)
	if len(raw) > 0 && json.Unmarshal(raw, &one) != nil {
		if json.Unmarshal(raw, &list) != nil {
			return Errorf(path.Join(c.Path, file), "", "eos_token_id is %.40s, want a number or a list of numbers", raw)
		}
	} else if one != nil {
		list = []whole{*one}
	}
	for _, id := range list {
		switch {
		case id >= 0 && int(id) < c.Config.Vocab:
			c.eos = append(c.eos, int32(id))
		case id != -1:
			c.problem("%s: eos_token_id %d is outside the vocabulary of %d and is not used", file, id, c.Config.Vocab)
		}
	}
	return nil
}

// whole is a whole number as JSON of other programs may spell it: 50, 50.0 or 5e1.
type whole int

// UnmarshalJSON refuses fractions, and numbers that do not fit.
func (n *whole) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	x, err := strconv.ParseFloat(string(b), 64)
	if err != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 || strconv.IntSize == 32 && math.Abs(x) > math.MaxInt32 {
		var n int
		if err := json.Unmarshal(b, &n); err != nil { // an error that gets the key
			return err
		}
	}
	*n = whole(x)
	return nil
}

// readJSON decodes a file of the folder.
func readJSON(dir fs.FS, name, shown string, v any) error {
	b, err := vfs.ReadFile(dir, name, maxJSON)
	if err == nil {
		err = jsontext.Unmarshal(b, v)
	}
	if err != nil {
		return &FileError{File: path.Join(shown, name), Reason: "cannot be read", Err: err}
	}
	return nil
}
