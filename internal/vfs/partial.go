package vfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/herd-ml/herd/internal/lockfile"
)

// A Partial is a file that is written piece by piece, over hours perhaps. It grows in a
// folder beside its place, PATH.partial, and moves there when it is whole. What ends the
// run before leaves the folder, and the next run goes on after the last whole piece. A
// piece whose bytes are not those that were written, as after a loss of power, and what
// comes after it are written again.
type Partial struct {
	Pieces []Piece // those that are there
	path   string  // of the whole file
	data   *os.File
	notes  *os.File
	lock   *lockfile.Lock
	kept   int64  // bytes of the notes that say what is there
	sum    uint32 // of what is written after the last piece
	end    int64  // of that
}

// A Piece is a part of a Partial that has been written.
type Piece struct {
	End  int64           `json:"end"` // where the next begins
	Sum  uint32          `json:"sum"` // CRC-32C of its bytes
	Note json.RawMessage `json:"note"`
}

// PartialSuffix is what the folder of a Partial has after the name of the file.
const PartialSuffix = ".partial"

// The files in the folder.
const (
	partialData  = "data"
	partialNotes = "pieces.jsonl"
	partialLock  = "lock"
)

var partialFiles = []string{partialData, partialNotes, partialLock}

// maxNotes bounds the bytes of notes that are read.
const maxNotes = 256 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenPartial begins a file, or goes on with one. The key says what it is made of: pieces
// of another are discarded. A folder that is something else is left alone, and the error
// of one that another run is writing wraps lockfile.ErrHeld.
func OpenPartial(path, key string) (*Partial, error) {
	dir := path + PartialSuffix
	made := os.Mkdir(dir, 0o755)
	if errors.Is(made, fs.ErrExist) {
		if err := ours(dir); err != nil {
			return nil, err
		}
	} else if made != nil {
		return nil, made
	}
	p := &Partial{path: path}
	err := p.open(dir, key)
	switch {
	case err == nil:
		return p, nil
	case made == nil && !errors.Is(err, lockfile.ErrHeld):
		p.Remove()
	default:
		p.Close()
	}
	return nil, err
}

// open takes the lock, and opens the files for what comes after the pieces that are there.
func (p *Partial) open(dir, key string) (err error) {
	if p.lock, err = lockfile.Acquire(filepath.Join(dir, partialLock)); err != nil {
		return err
	}
	if p.data, err = os.OpenFile(filepath.Join(dir, partialData), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	if p.notes, err = os.OpenFile(filepath.Join(dir, partialNotes), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return err
	}
	if err := p.read(key); err != nil {
		return err
	}
	return p.cut(key)
}

// ours refuses a folder that holds anything but what a Partial does.
func ours(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(partialFiles, e.Name()) {
			return fmt.Errorf("%s: is in the way, and holds %q: move it away", dir, Clip(e.Name()))
		}
	}
	return nil
}

// read finds the pieces that are there. The first line of the notes is the key.
func (p *Partial) read(key string) error {
	lines := bufio.NewReader(io.NewSectionReader(p.notes, 0, maxNotes))
	if line, err := lines.ReadString('\n'); err != nil || line != key+"\n" {
		return nil
	}
	p.kept = int64(len(key) + 1)
	for {
		line, err := lines.ReadBytes('\n')
		var piece Piece
		if err != nil || json.Unmarshal(line, &piece) != nil || piece.End < p.end {
			return nil // the notes end, perhaps within a line
		}
		sum := crc32.New(castagnoli)
		n, err := io.Copy(sum, io.NewSectionReader(p.data, p.end, piece.End-p.end))
		if err != nil {
			return err
		}
		if n != piece.End-p.end || sum.Sum32() != piece.Sum {
			return nil
		}
		p.Pieces, p.end, p.kept = append(p.Pieces, piece), piece.End, p.kept+int64(len(line))
	}
}

// cut cuts both files after the pieces that are there, and writes the key where there is
// none.
func (p *Partial) cut(key string) error {
	if err := p.notes.Truncate(p.kept); err != nil {
		return err
	}
	if _, err := p.notes.Seek(p.kept, io.SeekStart); err != nil {
		return err
	}
	if p.kept == 0 {
		if _, err := p.notes.WriteString(key + "\n"); err != nil {
			return err
		}
	}
	if err := p.data.Truncate(p.end); err != nil {
		return err
	}
	_, err := p.data.Seek(p.end, io.SeekStart)
	return err
}

// Write appends to the file.
func (p *Partial) Write(b []byte) (int, error) {
	n, err := p.data.Write(b)
	p.sum = crc32.Update(p.sum, castagnoli, b[:n])
	p.end += int64(n)
	return n, err
}

// Commit makes a piece of what was written since the last, with a note that comes back in
// Pieces.
func (p *Partial) Commit(note any) error {
	piece := Piece{End: p.end, Sum: p.sum}
	var err error
	if piece.Note, err = json.Marshal(note); err != nil {
		return err
	}
	line, err := json.Marshal(piece)
	if err != nil {
		return err
	}
	if _, err := p.notes.Write(append(line, '\n')); err != nil {
		return err
	}
	p.Pieces, p.sum = append(p.Pieces, piece), 0
	return nil
}

// Finish moves the file to its place, over what is there, and removes the folder.
func (p *Partial) Finish() error {
	if err := p.data.Sync(); err != nil {
		return err
	}
	if err := p.data.Close(); err != nil {
		return err
	}
	if err := os.Rename(p.data.Name(), p.path); err != nil {
		return err
	}
	return p.Remove()
}

// Close leaves what is there for another run.
func (p *Partial) Close() error {
	var errs []error
	for _, f := range []*os.File{p.data, p.notes} {
		if f != nil {
			if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if p.lock != nil {
		errs = append(errs, p.lock.Release())
		p.lock = nil
	}
	return errors.Join(errs...)
}

// Remove is Close, and gives up what was written.
func (p *Partial) Remove() error {
	errs := []error{p.Close()}
	dir := p.path + PartialSuffix
	for _, name := range partialFiles {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}
