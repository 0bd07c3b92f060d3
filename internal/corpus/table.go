package corpus

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/herd-ml/herd/internal/vfs"
	"github.com/parquet-go/parquet-go"
)

// table is a parquet file, of which one column is read.
type table struct {
	path   string
	file   *vfs.File
	o      Options
	open   *parquet.File
	column *parquet.Column
	starts []int64 // the first row of each group, and the number of rows

	row    int64 // that comes next
	group  int   // of pages
	pages  parquet.Pages
	page   parquet.Page
	values parquet.ValueReader
	ahead  [64]parquet.Value
	have   []parquet.Value // of ahead
}

func openTable(path string, f *vfs.File, o Options) (*table, error) {
	t := &table{path: path, file: f, o: o}
	if err := t.guard(t.readFooter); err != nil {
		return nil, &Error{File: path, Reason: "not a parquet file that can be read", Err: err}
	}
	column, err := findColumn(t.open.Root(), o.Field)
	if err != nil {
		return nil, &Error{File: path, Reason: "the file cannot be used", Err: err}
	}
	t.column = column
	return t, nil
}

// maxUnpacked bounds the temporary file of a parquet file that is packed as a whole.
const maxUnpacked = 64 << 30

// unpacked is a parquet file that was packed as a whole, whose end must be read first,
// in a temporary file. It closes the packed one.
func unpacked(path string, packed *vfs.File, p packing) (*vfs.File, error) {
	defer packed.Close()
	r, free, err := p.unpack(io.NewSectionReader(packed, 0, packed.Size))
	if err == nil {
		defer free()
		var f *vfs.File
		if f, err = vfs.Temp(r, maxUnpacked, path); err == nil {
			return f, nil
		}
	}
	return packed, &Error{File: path, Reason: "cannot be unpacked", Err: err}
}

// guard turns a panic of the parquet library, which broken files can bring
// about, into an error.
func (t *table) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the file is broken: %v", p)
		}
	}()
	return f()
}

func (t *table) readFooter() error {
	if err := checkFooter(t.file); err != nil {
		return err
	}
	f, err := parquet.OpenFile(t.file, t.file.Size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	t.open, t.starts = f, []int64{0}
	rows := int64(0)
	for _, g := range f.RowGroups() {
		n := g.NumRows()
		if n < 0 || rows+n < rows {
			return fmt.Errorf("a group of %d rows after %d", n, rows)
		}
		rows += n
		t.starts = append(t.starts, rows)
	}
	return nil
}

// findColumn finds a column of one string a row by its name or path.
func findColumn(root *parquet.Column, field string) (*parquet.Column, error) {
	c := root.Column(field)
	if c == nil {
		c = root
		for part := range strings.SplitSeq(field, ".") {
			if c = c.Column(part); c == nil {
				break
			}
		}
	}
	if c == nil {
		for _, chat := range chatFields {
			if root.Column(chat) != nil {
				return nil, errChat(chat)
			}
		}
		var all []string
		for _, c := range root.Columns() {
			all = append(all, c.Name())
		}
		return nil, fmt.Errorf("it has no column %q%s", field, names(all))
	}
	if !c.Leaf() || c.MaxRepetitionLevel() > 0 || c.Type().Kind() != parquet.ByteArray {
		return nil, fmt.Errorf("column %q does not hold one string a row", field)
	}
	return c, nil
}

func (t *table) wrong(at Place, reason string, err error) error {
	return &Error{File: t.path, Row: at.Offset + 1, Reason: reason, Err: err}
}

func (t *table) place() Place { return Place{Offset: t.row, Line: t.row} }

func (t *table) seek(p Place) error {
	if rows := t.starts[len(t.starts)-1]; p.Offset > rows {
		return t.wrong(p, fmt.Sprintf("the file has %d rows", rows), nil)
	}
	t.release()
	t.row = p.Offset
	return nil
}

func (t *table) next() (doc []byte, err error) {
	at := t.place()
	if at.Offset == t.starts[len(t.starts)-1] {
		return nil, io.EOF
	}
	var v parquet.Value
	if err := t.guard(func() (err error) { v, err = t.nextValue(); return err }); err != nil {
		return nil, t.wrong(at, "the column cannot be read", eof(err))
	}
	t.row++
	switch {
	case v.IsNull():
		return nil, t.wrong(at, "the row cannot be used", fmt.Errorf("%w: column %q is null", errNoText, t.o.Field))
	case v.Kind() != parquet.ByteArray:
		return nil, t.wrong(at, "the row cannot be used", errors.New("it is no string"))
	}
	doc = v.ByteArray()
	switch {
	case len(doc) == 0:
		return nil, t.wrong(at, "the row cannot be used", fmt.Errorf("%w: column %q is empty", errNoText, t.o.Field))
	case int64(len(doc)) > t.o.MaxBytes:
		return nil, t.wrong(at, fmt.Sprintf("the document has %d bytes, of %d allowed", len(doc), t.o.MaxBytes), nil)
	}
	return doc, nil
}

// nextValue returns the value of the current row. It is valid until the next
// call.
func (t *table) nextValue() (parquet.Value, error) {
	for len(t.have) == 0 {
		if t.values == nil {
			if err := t.nextPage(); err != nil {
				return parquet.Value{}, err
			}
		}
		n, err := t.values.ReadValues(t.ahead[:])
		t.have = t.ahead[:n]
		if err == io.EOF && n == 0 {
			t.values = nil
		} else if err != nil && err != io.EOF {
			return parquet.Value{}, err
		}
	}
	v := t.have[0]
	t.have = t.have[1:]
	return v, nil
}

// nextPage opens the page that holds the current row.
func (t *table) nextPage() error {
	if t.page != nil {
		parquet.Release(t.page)
		t.page = nil
	}
	if t.pages != nil && t.row >= t.starts[t.group+1] {
		t.release()
	}
	if t.pages == nil {
		t.group = 0
		for t.row >= t.starts[t.group+1] {
			t.group++
		}
		if err := checkPages(t.open, t.group, t.column.Index()); err != nil {
			return err
		}
		t.pages = t.open.RowGroups()[t.group].ColumnChunks()[t.column.Index()].Pages()
		if skip := t.row - t.starts[t.group]; skip > 0 {
			if err := t.pages.SeekToRow(skip); err != nil {
				return err
			}
		}
	}
	page, err := t.pages.ReadPage()
	if err != nil {
		return err
	}
	t.page, t.values = page, page.Values()
	return nil
}

// release lets go of the pages.
func (t *table) release() {
	if t.page != nil {
		parquet.Release(t.page)
	}
	if t.pages != nil {
		t.pages.Close()
	}
	t.page, t.pages, t.values, t.have = nil, nil, nil, nil
}

func (t *table) close() error {
	t.release()
	return t.file.Close()
}
