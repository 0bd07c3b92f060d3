package checkpoint

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/pth"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// metaParams is params.json.
type metaParams struct {
	Dim           whole    `json:"dim"`
	Layers        whole    `json:"n_layers"`
	Heads         whole    `json:"n_heads"`
	KVHeads       *whole   `json:"n_kv_heads"`
	HeadDim       *whole   `json:"head_dim"`
	Vocab         whole    `json:"vocab_size"`
	MultipleOf    whole    `json:"multiple_of"`
	FFNMultiplier *float64 `json:"ffn_dim_multiplier"`
	NormEps       float64  `json:"norm_eps"`
	RopeTheta     *float64 `json:"rope_theta"`
	ScaledRope    bool     `json:"use_scaled_rope"`
	MaxSeqLen     whole    `json:"max_seq_len"`
}

// metaKeys are the keys of metaParams and those that do not change the numbers.
var metaKeys = []string{"dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab_size", "multiple_of",
	"ffn_dim_multiplier", "norm_eps", "rope_theta", "use_scaled_rope", "max_seq_len", "max_batch_size", "model_parallel_size"}

// openMeta opens a Meta folder: params.json, consolidated.NN.pth and
// tokenizer.model.
func openMeta(dir fs.FS, shown string) (*Checkpoint, error) {
	c := &Checkpoint{Format: FormatMeta, Path: shown, dir: dir, Architecture: "llama", Tensors: map[string]*Tensor{}}
	var p metaParams
	if err := readJSON(dir, "params.json", shown, &p); err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := readJSON(dir, "params.json", shown, &all); err != nil {
		return nil, err
	}
	for key := range all {
		switch {
		case strings.HasPrefix(key, "vision_"), key == "quantization_args", key == "lora_args", key == "moe_args":
			return nil, &FileError{File: path.Join(shown, "params.json"), Err: fmt.Errorf("%s is %w", key, backend.ErrUnsupported)}
		case !slices.Contains(metaKeys, key):
			c.problem("params.json: unknown key %s is not used", key)
		}
	}
	shards, err := openShards(dir, shown)
	if err != nil {
		return nil, err
	}
	for _, s := range shards {
		c.closers = append(c.closers, s)
	}
	if err := c.readMeta(p, shards); err != nil {
		c.Close()
		return nil, err
	}
	if c.Tokenizer, err = tokenizer.OpenFS(dir, "tokenizer.model"); err != nil {
		if _, missing := fs.Stat(dir, "tokenizer.model"); missing == nil {
			c.Close()
			return nil, &FileError{File: shown, Reason: "tokenizer", Err: err}
		}
		c.problem("no tokenizer: %v", err)
	}
	c.CheckTokenizer()
	return c, nil
}

func openShards(dir fs.FS, shown string) ([]*pth.File, error) {
	names, err := fs.Glob(dir, "consolidated.*.pth")
	if err != nil || len(names) == 0 {
		return nil, Errorf(shown, "", "has no consolidated.00.pth")
	}
	slices.Sort(names)
	var shards []*pth.File
	for i, name := range names {
		if want := fmt.Sprintf("consolidated.%02d.pth", i); name != want {
			err = Errorf(shown, "", "has %s where %s is expected", name, want)
		} else {
			var f *pth.File
			if f, err = pth.OpenFS(dir, name); err == nil {
				shards = append(shards, f)
			}
		}
		if err != nil {
			for _, s := range shards {
				s.Close()
			}
			return nil, err
		}
	}
	return shards, nil
}

// resolve turns the file's numbers into a Config; the vocabulary is the
// tensors' to say.
func (p *metaParams) resolve() (Config, error) {
	if p.Heads <= 0 || p.Dim <= 0 || p.Dim > maxDim || p.MultipleOf <= 0 || p.MultipleOf > maxDim {
		return Config{}, fmt.Errorf("dim %d, n_heads %d and multiple_of %d must be positive and at most %d", p.Dim, p.Heads, p.MultipleOf, maxDim)
	}
	c := Config{
		Layers: int(p.Layers), Dim: int(p.Dim), Heads: int(p.Heads), KVHeads: int(p.Heads), HeadDim: int(p.Dim / p.Heads),
		NormEps: p.NormEps, RopeTheta: 10000, Context: 4096,
	}
	setWhole(&c.KVHeads, p.KVHeads)
	setWhole(&c.HeadDim, p.HeadDim)
	// The file does not say how long a context the model was trained for;
	// these are the published models'.
	if p.RopeTheta != nil {
		c.RopeTheta, c.Context = *p.RopeTheta, 8192
	}
	if p.ScaledRope {
		c.RopeScaling = RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalContext: 8192}
		c.Context = 131072
	}
	if p.MaxSeqLen > 0 {
		c.Context = int(p.MaxSeqLen)
	}
	// https://github.com/meta-llama/llama-models, models/llama3/model.py.
	hidden := float64(8 * p.Dim / 3)
	if p.FFNMultiplier != nil {
		hidden = math.Trunc(*p.FFNMultiplier * hidden)
	}
	if !(hidden > 0 && hidden <= maxDim) {
		return Config{}, fmt.Errorf("ffn_dim_multiplier gives a feed-forward width of %v", hidden)
	}
	multiple := int(p.MultipleOf)
	c.HiddenDim = multiple * ((int(hidden) + multiple - 1) / multiple)
	return c, nil
}

// readMeta fills the configuration and merges the shards' tensors.
func (c *Checkpoint) readMeta(p metaParams, shards []*pth.File) error {
	var err error
	file := path.Join(c.Path, "params.json")
	if c.Config, err = p.resolve(); err != nil {
		return &FileError{File: file, Err: err}
	}
	embed, err := c.merge("tok_embeddings.weight", shards)
	if err != nil {
		return err
	}
	if embed == nil {
		return Errorf(c.Path, "tok_embeddings.weight", "is missing")
	}
	c.Config.Vocab = embed.Rows()
	if p.Vocab > 0 && int(p.Vocab) != c.Config.Vocab {
		return Errorf(embed.File, embed.Name, "has %d rows in %d files, vocab_size is %d", c.Config.Vocab, len(shards), p.Vocab)
	}
	out := shards[0].Tensor("output.weight")
	c.Config.TiedEmbeddings = out == nil || len(shards) == 1 && out.SameData(shards[0].Tensor("tok_embeddings.weight"))
	if err := c.Config.Validate(); err != nil {
		return &FileError{File: file, Err: err}
	}
	known := map[string]bool{"rope.freqs": true, "output.weight": true}
	for _, e := range Parameters(c.Config) {
		name, ok := metaNames.name(e.Name)
		if !ok {
			continue
		}
		known[name] = true
		t, err := c.merge(name, shards)
		if err != nil {
			return err
		}
		if t != nil {
			c.add(e.Name, t)
		}
	}
	for i, s := range shards {
		for _, t := range s.Tensors() {
			c.Files = append(c.Files, TensorInfo{t.Name, t.Type, t.Shape, t.Bytes})
			if !known[t.Name] && i == 0 {
				c.problem("tensor %s is not part of a Llama model and is not used", t.Name)
			}
		}
	}
	return nil
}

// merge puts a tensor together that model parallelism cut: along the rows for
// layers whose outputs are split, along the columns for those whose inputs
// are, and the embedding either way, as its shape tells. It returns nil where
// no shard has it.
func (c *Checkpoint) merge(name string, shards []*pth.File) (*Tensor, error) {
	first := shards[0].Tensor(name)
	if first == nil {
		return nil, nil
	}
	shown := path.Join(c.Path, "consolidated.*.pth")
	if len(first.Shape) == 0 || len(first.Shape) > 2 {
		return nil, Errorf(shown, name, "has shape %v, want a vector or a matrix", first.Shape)
	}
	t := &Tensor{File: shown, Name: name, Type: first.Type, TypeName: first.TypeName, Shape: slices.Clone(first.Shape)}
	part := t.RowBytes()
	if len(shards) == 1 || len(first.Shape) == 1 { // norms are whole in each shard
		t.Read = PlainRows(first, part)
		return t, nil
	}
	parts := make([]*pth.Tensor, len(shards))
	for i, s := range shards {
		if parts[i] = s.Tensor(name); parts[i] == nil {
			return nil, Errorf(shown, name, "is missing in shard %d", i)
		}
		if parts[i].Type != first.Type || !slices.Equal(parts[i].Shape, first.Shape) {
			return nil, Errorf(shown, name, "is %v %v in shard %d, %v %v in shard 0", parts[i].Type, parts[i].Shape, i, first.Type, first.Shape)
		}
	}
	byColumns := strings.HasSuffix(name, "attention.wo.weight") || strings.HasSuffix(name, "feed_forward.w2.weight") ||
		name == "tok_embeddings.weight" && first.Shape[1] != c.Config.Dim
	if byColumns {
		t.Shape[1] *= len(parts)
		t.Read = func(dst []byte, row, n int) error {
			for i := range n * len(parts) {
				r, k := row+i/len(parts), i%len(parts)
				if _, err := vfs.ReadFull(parts[k], dst[i*part:(i+1)*part], int64(r)*int64(part)); err != nil {
					return err
				}
			}
			return nil
		}
		return t, nil
	}
	each := first.Shape[0]
	t.Shape[0] *= len(parts)
	t.Read = func(dst []byte, row, n int) error {
		for n > 0 {
			k, r := row/each, row%each
			m := min(n, each-r)
			if _, err := vfs.ReadFull(parts[k], dst[:m*part], int64(r)*int64(part)); err != nil {
				return err
			}
			dst, row, n = dst[m*part:], row+m, n-m
		}
		return nil
	}
	return t, nil
}
