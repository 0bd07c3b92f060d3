package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/herd-ml/herd/internal/ctxerr"
)

// Iterator packs documents into batches. Documents stand one after the other, in
// as many sequences as there are; nothing is predicted across their borders. One
// that does not fit is cut at the end of the sequence and goes on at the start of
// the next, where it sees nothing of what came before; the last token before the
// cut still predicts the first behind it. The last batch is filled with padding.
//
// Nothing runs in the background: reading and tokenising is a few microseconds of
// a step that takes many milliseconds.
type Iterator struct {
	data         *Data
	docs         *documents
	rows, seqLen int
	files        string // fingerprint

	place  Place // of the document in use
	ids    []int32
	used   int // of ids
	tokens int64
	learnt bool // a document had a target

	last Position // after the last good batch
	err  error    // that ended it
}

// Train returns an iterator over what there is to train on, in batches of rows
// sequences of seqLen tokens. The same seed gives the same batches.
func (d *Data) Train(rows, seqLen int, seed uint64) (*Iterator, error) {
	return d.iterator(newDocuments(d, d.train, false, seed), rows, seqLen)
}

// Eval returns an iterator that goes once over the held-out documents, in their
// order.
func (d *Data) Eval(rows, seqLen int) (*Iterator, error) {
	switch {
	case d.c.Holdout > 0:
		return d.iterator(newDocuments(d, d.train, true, 0), rows, seqLen)
	case len(d.eval) > 0:
		return d.iterator(newDocuments(d, d.eval, true, 0), rows, seqLen)
	}
	return nil, errors.New("data: nothing is held out: set holdout or eval_files")
}

func (d *Data) iterator(s *documents, rows, seqLen int) (*Iterator, error) {
	if rows < 1 || seqLen < 2 || rows > maxBatchToken/seqLen {
		return nil, fmt.Errorf("data: batches of %d sequences of %d tokens, want at least 1 of 2 and at most %d tokens", rows, seqLen, maxBatchToken)
	}
	it := &Iterator{data: d, docs: s, rows: rows, seqLen: seqLen, files: filesFingerprint(s.files)}
	it.last = it.position()
	return it, nil
}

// Next returns the next batch, which is the caller's, or io.EOF after the last.
// After any other error than that of ctx before it began, Next returns the same
// again until Restore.
func (it *Iterator) Next(ctx context.Context) (*Batch, error) {
	if it.err == nil {
		if err := ctxerr.Of(ctx); err != nil {
			return nil, err
		}
		var b *Batch
		for it.err == nil {
			if b, it.err = it.pack(ctx); it.err == nil && b.Tokens > 0 {
				it.last = it.position()
				return b, nil
			}
		}
	}
	return nil, it.err
}

// pack lays documents into the next batch.
func (it *Iterator) pack(ctx context.Context) (*Batch, error) {
	b := &Batch{IDs: make([]int32, 0, it.rows*it.seqLen), Targets: make([]int32, 0, it.rows*it.seqLen)}
	for end := it.seqLen; end <= cap(b.IDs); end += it.seqLen {
		for len(b.IDs) < end {
			if it.used == len(it.ids) {
				err := it.nextDocument(ctx)
				if err == io.EOF && len(b.IDs) > 0 {
					break
				}
				if err != nil {
					return nil, err
				}
			}
			n := min(len(it.ids)-it.used, end-len(b.IDs))
			if it.data.c.WholeDocuments && n < len(it.ids) {
				if len(it.ids) > it.seqLen {
					return nil, it.tooLong()
				}
				break
			}
			it.lay(b, n)
		}
		it.pad(b, end)
	}
	return b, nil
}

// lay appends the next n tokens of the document in use as a piece.
func (it *Iterator) lay(b *Batch, n int) {
	next := it.used + n
	b.IDs = append(b.IDs, it.ids[it.used:next]...)
	b.Targets = append(b.Targets, it.ids[it.used+1:min(next+1, len(it.ids))]...)
	b.Tokens += min(next+1, len(it.ids)) - it.used - 1
	if next == len(it.ids) {
		b.Targets = append(b.Targets, NoTarget)
	}
	b.Docs = append(b.Docs, n)
	it.used = next
	it.tokens += int64(n)
}

// pad fills a sequence up.
func (it *Iterator) pad(b *Batch, end int) {
	n := end - len(b.IDs)
	if n == 0 {
		return
	}
	filler := int32(0)
	if len(it.data.after) > 0 {
		filler = it.data.after[0]
	}
	for range n {
		b.IDs = append(b.IDs, filler)
		b.Targets = append(b.Targets, NoTarget)
	}
	b.Docs = append(b.Docs, n)
}

// nextDocument takes the next document that has a token into use.
func (it *Iterator) nextDocument(ctx context.Context) error {
	for {
		epoch := it.docs.epoch
		doc, err := it.docs.next(ctx)
		if !it.learnt && (it.docs.epoch != epoch || err == io.EOF) {
			return errors.New("data: no document has two tokens: there is nothing to learn")
		}
		if err != nil {
			return err
		}
		if it.ids, err = it.encode(it.ids[:0], doc); err != nil {
			return err
		}
		it.used = 0
		if it.place = doc.Place; len(it.ids) > 0 {
			it.learnt = it.learnt || len(it.ids) > 1
			return nil
		}
	}
}

func (it *Iterator) encode(ids []int32, doc document) ([]int32, error) {
	ids, err := it.data.encode(ids, doc.text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", it.where(doc.Place), err)
	}
	return ids, nil
}

// where names a document.
func (it *Iterator) where(p Place) string {
	return fmt.Sprintf("%s: the document at line or row %d", it.docs.files[p.File].Path, p.Line+1)
}

func (it *Iterator) tooLong() error {
	return fmt.Errorf("%s has %d tokens, a sequence %d, and whole_documents cuts none", it.where(it.place), len(it.ids), it.seqLen)
}

// Epoch returns the epoch of the next document, from 0.
func (it *Iterator) Epoch() int { return it.last.Epoch }

// Tokens returns how many tokens of documents were given.
func (it *Iterator) Tokens() int64 { return it.last.Tokens }

// Close closes the file that is open.
func (it *Iterator) Close() error {
	if it.err == nil {
		it.err = errors.New("data: the iterator is closed")
	}
	return it.docs.close()
}

// A Position is where an iterator stands between two batches, to be saved as
// JSON. Its fields mean nothing to others.
type Position struct {
	Files    string  `json:"files"`    // fingerprint of names and sizes
	Settings string  `json:"settings"` // fingerprint of what decides the order
	Seed     uint64  `json:"seed"`
	Tokens   int64   `json:"tokens"` // given so far
	Learnt   bool    `json:"learnt"` // a document had a target
	Epoch    int     `json:"epoch"`
	Given    int64   `json:"given"` // documents of this epoch
	Next     Place   `json:"next"`  // where reading goes on
	Held     []Place `json:"held"`  // the documents in the shuffle buffer
	Random   string  `json:"random"`
	Open     *Place  `json:"open,omitempty"`   // the document partly used
	Used     int     `json:"used,omitempty"`   // its tokens used
	Length   int     `json:"length,omitempty"` // its tokens
}

// Position returns where the iterator stands: behind the last batch that Next
// returned.
func (it *Iterator) Position() Position {
	p := it.last
	p.Held = slices.Clone(p.Held)
	if p.Open != nil {
		open := *p.Open
		p.Open = &open
	}
	return p
}

func (it *Iterator) position() Position {
	p := Position{Files: it.files, Settings: it.data.settings, Seed: it.docs.seed, Tokens: it.tokens, Learnt: it.learnt}
	it.docs.save(&p)
	if it.used < len(it.ids) {
		open := it.place
		p.Open, p.Used, p.Length = &open, it.used, len(it.ids)
	}
	return p
}

// Restore goes to a position that an iterator over the same data gave: what
// follows is the same, bit for bit. Rows and lengths of sequences may differ.
// Where files or settings have changed it is an error that says which, and the
// iterator is where it was.
func (it *Iterator) Restore(ctx context.Context, p Position) error {
	switch {
	case p.Files != it.files:
		return errors.New("data: the files are not those of the saved position: names, sizes or their number have changed; the run cannot go on exactly")
	case p.Settings != it.data.settings:
		return errors.New("data: the settings or the tokenizer are not those of the saved position; the run cannot go on exactly")
	case p.Seed != it.docs.seed:
		return fmt.Errorf("data: the seed is %d and was %d; the run cannot go on exactly", it.docs.seed, p.Seed)
	}
	next := newDocuments(it.data, it.docs.files, it.docs.eval, it.docs.seed)
	ids, err := it.reopen(ctx, next, p)
	if err != nil {
		next.close()
		return fmt.Errorf("data: the saved position does not fit the data: %w", err)
	}
	it.docs.close()
	it.docs, it.ids, it.used, it.tokens, it.learnt, it.err = next, ids, p.Used, p.Tokens, p.Learnt, nil
	if p.Open != nil {
		it.place = *p.Open
	}
	it.last = it.position()
	return nil
}

// reopen brings documents to a position and returns the tokens of the document
// partly used.
func (it *Iterator) reopen(ctx context.Context, s *documents, p Position) ([]int32, error) {
	if p.Tokens < 0 {
		return nil, fmt.Errorf("%d tokens given", p.Tokens)
	}
	if err := s.restore(ctx, p); err != nil {
		return nil, err
	}
	if p.Open == nil {
		if p.Used != 0 {
			return nil, errors.New("tokens used of no document")
		}
		return nil, nil
	}
	docs, err := s.read(ctx, []Place{*p.Open})
	if err != nil {
		return nil, err
	}
	ids, err := it.encode(nil, docs[0])
	if err == nil && (len(ids) != p.Length || p.Used < 0 || p.Used >= len(ids)) {
		err = fmt.Errorf("%s has %d tokens, and had %d of which %d were used", it.where(*p.Open), len(ids), p.Length, p.Used)
	}
	return ids, err
}

// compare orders places by file and offset.
func (p Place) compare(q Place) int {
	return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Offset, q.Offset))
}
