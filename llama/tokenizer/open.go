package tokenizer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
)

// maxFile is the largest tokenizer file; Llama 3's tokenizer.json has 9 MB.
const maxFile = 256 << 20

// Open reads a tokenizer from a path: a tokenizer.model (tiktoken rank file or
// SentencePiece model), a tokenizer.json, a GGUF file, or a folder that holds
// one of the first two. The content decides, not the name. What
// tokenizer_config.json, special_tokens_map.json, added_tokens.json and
// generation_config.json beside it say about BOS, EOS and further tokens is taken
// into account, but for a rank file, whose readers know its control tokens. Errors
// are *Error, or what the file system or package gguf says.
func Open(path string) (*Tokenizer, error) {
	fsys, name := vfs.Split(path)
	t, err := OpenFS(fsys, name)
	return t, locate(err, filepath.Dir(filepath.Clean(path)))
}

// locate makes an error name its file by a path, which it has below a folder.
func locate(err error, folder string) error {
	var (
		e *Error
		g *gguf.Error
		p *fs.PathError
	)
	switch {
	case errors.As(err, &e):
		e.File = filepath.Join(folder, e.File)
	case errors.As(err, &g):
		g.File = filepath.Join(folder, g.File)
	case errors.As(err, &p):
		return &Error{File: filepath.Join(folder, p.Path), Reason: "cannot be opened: " + p.Err.Error(), Err: p.Err}
	}
	return err
}

// OpenFS is Open for a file system; name may be ".".
func OpenFS(fsys fs.FS, name string) (*Tokenizer, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		for _, file := range []string{"tokenizer.json", "tokenizer.model"} {
			if _, err := fs.Stat(fsys, path.Join(name, file)); err == nil {
				return OpenFS(fsys, path.Join(name, file))
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		return nil, &Error{File: name, Reason: "the folder has neither tokenizer.json nor tokenizer.model", Err: fs.ErrNotExist}
	}
	head, err := readHead(fsys, name)
	if err != nil {
		return nil, err
	}
	if head == "GGUF" {
		f, err := gguf.OpenFS(fsys, name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		t, err := FromGGUF(f)
		return t, inFile(err, name)
	}
	data, err := vfs.ReadFile(fsys, name, maxFile)
	if err != nil {
		return nil, err
	}
	t, err := parse(data, func() (sideFiles, error) { return readSide(fsys, path.Dir(name)) })
	return t, inFile(err, name)
}

// readHead returns the first four bytes of a file.
func readHead(fsys fs.FS, name string) (string, error) {
	f, err := vfs.Open(fsys, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, min(4, f.Size))
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(b), nil
}

// inFile fills in the file of an *Error that has none.
func inFile(err error, file string) error {
	var e *Error
	if errors.As(err, &e) && e.File == "" {
		e.File = file
	}
	return err
}

// parse finds out which kind of file data is, and reads it.
func parse(data []byte, side func() (sideFiles, error)) (*Tokenizer, error) {
	trimmed := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\ufeff")), " \t\r\n")
	switch {
	case len(trimmed) == 0:
		return nil, fail("", "the file is empty")
	case trimmed[0] == '{':
		s, err := side()
		if err != nil {
			return nil, err
		}
		return fromJSON(trimmed, s)
	case isRankFile(data):
		return fromRanks(data)
	case data[0] == 0x0a:
		s, err := side()
		if err != nil {
			return nil, err
		}
		return fromSPM(data, s)
	}
	return nil, fail("", "neither a tokenizer.json, a tiktoken rank file, a SentencePiece model nor GGUF")
}

// isRankFile looks at the first line.
func isRankFile(data []byte) bool {
	line, _, _ := bytes.Cut(data[:min(len(data), 4096)], []byte{'\n'})
	b64, rank, ok := bytes.Cut(bytes.TrimSpace(line), []byte{' '})
	if !ok || len(b64) == 0 || len(rank) == 0 || bytes.Trim(rank, "0123456789") != nil && len(bytes.Trim(rank, "0123456789")) > 0 {
		return false
	}
	_, err := base64.StdEncoding.DecodeString(string(b64))
	return err == nil
}
