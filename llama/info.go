package llama

import (
	"context"
	"encoding/json"

	"github.com/herd-ml/herd/llama/tokenizer"
)

// Info describes a model's files.
type Info struct {
	Path         string
	Format       string // "gguf", "safetensors" or "meta"
	Architecture string // as the files name it
	Config       Config
	Params       int64
	Tensors      []TensorInfo
	Tokenizer    *tokenizer.Info // nil without one
	StopTokens   []int32
	ChatTemplate string // Jinja source, or empty
	// BytesPerToken is read per generated token: every matrix but the embedding,
	// of which one row is read unless it is the output layer too.
	BytesPerToken int64
	Memory        Memory
	Problems      []string // found in the files; what stops loading comes first
}

// ReadInfo reads what the files say, without their weights. Files that can be
// read but not loaded (a missing tensor, a wrong shape) are described, with
// the reason among Problems.
func ReadInfo(ctx context.Context, path string, o Options) (Info, error) {
	if err := o.Validate(); err != nil {
		return Info{}, err
	}
	fsys, name := splitPath(path)
	c, err := openCheckpoint(ctx, fsys, name, path)
	if err != nil {
		return Info{}, err
	}
	defer c.close()
	i := Info{
		Path: path, Format: string(c.format), Architecture: c.arch, Config: c.config, Params: c.config.Params(),
		Tensors: c.files, StopTokens: c.stop(), ChatTemplate: c.chat, Problems: c.problems,
	}
	if c.tok != nil {
		t := c.tok.Info()
		i.Tokenizer = &t
		i.Problems = append(i.Problems, t.Warnings...)
	}
	if err = c.openAdapters(o.Adapters); err == nil {
		i.Memory, err = c.estimate(o)
	}
	if err != nil {
		i.Problems = append([]string{"cannot be loaded: " + err.Error()}, i.Problems...)
		return i, nil
	}
	i.BytesPerToken = i.Memory.Weights
	if !c.config.TiedEmbeddings {
		e := c.tensors["model.embed_tokens.weight"]
		i.BytesPerToken -= int64(e.rows()-1) * int64(e.rowBytes())
	}
	return i, nil
}

// MarshalJSON adds the type's name to the fields.
func (t TensorInfo) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Shape []int  `json:"shape"`
		Bytes int64  `json:"bytes"`
	}{t.Name, t.Type.String(), t.Shape, t.Bytes})
}
