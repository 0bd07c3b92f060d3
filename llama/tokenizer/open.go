package tokenizer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
)

// maxFile is the largest tokenizer file; Llama 3's tokenizer.json has 9 MB.
const maxFile = 256 << 20

// Open reads a tokenizer from a path: a tokenizer.model (tiktoken rank file or
// SentencePiece model), a tokenizer.json, a GGUF file, or a folder that holds
// one of the first two. The content decides, not the name. What
// tokenizer_config.json, special_tokens_map.json and generation_config.json
// beside a tokenizer.json say about BOS and EOS is taken into account. Errors
// are *Error, or what the file system or package gguf says.
func Open(path string) (*Tokenizer, error) {
	fsys, name := vfs.Split(path)
	return OpenFS(fsys, name)
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
		return t, named(err, name)
	}
	data, err := vfs.ReadFile(fsys, name, maxFile)
	if err != nil {
		return nil, err
	}
	t, err := parse(data, func() (sideFiles, error) { return readSide(fsys, path.Dir(name)) })
	return t, named(err, name)
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

// named fills in the file of an *Error that has none.
func named(err error, file string) error {
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
		return fromSPM(data)
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

// sideFiles is what the files beside a tokenizer.json say. The names of BOS and
// EOS come as a string or as {"content": string}.
type sideFiles struct {
	BOS    json.RawMessage `json:"bos_token"`
	EOS    json.RawMessage `json:"eos_token"`
	AddBOS *bool           `json:"add_bos_token"`
	AddEOS *bool           `json:"add_eos_token"`
	Class  string          `json:"tokenizer_class"`

	bosID   *int32
	stopIDs []int32
}

// readSide reads the files beside a tokenizer.json, where they exist.
func readSide(fsys fs.FS, dir string) (side sideFiles, err error) {
	read := func(file string, v any) error {
		data, err := vfs.ReadFile(fsys, path.Join(dir, file), 64<<20)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, v); err != nil {
			return &Error{File: path.Join(dir, file), Reason: err.Error()}
		}
		return nil
	}
	var generation struct {
		BOS, EOS json.RawMessage
	}
	var raw map[string]json.RawMessage
	for _, e := range []error{read("special_tokens_map.json", &side), read("tokenizer_config.json", &side), read("generation_config.json", &raw)} {
		if e != nil {
			return side, e
		}
	}
	generation.BOS, generation.EOS = raw["bos_token_id"], raw["eos_token_id"]
	side.stopIDs, err = idList(generation.EOS, path.Join(dir, "generation_config.json"), "eos_token_id")
	if err != nil {
		return side, err
	}
	bos, err := idList(generation.BOS, path.Join(dir, "generation_config.json"), "bos_token_id")
	if len(bos) > 0 {
		side.bosID = &bos[0]
	}
	return side, err
}

// idList reads a number or a list of numbers; null is the empty list.
func idList(raw json.RawMessage, file, field string) ([]int32, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var one int32
	if json.Unmarshal(raw, &one) == nil {
		return []int32{one}, nil
	}
	var many []int32
	if err := json.Unmarshal(raw, &many); err != nil {
		return nil, &Error{File: file, Field: field, Reason: "expected a number or a list of numbers"}
	}
	return many, nil
}

// apply settles BOS and EOS, and what is put around a text: the class of
// tokenizer reads add_bos_token, the plain fast class only its template.
func (s sideFiles) apply(t *Tokenizer, v *vocabulary) specials {
	sp := specials{bos: s.id(v, s.BOS), eos: s.id(v, s.EOS), stop: s.stopIDs}
	if sp.bos == nil {
		sp.bos = s.bosID
	}
	if sp.bos == nil && len(t.before) > 0 {
		sp.bos = &t.before[0]
	}
	if sp.eos == nil && len(s.stopIDs) > 0 {
		sp.eos = &s.stopIDs[0]
	}
	guess := func(to **int32, names ...string) {
		for _, name := range names {
			if id, ok := v.ids.find(name); ok && *to == nil && v.kinds[id] == control {
				*to = &id
			}
		}
	}
	guess(&sp.bos, "<|begin_of_text|>", "<s>", "<｜begin▁of▁sentence｜>", "<bos>")
	guess(&sp.eos, "<|end_of_text|>", "</s>", "<｜end▁of▁sentence｜>", "<eos>", "<|endoftext|>")
	if s.Class == "PreTrainedTokenizerFast" || s.Class == "TokenizersBackend" {
		return sp
	}
	set := func(around *[]int32, add *bool, id *int32) {
		if add != nil && !*add {
			*around = nil
		} else if add != nil && id != nil && len(*around) == 0 {
			*around = []int32{*id}
		}
	}
	set(&t.before, s.AddBOS, sp.bos)
	set(&t.after, s.AddEOS, sp.eos)
	return sp
}

// id resolves a token given by name.
func (s sideFiles) id(v *vocabulary, raw json.RawMessage) *int32 {
	var name string
	if json.Unmarshal(raw, &name) != nil {
		var obj struct{ Content string }
		if json.Unmarshal(raw, &obj) != nil {
			return nil
		}
		name = obj.Content
	}
	if id, ok := v.ids.find(name); ok && name != "" {
		return &id
	}
	return nil
}
