package pth

import (
	"archive/zip"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/herd-ml/herd/internal/vfs"
)

const maxDirectory = 16 << 20 // bytes read to list an archive; a checkpoint of a thousand tensors has 100 KB

// entry is the place of a stored archive entry's data in the file, bytes.
type entry struct {
	name        string // below the root folder: "data.pkl", "data/0"
	start, size int64
}

// budget is a reader that gives out at most left bytes, so that listing an
// archive takes bounded memory.
type budget struct {
	r    io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("the archive's directory is larger than %d bytes", maxDirectory)
	}
	return b.r.ReadAt(p, off)
}

// readArchive lists the entries below the root folder, the one with data.pkl.
// Every entry of the archive must be stored, lie inside the file and not
// overlap another, so that reading all of them reads no more than the file.
func readArchive(f *vfs.File) (map[string]entry, error) {
	bad := func(reason string, err error) (map[string]entry, error) {
		return nil, &Error{f.Name, "", reason, vfs.Damage(err)}
	}
	var magic [4]byte
	if n, err := f.ReadAt(magic[:], 0); n < len(magic) && err != io.EOF {
		return bad("reading the first bytes", err)
	}
	if string(magic[:]) != "PK\x03\x04" {
		if kind := f.Kind(); kind != "" {
			return nil, &Error{f.Name, "", "this is no file of torch.save: it is " + kind, nil}
		}
		return bad("not a zip archive; files of torch.save before PyTorch 1.6 are not supported", nil)
	}
	z, err := zip.NewReader(&budget{f, maxDirectory}, f.Size)
	if err != nil {
		return bad("zip", err)
	}
	root := ""
	for _, e := range z.File {
		if dir, ok := strings.CutSuffix(e.Name, "data.pkl"); ok && strings.Count(dir, "/") == 1 && strings.HasSuffix(dir, "/") {
			if root != "" {
				return bad("two pickles, "+vfs.Clip(root)+"data.pkl and "+vfs.Clip(e.Name), nil)
			}
			root = dir
		}
	}
	if root == "" {
		return bad("no data.pkl in the archive: not a file of torch.save", nil)
	}
	entries := make(map[string]entry, len(z.File))
	all := make([]entry, 0, len(z.File))
	for _, e := range z.File {
		place, err := locate(e, f.Size)
		if err != nil {
			return bad(fmt.Sprintf("zip entry %q", vfs.Clip(e.Name)), err)
		}
		all = append(all, place)
		name, below := strings.CutPrefix(e.Name, root)
		if !below {
			continue
		}
		if _, twice := entries[name]; twice {
			return bad(fmt.Sprintf("zip entry %q is there twice", vfs.Clip(e.Name)), nil)
		}
		place.name = name
		entries[name] = place
	}
	sort.Slice(all, func(i, j int) bool { return all[i].start < all[j].start })
	end := entry{}
	for _, e := range all {
		if e.size > 0 && e.start < end.start+end.size {
			return bad(fmt.Sprintf("zip entries %q and %q overlap", vfs.Clip(end.name), vfs.Clip(e.name)), nil)
		}
		if e.size > 0 {
			end = e
		}
	}
	return entries, nil
}

// locate checks one entry against a file of size bytes.
func locate(e *zip.File, size int64) (entry, error) {
	if e.Method != zip.Store || e.Flags&1 != 0 || e.CompressedSize64 != e.UncompressedSize64 {
		return entry{}, fmt.Errorf("is compressed or encrypted (method %d, %d of %d bytes), expected stored", e.Method, e.CompressedSize64, e.UncompressedSize64)
	}
	start, err := e.DataOffset()
	if err != nil {
		return entry{}, err
	}
	if start < 0 || start > size || e.UncompressedSize64 > uint64(size-start) {
		return entry{}, fmt.Errorf("has %d bytes at %d, in a file of %d", e.UncompressedSize64, start, size)
	}
	return entry{e.Name, start, int64(e.UncompressedSize64)}, nil
}

// readEntry reads a small entry whole.
func readEntry(f *vfs.File, e entry, limit int64) (string, error) {
	if e.size > limit {
		return "", &Error{f.Name, "", fmt.Sprintf("%s of %d bytes is above the limit of %d", e.name, e.size, limit), nil}
	}
	text, err := vfs.ReadString(f, e.start, e.size)
	if err != nil {
		return "", &Error{f.Name, "", "reading " + e.name, vfs.Damage(err)}
	}
	return text, nil
}
