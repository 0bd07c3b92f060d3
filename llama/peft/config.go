package peft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
)

// Config are the settings of an adapter, as adapter_config.json has them.
type Config struct {
	Rank   int     // r
	Alpha  float64 // lora_alpha; the change of a matrix is B A times alpha/r
	RSLoRA bool    // use_rslora: times alpha/sqrt(r) (https://arxiv.org/abs/2312.03732)
	DoRA   bool    // use_dora (https://arxiv.org/abs/2402.09353)
	// Targets are target_modules: the layers that have an adapter by name, or by the
	// end of it after a dot. One with TargetPattern is a regular expression for
	// whole names, or "all-linear". Without both, any layer may have one.
	Targets       []string
	TargetPattern string
	// Ranks and Alphas are rank_pattern and alpha_pattern. A pattern is for the layers
	// whose name matches, or the end of it after a dot; the first that matches counts.
	Ranks, Alphas []Override
	Dropout       float64 // lora_dropout, of training
	Bias          string  // bias: "" (none), "all" or "lora_only", biases of the model's that come with the adapter
	LoRABias      bool    // lora_bias: B has a bias
	// ModulesToSave are modules_to_save, by the end of their names: modules whose own
	// parameters come with the adapter.
	ModulesToSave []string
	// Tokens are trainable_token_indices: the rows of matrices of the vocabulary that come
	// with the adapter. The key is the end of the matrix's name; "" is the embedding.
	Tokens    map[string][]int32
	BaseModel string // base_model_name_or_path; may be empty
	// Other are the file's other keys, none of which changes the numbers.
	Other map[string]json.RawMessage
}

// Override is a setting for the layers that match a regular expression.
type Override struct {
	Pattern string
	Value   float64
}

// Limits of a configuration, far above what PEFT writes.
const (
	maxConfig   = 1 << 20 // bytes
	maxRank     = 1 << 20
	maxPatterns = 64      // regular expressions that are more than a name
	maxPattern  = 1 << 13 // bytes of one
)

// neutral are keys whose value, whatever it is, does not change what a trained
// adapter computes.
var neutral = []string{
	"auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "ephemeral_gpu_offload", "eva_config",
	"exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
	"megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}

// written are keys that a file gets, unless Other has them.
var written = map[string]string{
	"auto_mapping": "null", "bias": `"none"`, "fan_in_fan_out": "false", "inference_mode": "true", "init_lora_weights": "true",
	"layers_pattern": "null", "layers_to_transform": "null", "modules_to_save": "null", "peft_type": `"LORA"`, "task_type": `"CAUSAL_LM"`,
}

// ParseConfig reads an adapter_config.json. The error lists everything that is
// wrong with it.
func ParseConfig(text []byte) (Config, error) {
	if len(text) > maxConfig {
		return Config{}, fmt.Errorf("%d bytes are too many, want at most %d", len(text), maxConfig)
	}
	members, err := object(text)
	if err != nil {
		return Config{}, err
	}
	c := Config{Other: map[string]json.RawMessage{}}
	p := parser{c: &c, seen: map[string]bool{}}
	for _, m := range members {
		p.member(m.key, m.value)
	}
	for _, key := range []string{"peft_type", "r", "lora_alpha"} {
		if !p.seen[key] {
			p.fail(key, "is missing")
		}
	}
	if len(p.errs) == 0 {
		p.errs = append(p.errs, c.Validate())
	}
	return c, errors.Join(p.errs...)
}

// parser fills a Config and collects what is wrong.
type parser struct {
	c    *Config
	seen map[string]bool
	errs []error
}

func (p *parser) fail(key, format string, a ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s %s", strconv.Quote(vfs.Clip(key)), fmt.Sprintf(format, a...)))
}

// get decodes a value.
func (p *parser) get(key string, raw json.RawMessage, v any) {
	err := jsontext.Unmarshal(raw, v)
	switch {
	case err != nil:
		p.errs = append(p.errs, jsontext.At(strconv.Quote(vfs.Clip(key)), err))
	case string(raw) == "null":
		p.fail(key, "is null: leave it out, or say what it is")
	}
}

// only refuses every value but those given.
func (p *parser) only(key string, raw json.RawMessage, allowed ...string) {
	if !slices.Contains(allowed, string(raw)) {
		p.fail(key, "is %s, which is not supported: want %s", vfs.Clip(string(raw)), allowed[0])
	}
}

func (p *parser) member(key string, raw json.RawMessage) {
	if p.seen[key] {
		p.fail(key, "appears twice")
		return
	}
	p.seen[key] = true
	c := p.c
	switch key {
	case "peft_type":
		p.only(key, raw, `"LORA"`)
	case "r":
		p.get(key, raw, &c.Rank)
	case "lora_alpha":
		p.get(key, raw, &c.Alpha)
	case "use_rslora":
		p.get(key, raw, &c.RSLoRA)
	case "use_dora":
		p.get(key, raw, &c.DoRA)
	case "lora_dropout":
		p.get(key, raw, &c.Dropout)
	case "base_model_name_or_path":
		if string(raw) != "null" {
			p.get(key, raw, &c.BaseModel)
		}
	case "target_modules":
		p.targets(key, raw)
	case "rank_pattern":
		c.Ranks = p.overrides(key, raw)
	case "alpha_pattern":
		c.Alphas = p.overrides(key, raw)
	case "bias":
		if p.only(key, raw, `"none"`, `"all"`, `"lora_only"`); string(raw) != `"none"` {
			p.get(key, raw, &c.Bias)
		}
	case "lora_bias", "modules_to_save", "trainable_token_indices":
		p.extra(key, raw)
	case "init_lora_weights":
		// The other ways of starting, PiSSA for one, change the base's own weights.
		p.only(key, raw, "true", "false", "null", `"gaussian"`, `"eva"`, `"orthogonal"`)
		c.Other[key] = raw
	default:
		if !slices.Contains(neutral, key) && !empty(raw) {
			p.fail(key, "is %s, which is not supported: it may change what the adapter computes", vfs.Clip(string(raw)))
		}
		c.Other[key] = raw
	}
}

func (p *parser) targets(key string, raw json.RawMessage) {
	switch {
	case string(raw) == "null":
	case bytes.HasPrefix(raw, []byte(`"`)):
		p.get(key, raw, &p.c.TargetPattern)
	default:
		p.get(key, raw, &p.c.Targets)
	}
}

// extra reads a key that most files have without a value.
func (p *parser) extra(key string, raw json.RawMessage) {
	switch {
	case empty(raw):
		p.c.Other[key] = raw
	case key == "lora_bias":
		p.get(key, raw, &p.c.LoRABias)
	case key == "modules_to_save":
		p.get(key, raw, &p.c.ModulesToSave)
	default:
		p.tokens(key, raw)
	}
}

// tokens reads a list of ids, or lists by the names of modules.
func (p *parser) tokens(key string, raw json.RawMessage) {
	if bytes.HasPrefix(raw, []byte("[")) {
		var ids []int32
		p.get(key, raw, &ids)
		p.c.Tokens = map[string][]int32{"": ids}
		return
	}
	p.get(key, raw, &p.c.Tokens)
}

func (p *parser) overrides(key string, raw json.RawMessage) []Override {
	if string(raw) == "null" {
		return nil
	}
	members, err := object(raw)
	if err != nil {
		p.fail(key, "is not an object of numbers: %v", err)
		return nil
	}
	list := make([]Override, len(members))
	for i, m := range members {
		list[i].Pattern = m.key
		p.get(key, m.value, &list[i].Value)
	}
	return list
}

// empty reports whether a value says nothing: null, false, 0, "", [] or {}.
func empty(raw json.RawMessage) bool {
	switch string(bytes.Join(bytes.Fields(raw), nil)) {
	case "null", "false", "0", "0.0", `""`, "[]", "{}":
		return true
	}
	return false
}

// member is one key of an object, the value as it stands there.
type member struct {
	key   string
	value json.RawMessage
}

// object reads the members of an object in their order.
func object(text []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(vfs.Text(text)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		if err == nil {
			err = errors.New("is no JSON object")
		}
		return nil, jsontext.Explain(err)
	}
	var list []member
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, jsontext.Explain(err)
		}
		m := member{key: t.(string)}
		if err := d.Decode(&m.value); err != nil {
			return nil, jsontext.Explain(err)
		}
		list = append(list, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, jsontext.Explain(err)
	}
	if d.More() {
		return nil, errors.New("something follows the JSON object")
	}
	return list, nil
}

// Validate lists every violation.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if c.Rank < 1 || c.Rank > maxRank {
		bad("r is %d, want 1 to %d", c.Rank, maxRank)
	}
	if !number(c.Alpha) {
		bad("lora_alpha is %v, want a finite number", c.Alpha)
	}
	if !(c.Dropout >= 0 && c.Dropout < 1) {
		bad("lora_dropout is %v, want 0 to less than 1", c.Dropout)
	}
	if c.LoRABias && c.DoRA {
		bad("lora_bias beside use_dora is not supported")
	}
	for name, ids := range c.Tokens {
		seen := map[int32]bool{}
		for _, id := range ids {
			if id < 0 || seen[id] {
				bad("trainable_token_indices of %q has %d, which is no token or there twice", vfs.Clip(name), id)
				break
			}
			seen[id] = true
		}
	}
	if len(c.Targets) > 0 && c.TargetPattern != "" {
		bad("target_modules are both names and a pattern")
	}
	for _, o := range c.Ranks {
		if o.Value != math.Trunc(o.Value) || !(o.Value >= 1 && o.Value <= maxRank) {
			bad("rank_pattern of %q is %v, want a whole number of 1 to %d", vfs.Clip(o.Pattern), o.Value, maxRank)
		}
	}
	for _, o := range c.Alphas {
		if !number(o.Value) {
			bad("alpha_pattern of %q is %v, want a finite number", vfs.Clip(o.Pattern), o.Value)
		}
	}
	_, err := newMatcher(&c)
	return errors.Join(append(errs, err)...)
}

// number reports whether x fits a float32.
func number(x float64) bool { return math.Abs(x) <= math.MaxFloat32 }

// JSON is the file's text, laid out as PEFT does.
func (c Config) JSON() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	for key, text := range written {
		all[key] = json.RawMessage(text)
	}
	for key, raw := range c.Other {
		all[key] = raw
	}
	targets := any(c.Targets)
	if c.TargetPattern != "" {
		targets = c.TargetPattern
	}
	for key, v := range map[string]any{
		"r": c.Rank, "lora_alpha": c.Alpha, "use_rslora": c.RSLoRA, "use_dora": c.DoRA, "target_modules": targets,
		"base_model_name_or_path": orNull(c.BaseModel),
	} {
		var err error
		if all[key], err = encode(v); err != nil {
			return nil, err
		}
	}
	if err := c.extras(all); err != nil {
		return nil, err
	}
	all["lora_dropout"] = json.RawMessage(strconv.FormatFloat(c.Dropout, 'f', -1, 64))
	if !bytes.Contains(all["lora_dropout"], []byte(".")) {
		all["lora_dropout"] = append(all["lora_dropout"], ".0"...)
	}
	all["rank_pattern"], all["alpha_pattern"] = encodeOverrides(c.Ranks), encodeOverrides(c.Alphas)
	text, err := encode(all) // keys ascending
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = json.Indent(&out, text, "", "  ")
	return append(out.Bytes(), '\n'), err
}

// extras adds the keys that say which parameters of the model's come with the adapter,
// where there are some.
func (c Config) extras(all map[string]json.RawMessage) (err error) {
	add := func(key string, there bool, v any) {
		if there && err == nil {
			all[key], err = encode(v)
		}
	}
	add("bias", c.Bias != "", c.Bias)
	add("lora_bias", c.LoRABias, true)
	add("modules_to_save", len(c.ModulesToSave) > 0, c.ModulesToSave)
	tokens := any(c.Tokens)
	if ids, ok := c.Tokens[""]; ok && len(c.Tokens) == 1 {
		tokens = ids
	}
	add("trainable_token_indices", len(c.Tokens) > 0, tokens)
	return err
}

// encodeOverrides keeps the order, which counts.
func encodeOverrides(list []Override) json.RawMessage {
	var b strings.Builder
	b.WriteByte('{')
	for i, o := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		key, _ := encode(o.Pattern) // a string and a finite number
		value, _ := encode(o.Value)
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return json.RawMessage(b.String())
}

// encode is json.Marshal that leaves <, > and & of patterns as they are.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
