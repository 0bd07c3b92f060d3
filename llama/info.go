package llama

import (
	"context"

	"github.com/herd-ml/herd/llama/internal/checkpoint"
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
	// ChatTemplates are Jinja sources by name; the only one is "default".
	ChatTemplates map[string]string
	// BytesPerToken is read per generated token: every matrix but the embedding,
	// of which one row is read unless it is the output layer too.
	BytesPerToken int64
	Memory        Memory
	Problems      []string // found in the files; what stops loading comes first
}

// TensorInfo describes a tensor of a model's files.
//
//	Name  string        // in the file
//	Type  backend.DType // of the file
//	Shape []int         // row-major, rows first
//	Bytes int64
type TensorInfo = checkpoint.TensorInfo

// ReadInfo reads what the files say, without their weights. Files that can be
// read but not loaded (a missing tensor, a wrong shape) are described, with
// the reason among Problems.
func ReadInfo(ctx context.Context, path string, o Options) (Info, error) {
	if err := o.Validate(); err != nil {
		return Info{}, err
	}
	c, err := checkpoint.Open(ctx, path)
	if err != nil {
		return Info{}, err
	}
	defer c.Close()
	i := Info{
		Path: path, Format: string(c.Format), Architecture: c.Architecture, Config: c.Config, Params: c.Config.Params(),
		Tensors: c.Files, StopTokens: c.StopTokens(), ChatTemplates: c.ChatTemplates, Problems: c.Problems,
	}
	if c.Tokenizer != nil {
		t := c.Tokenizer.Info()
		i.Tokenizer = &t
		i.Problems = append(i.Problems, t.Warnings...)
	}
	if err = c.OpenAdapters(o.Adapters); err == nil {
		i.Memory, err = estimate(c, o)
	}
	if err != nil {
		i.Problems = append([]string{"cannot be loaded: " + err.Error()}, i.Problems...)
		return i, nil
	}
	i.BytesPerToken = i.Memory.Weights
	if !c.Config.TiedEmbeddings {
		e := c.Tensors["model.embed_tokens.weight"]
		i.BytesPerToken -= int64(e.Rows()-1) * int64(e.RowBytes())
	}
	return i, nil
}
