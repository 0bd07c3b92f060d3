package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// openGGUF opens a file or the first part of a split set.
func openGGUF(fsys fs.FS, name, shown string) (*Checkpoint, error) {
	f, err := gguf.OpenFS(fsys, name)
	if err != nil {
		return nil, err
	}
	c, err := readGGUF(f, shown)
	if err != nil {
		f.Close()
		return nil, err
	}
	c.closers = append(c.closers, f)
	return c, nil
}

// readGGUF makes a checkpoint of an open file.
func readGGUF(f *gguf.File, shown string) (*Checkpoint, error) {
	c := &Checkpoint{Format: FormatGGUF, Path: shown, Tensors: map[string]*Tensor{}}
	arch, err := f.String("general.architecture")
	if err != nil {
		return nil, err
	}
	c.Architecture = arch
	switch kind, _ := f.String("general.type"); kind { // most files have none
	case "adapter":
		return nil, Errorf(shown, "", "%s", isAdapter)
	case "mmproj":
		return nil, Errorf(shown, "", "is the part of a model that sees or hears: name the file of its language model")
	case "imatrix":
		return nil, Errorf(shown, "", "holds statistics for quantising, not a model")
	}
	if architectures[arch] == "" {
		return nil, &FileError{File: shown, Err: unsupported("architecture", arch)}
	}
	c.plainRows = arch == familyQwen2
	g := &ggufConfig{f: f, file: shown, arch: arch}
	if err := g.read(c); err != nil {
		return nil, err
	}
	c.Problems = append(c.Problems, g.problems...)
	c.noteWindow()
	if err := c.Config.Validate(); err != nil {
		return nil, &FileError{File: shown, Reason: "bad configuration", Err: err}
	}
	for _, t := range f.Tensors() {
		c.Files = append(c.Files, TensorInfo{t.Name, t.Type, t.Shape, t.Bytes})
	}
	c.addGGUF(f)
	c.gguf = f
	c.readNotes(f)
	if err := c.ggufTokenizer(f); err != nil {
		return nil, err
	}
	return c, c.ggufTemplates(f)
}

// ggufTokenizer reads the tokenizer, where there is one.
func (c *Checkpoint) ggufTokenizer(f *gguf.File) (err error) {
	c.Tokenizer, err = tokenizer.FromGGUF(f)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.problem("no tokenizer: %v", err)
		return nil
	case err != nil:
		return &FileError{File: c.Path, Reason: "tokenizer", Err: err}
	}
	if n := c.Tokenizer.VocabSize(); n != c.Config.Vocab {
		return Errorf(c.Path, "token_embd.weight", "has %d rows, the vocabulary %d tokens", c.Config.Vocab, n)
	}
	return nil
}

// The keys of chat templates: of the default one, of the list of the other names, and
// before a name that of its template.
const (
	templateKey  = "tokenizer.chat_template"
	templatesKey = "tokenizer.chat_templates"
)

// ggufTemplates reads the chat templates.
func (c *Checkpoint) ggufTemplates(f *gguf.File) error {
	c.ChatTemplates = map[string]string{}
	if source, err := f.String(templateKey); err == nil {
		c.ChatTemplates[chat.DefaultTemplate] = source
	}
	if _, ok := f.Lookup(templatesKey); !ok {
		return nil
	}
	names, err := f.Strings(templatesKey)
	if err != nil {
		return err
	}
	for _, name := range names {
		source, err := f.String(templateKey + "." + name)
		if err != nil {
			c.problem("the chat template %.40q is listed but is not there", name)
			continue
		}
		c.ChatTemplates[name] = source
	}
	return nil
}

// addGGUF enters the file's tensors under their Hugging Face names.
func (c *Checkpoint) addGGUF(f *gguf.File) {
	known := map[string]bool{ropeFreqs: true}
	if c.Config.RopeScaling.Type == "longrope" {
		known[ropeShort], known[ropeLong] = true, true
	}
	for _, p := range Parameters(c.Config) {
		name, ok := ggufNames.name(p.Name)
		t := f.Tensor(name)
		if !ok || t == nil {
			continue
		}
		known[name] = true
		ft := &Tensor{File: c.Path, Name: t.Name, Type: t.Type, Shape: t.Shape}
		for len(ft.Shape) > p.Shape.Rank && ft.Shape[0] == 1 { // axes of one element, written out
			ft.Shape = ft.Shape[1:]
		}
		ft.Read = PlainRows(t, ft.RowBytes())
		c.add(p.Name, ft)
	}
	for _, t := range f.Tensors() {
		if !known[t.Name] {
			c.problem("tensor %s is not part of a Llama model and is not used", t.Name)
		}
	}
}

// readNotes reads what Convert noted; a note that makes no sense is not used.
func (c *Checkpoint) readNotes(f *gguf.File) {
	if v, err := f.Floats(ropeScalingKey); err == nil && len(v) == 4 {
		c.ropeHint = RopeScaling{Type: "llama3", Factor: float64(v[0]), LowFreqFactor: float64(v[1]), HighFreqFactor: float64(v[2]), OriginalContext: int(v[3])}
	}
	notes, err := f.Strings(vectorTypesKey)
	if err != nil {
		return
	}
	c.vectorTypes = map[string]backend.DType{}
	for _, note := range notes {
		name, text, _ := strings.Cut(note, "=")
		if t, err := backend.ParseDType(text); err == nil && t.Float() {
			c.vectorTypes[name] = t
		}
	}
}

// ggufConfig reads metadata and remembers the first error.
type ggufConfig struct {
	f    *gguf.File
	file string
	arch string
	err  error

	problems []string
}

// key is the file's name for one of Llama's keys.
func (g *ggufConfig) key(llama string) string { return g.arch + strings.TrimPrefix(llama, familyLlama) }

func (g *ggufConfig) has(key string) bool {
	_, ok := g.f.Lookup(g.key(key))
	return ok
}

// size reads a required count; uint of a hostile file may not fit an int. A list of one
// count for each layer must hold the same for all.
func (g *ggufConfig) size(key string) int {
	key = g.key(key)
	v, err := g.f.Uint(key)
	if list, e := g.f.Ints(key); e == nil && len(list) > 0 {
		v, err = uint64(max(list[0], 0)), nil
		if i := slices.IndexFunc(list, func(x int64) bool { return x != list[0] }); i >= 0 {
			err = &FileError{File: g.file, Err: fmt.Errorf("%s is %d in layer 0 and %d in layer %d: layers that differ are %w", key, list[0], list[i], i, backend.ErrUnsupported)}
		}
	}
	switch {
	case err != nil && g.err == nil:
		g.err = err
	case v > math.MaxInt32 && g.err == nil:
		g.err = Errorf(g.file, "", "%s is %d", key, v)
	}
	return int(min(v, math.MaxInt32))
}

// sizeOr is size with a value for a missing key.
func (g *ggufConfig) sizeOr(key string, missing int) int {
	if !g.has(key) {
		return missing
	}
	return g.size(key)
}

func (g *ggufConfig) floatOr(key string, missing float64) float64 {
	v, err := g.f.Float(g.key(key))
	if errors.Is(err, gguf.ErrNoKey) {
		return missing
	}
	if err != nil && g.err == nil {
		g.err = err
	}
	return v
}

func (g *ggufConfig) read(c *Checkpoint) error {
	cfg := &c.Config
	cfg.Layers = g.size("llama.block_count")
	cfg.Context = g.size("llama.context_length")
	cfg.Dim = g.size("llama.embedding_length")
	cfg.HiddenDim = g.size("llama.feed_forward_length")
	cfg.Heads = g.size("llama.attention.head_count")
	cfg.KVHeads = g.sizeOr("llama.attention.head_count_kv", cfg.Heads)
	cfg.NormEps = g.floatOr("llama.attention.layer_norm_rms_epsilon", 0)
	// Files made before the key existed are all of base 10000.
	cfg.RopeTheta = g.floatOr("llama.rope.freq_base", 10000)
	if g.err != nil {
		return g.err
	}
	if cfg.NormEps == 0 {
		return Errorf(g.file, "", "%s is missing or 0", g.key("llama.attention.layer_norm_rms_epsilon"))
	}
	if n := g.sizeOr("llama.expert_count", 0); n > 0 {
		return &FileError{File: g.file, Err: fmt.Errorf("a mixture of %d experts is %w", n, backend.ErrUnsupported)}
	}
	if causal, err := g.f.Bool(g.key("llama.attention.causal")); err == nil && !causal {
		return &FileError{File: g.file, Err: fmt.Errorf("%s is false: attention to what comes later is %w", g.key("llama.attention.causal"), backend.ErrUnsupported)}
	}
	if cfg.Heads <= 0 || cfg.Dim <= 0 {
		return Errorf(g.file, "", "%s is %d and %s %d: both must be positive", g.key("llama.attention.head_count"), cfg.Heads, g.key("llama.embedding_length"), cfg.Dim)
	}
	cfg.HeadDim = g.sizeOr("llama.attention.key_length", cfg.Dim/cfg.Heads)
	if v := g.sizeOr("llama.attention.value_length", cfg.HeadDim); v != cfg.HeadDim {
		return Errorf(g.file, "", "%s is %d, key_length %d: they must be equal", g.key("llama.attention.value_length"), v, cfg.HeadDim)
	}
	if v := g.sizeOr("llama.rope.dimension_count", cfg.HeadDim); v != cfg.HeadDim {
		return Errorf(g.file, "", "%s is %d, the head size %d: they must be equal", g.key("llama.rope.dimension_count"), v, cfg.HeadDim)
	}
	if g.err == nil {
		g.family(cfg)
		g.rope(cfg)
	}
	if g.err != nil {
		return g.err
	}
	return g.tensors(cfg)
}

// tensors reads what only the tensors say: vocabulary, tied output, biases.
func (g *ggufConfig) tensors(cfg *Config) error {
	embed := g.f.Tensor("token_embd.weight")
	if embed == nil || len(embed.Shape) < 2 || slices.ContainsFunc(embed.Shape[:len(embed.Shape)-2], func(n int) bool { return n != 1 }) {
		return Errorf(g.file, "token_embd.weight", "is missing or not a matrix")
	}
	cfg.Vocab = embed.Shape[len(embed.Shape)-2]
	if v := g.sizeOr("llama.vocab_size", cfg.Vocab); v != cfg.Vocab {
		g.problems = append(g.problems, fmt.Sprintf("%s is %d, the vocabulary is the %d rows of %s", g.key("llama.vocab_size"), v, cfg.Vocab, embed.Name))
	}
	cfg.TiedEmbeddings = g.f.Tensor("output.weight") == nil
	cfg.AttentionBias = g.f.Tensor("blk.0.attn_q.bias") != nil
	cfg.AttentionOutputBias = g.f.Tensor("blk.0.attn_output.bias") != nil
	cfg.MLPBias = g.f.Tensor("blk.0.ffn_down.bias") != nil
	return g.err
}
