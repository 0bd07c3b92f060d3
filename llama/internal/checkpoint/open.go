package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/pth"
	"github.com/herd-ml/herd/llama/safetensors"
)

// Open opens a .gguf file, a Hugging Face folder or a Meta folder.
func Open(ctx context.Context, path string) (*Checkpoint, error) {
	if path == "" {
		return nil, Errorf("", "", "no path is given: name a .gguf file, or the folder of a Hugging Face or Meta model")
	}
	fsys, name := splitPath(path)
	shown := strings.TrimRightFunc(path, func(r rune) bool { return r == '/' || r == filepath.Separator })
	return openFS(ctx, fsys, name, cmp.Or(shown, path))
}

// OpenFS is Open in a file system.
func OpenFS(ctx context.Context, fsys fs.FS, name string) (*Checkpoint, error) {
	return openFS(ctx, fsys, name, name)
}

// OpenReader is Open for a GGUF file of size bytes, which the caller closes.
func OpenReader(r io.ReaderAt, size int64, name string) (*Checkpoint, error) {
	f, err := gguf.New(r, size, name)
	if err != nil {
		return nil, err
	}
	return readGGUF(f, name)
}

// openFS opens what messages call shown.
func openFS(ctx context.Context, fsys fs.FS, name, shown string) (*Checkpoint, error) {
	if err := ctxerr.Of(ctx); err != nil {
		return nil, err
	}
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, &FileError{File: shown, Reason: "cannot be opened", Err: vfs.Pathless(err)}
	}
	if !info.IsDir() {
		return openFile(fsys, name, shown)
	}
	dir, err := fs.Sub(fsys, name)
	if err != nil {
		return nil, &FileError{File: shown, Reason: "cannot be opened", Err: err}
	}
	has := func(n string) bool { _, err := fs.Stat(dir, n); return err == nil }
	inFolder := func(file string) string { return path.Join(shown, file) }
	switch {
	case has("config.json"):
		c, err := openHF(dir, shown)
		return c, located(err, inFolder)
	case has("params.json"):
		c, err := openMeta(dir, shown)
		return c, located(err, inFolder)
	}
	if has("adapter_config.json") {
		return nil, Errorf(shown, "", "%s", isAdapter)
	}
	found, err := fs.Glob(dir, "*.gguf")
	if err == nil && len(found) > 0 {
		sort.Strings(found)
		return nil, Errorf(shown, "", "is a folder; name the model file in it, %s for one", path.Join(shown, found[0]))
	}
	return nil, Errorf(shown, "", "is a folder without config.json (Hugging Face) or params.json (Meta): name one with either, or a .gguf file")
}

// isAdapter is the reason to refuse an adapter in the place of a model.
const isAdapter = "is an adapter, not a model: load its base model, and this as an adapter of it"

// openFile opens a single file, which must be GGUF; it tells the other known
// kinds apart, since naming the folder is what was meant.
func openFile(fsys fs.FS, name, shown string) (*Checkpoint, error) {
	base := path.Base(name)
	switch {
	case strings.HasSuffix(base, ".safetensors"), strings.HasSuffix(base, ".safetensors.index.json"), base == "config.json":
		return nil, Errorf(shown, "", "is part of a Hugging Face model: name its folder")
	case strings.HasSuffix(base, ".pth"), base == "params.json":
		return nil, Errorf(shown, "", "is part of a Meta model: name its folder")
	case base == "tokenizer.json", base == "tokenizer.model", base == "tokenizer_config.json", base == "generation_config.json":
		return nil, Errorf(shown, "", "is a file beside a model: name its folder")
	}
	c, err := openGGUF(fsys, name, shown)
	return c, located(err, func(file string) string { return strings.TrimSuffix(shown, name) + file })
}

// located makes an error of one file format name the file by the path that the
// caller knows; in its package the file has a name in a folder.
func located(err error, place func(file string) string) error {
	var (
		g *gguf.Error
		s *safetensors.Error
		p *pth.Error
	)
	switch {
	case errors.As(err, &g):
		g.File = place(g.File)
	case errors.As(err, &s):
		s.File = place(s.File)
	case errors.As(err, &p):
		p.File = place(p.File)
	}
	return err
}

// splitPath turns a path into a file system and a name in it. A folder becomes
// its own file system, so that names such as "." and ".." work.
func splitPath(p string) (fs.FS, string) {
	fsys, name := vfs.Split(p)
	if name == "." || name == ".." || name == "/" || strings.ContainsAny(name, `\`) {
		return vfs.Dir(p), "."
	}
	return fsys, name
}
