package checkpoint

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Saveable makes a checkpoint what Save will write, or says why that cannot be: better
// than after days of training.
func (c *Checkpoint) Saveable() error {
	// The settings behind factors of rotation give frequencies that differ in the last
	// bits: those of the saved model.
	if s, ok := c.Config.llama3Scaling(c.ropeHint); ok {
		c.Config.RopeScaling = s
	}
	v := &converter{c: c, o: ConvertOptions{To: string(FormatHF)}}
	if _, err := v.hfConfigJSON(backend.F32); err != nil {
		return err
	}
	if c.Tokenizer != nil && c.Format != FormatHF {
		if _, err := c.Tokenizer.JSON(); err != nil && !errors.Is(err, tokenizer.ErrInexact) {
			c.problem("the trained model is saved without its tokenizer: %v", err)
		}
	}
	return nil
}

// WithoutTensors is what Save needs of the files beside the tensors. Those of a folder that are
// copied are read at once: the folder may be gone when the model is saved.
func (c *Checkpoint) WithoutTensors() (*Checkpoint, error) {
	s := &Checkpoint{Format: c.Format, Path: c.Path, Config: c.Config, Tokenizer: c.Tokenizer, eos: c.eos, Sampling: c.Sampling,
		ChatTemplates: c.ChatTemplates, templatesInFiles: c.templatesInFiles, vectorTypes: c.vectorTypes, ropeHint: c.ropeHint}
	if c.Format != FormatHF {
		return s, nil
	}
	var err error
	s.small, err = readSmall(c.dir, c.Path)
	return s, err
}

// readSmall reads the files of a folder that are copied as they are.
func readSmall(dir fs.FS, shown string) (map[string][]byte, error) {
	small := map[string][]byte{}
	for _, name := range hfFiles {
		b, err := vfs.ReadFile(dir, name, maxTokenizer)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &FileError{File: path.Join(shown, name), Reason: "cannot be read", Err: err}
		}
		small[name] = b
	}
	return small, nil
}

// maxTokenizer bounds the files that are kept for Save.
const maxTokenizer = 256 << 20

// Save writes the checkpoint as a Hugging Face folder, which must not exist yet, or be
// empty. It appears when it is complete. t is as ConvertOptions.Type.
func (c *Checkpoint) Save(ctx context.Context, dir string, t backend.DType) error {
	v := &converter{ctx: ctx, c: c, o: ConvertOptions{To: string(FormatHF), Type: t}}
	if err := v.o.Validate(); err != nil {
		return err
	}
	return vfs.WriteFolder(dir, v.writeHF)
}
