package corpus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/vfs"
)

// Options say what is a document.
type Options struct {
	// Field is the field of a JSON row or the column of a parquet file that
	// holds the text; a dotted name looks into objects or groups where there is
	// no field of the whole name.
	Field string
	// Separator cuts text files into documents, wherever it stands: "\n\n" at
	// blank lines, "<|endoftext|>" at that mark. Line ends around a document are
	// cut off, and pieces of white space are none. Empty: a file is a document.
	Separator string
	// MaxBytes is the most that a document may have, and a JSON row with all of
	// its fields.
	MaxBytes int64
	// SkipEmpty leaves out rows whose text is missing, null or empty. They are
	// errors otherwise.
	SkipEmpty bool
	// ReplaceInvalid puts U+FFFD for bytes that are not UTF-8. They are errors
	// otherwise.
	ReplaceInvalid bool
}

// A Place is where in a file a document starts.
type Place struct {
	Offset int64 `json:"offset"` // bytes, of what was compressed; in parquet rows
	Line   int64 `json:"line"`   // lines or rows before it
}

// A Doc is a document.
type Doc struct {
	Text string
	At   Place // Seek to it and Next gives the document again
}

// A Reader gives the documents of a file in order. It serves one goroutine.
type Reader struct {
	file  File
	watch watch
	o     Options
	in    source
	whole bool // reads from the start on
	found bool // a document or an empty row since
}

// source is a kind of file. next returns a document's bytes, which are valid
// until the next call, or io.EOF.
type source interface {
	next() ([]byte, error)
	place() Place
	seek(Place) error
	wrong(at Place, reason string, err error) error
	close() error
}

// errNoText marks rows that SkipEmpty leaves out.
var errNoText = errors.New("no text")

// watch reads a file until its context ends. Each call of the Reader sets the context.
type watch struct {
	io.ReaderAt
	ctx context.Context
}

// ReadAt implements io.ReaderAt.
func (w *watch) ReadAt(p []byte, off int64) (int, error) {
	return ctxerr.Reader(w.ctx, w.ReaderAt).ReadAt(p, off)
}

// over makes a file that is read through w.
func (w *watch) over(f *vfs.File) *vfs.File {
	w.ReaderAt, f.ReaderAt = f.ReaderAt, w
	return f
}

// Open opens a file at its start. It may read all of it, if it is packed: until ctx ends.
func Open(ctx context.Context, f File, o Options) (*Reader, error) {
	k, p := kindOf(f.Path)
	if k == unknown {
		return nil, &Error{File: f.Path, Reason: "unknown kind of file: want " + accepted}
	}
	fsys, name := vfs.Split(f.Path)
	file, err := vfs.Open(fsys, name)
	if err != nil {
		return nil, &Error{File: f.Path, Reason: "cannot be opened", Err: vfs.Pathless(err)}
	}
	r := &Reader{file: f, o: o, whole: true, watch: watch{ctx: ctx}}
	file = r.watch.over(file)
	switch {
	case file.Size != f.Size:
		err = &Error{File: f.Path, Reason: fmt.Sprintf("the file has changed: it had %d bytes and has %d", f.Size, file.Size)}
	case k == columns:
		if p != plain {
			if file, err = unpacked(f.Path, file, p); err == nil {
				file = r.watch.over(file)
			}
		}
		if err == nil {
			r.in, err = openTable(f.Path, file, o)
		}
	default:
		r.in, err = openStream(f.Path, file, k, p, o)
	}
	if err != nil {
		file.Close()
		return nil, r.stopped(ctx, err)
	}
	return r, nil
}

// stopped returns the error of ctx where it has ended: that it could not be read is no
// fault of the file then.
func (r *Reader) stopped(ctx context.Context, err error) error {
	if ended := ctxerr.Of(ctx); err != nil && err != io.EOF && ended != nil {
		return fmt.Errorf("%s: %w", r.file.Path, ended)
	}
	return err
}

// Next returns the next document, or io.EOF after the last. After any other
// error, that of ctx too, the reader is of no use.
func (r *Reader) Next(ctx context.Context) (Doc, error) {
	r.watch.ctx = ctx
	doc, err := r.next()
	return doc, r.stopped(ctx, err)
}

func (r *Reader) next() (Doc, error) {
	for {
		at := r.in.place()
		b, err := r.in.next()
		switch {
		case err == io.EOF:
			if r.whole && !r.found {
				return Doc{}, &Error{File: r.file.Path, Reason: "the file holds no document"}
			}
			return Doc{}, io.EOF
		case errors.Is(err, errNoText) && r.o.SkipEmpty:
			r.found = true
			continue
		case err != nil:
			return Doc{}, err
		}
		s := string(b)
		if !utf8.ValidString(s) {
			if !r.o.ReplaceInvalid {
				return Doc{}, r.in.wrong(at, fmt.Sprintf("byte %d of the document is not UTF-8", invalidAt(s)), nil)
			}
			s = strings.ToValidUTF8(s, "\uFFFD")
		}
		r.found = true
		return Doc{Text: s, At: at}, nil
	}
}

// invalidAt returns where a string stops being UTF-8.
func invalidAt(s string) int {
	for i, c := range s {
		if c == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return i
			}
		}
	}
	return len(s)
}

// Place returns where Next goes on.
func (r *Reader) Place() Place { return r.in.place() }

// Seek goes to a place that a document or Place gave. Backwards in a compressed
// file it reads from the start again, until ctx ends; then the reader is of no use.
func (r *Reader) Seek(ctx context.Context, p Place) error {
	if p.Offset < 0 || p.Line < 0 {
		return &Error{File: r.file.Path, Reason: fmt.Sprintf("no place in a file: %+v", p)}
	}
	r.whole, r.found = p.Offset == 0, false
	r.watch.ctx = ctx
	return r.stopped(ctx, r.in.seek(p))
}

// Close closes the file.
func (r *Reader) Close() error { return r.in.close() }
