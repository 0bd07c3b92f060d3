package safetensors

import (
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/herd-ml/herd/internal/vfs"
)

const (
	maxIndex  = 16 << 20 // bytes of an index file
	maxShards = 1024     // files of a set: all are open at once
)

// openIndex opens the shards that an index lists. Every tensor of the index
// must be in the shard named for it. A tensor of a shard that the index does
// not list is left out with a warning: the index says what the set holds.
func openIndex(fsys fs.FS, name, shown string) (_ *File, err error) {
	shardOf, shards, err := readIndex(fsys, name, shown)
	if err != nil {
		return nil, err
	}
	out := &File{byName: map[string]*Tensor{}, metadata: map[string]string{}}
	defer func() {
		if err != nil {
			out.Close()
		}
	}()
	dir := strings.TrimSuffix(shown, path.Base(name))
	for _, shard := range shards {
		f, err := vfs.Open(fsys, path.Join(path.Dir(name), shard))
		if err != nil {
			return nil, &Error{shown, "", fmt.Sprintf("shard %q", vfs.Clip(shard)), err}
		}
		f.Name = dir + shard
		out.files = append(out.files, f)
		ts, meta, err := readHeader(f)
		if err != nil {
			return nil, err
		}
		out.add(shard, ts, meta, shardOf)
	}
	if len(out.byName) < len(shardOf) {
		missing := ""
		for tensor := range shardOf { // the first by name, so that the message is the same each time
			if out.byName[tensor] == nil && (missing == "" || tensor < missing) {
				missing = tensor
			}
		}
		return nil, &Error{shown, missing, fmt.Sprintf("is not in the shard %q that the index names", vfs.Clip(shardOf[missing])), nil}
	}
	return out, nil
}

// add takes the tensors of a shard that the index lists for it.
func (f *File) add(shard string, ts []*Tensor, meta map[string]string, shardOf map[string]string) {
	extra, example := 0, ""
	for _, t := range ts {
		if s, ok := shardOf[t.Name]; !ok || s != shard {
			extra, example = extra+1, t.Name
			continue
		}
		f.byName[t.Name] = t
		f.tensors = append(f.tensors, t)
	}
	if extra > 0 {
		f.warnings = append(f.warnings, fmt.Sprintf("shard %s holds %d tensors that the index does not list there, %q for one", shard, extra, vfs.Clip(example)))
	}
	for k, v := range meta {
		if _, ok := f.metadata[k]; !ok {
			f.metadata[k] = v
		}
	}
}

// readIndex returns each tensor's shard, and the shards in order.
func readIndex(fsys fs.FS, name, shown string) (shardOf map[string]string, shards []string, err error) {
	text, err := vfs.ReadFile(fsys, name, maxIndex)
	if err != nil {
		return nil, nil, err
	}
	if !utf8.Valid(text) {
		return nil, nil, &Error{shown, "", "index is not UTF-8", nil}
	}
	c := &scanner{s: string(text)}
	seen := map[string]bool{}
	err = c.object(func(key string) error {
		if key != "weight_map" {
			return c.skip(0)
		}
		shardOf = map[string]string{}
		return c.object(func(tensor string) error {
			shard, err := c.str()
			if err != nil {
				return err
			}
			if !local(shard) {
				return c.fail("shard name %q is not a file of the index's folder", vfs.Clip(shard))
			}
			shardOf[tensor] = shard
			if !seen[shard] {
				seen[shard] = true
				shards = append(shards, shard)
			}
			if len(shards) > maxShards {
				return c.fail("more than %d shards", maxShards)
			}
			return nil
		})
	})
	if err == nil {
		err = c.end()
	}
	if err == nil && shardOf == nil {
		err = c.fail("no weight_map")
	}
	if err != nil {
		return nil, nil, &Error{shown, "", "index", err}
	}
	sort.Strings(shards)
	return shardOf, shards, nil
}

// local reports whether a shard's name stays in its folder on every system:
// no separators, no drive or stream (C:, a:b), not the folder or its parent.
func local(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\\:\x00")
}
