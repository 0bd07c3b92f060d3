package train

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/herd-ml/herd/internal/ctxerr"
)

// Iterator packs documents into batches. Documents stand one after the other in
// the sequences; nothing is predicted across their borders. A document that does
// not fit is cut at the end of the sequence and goes on at the start of the next,
// where it sees nothing of its part before the cut. The last token before the cut
// still predicts the first token behind it. The last batch is filled with padding.
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
	ended  bool // the data ended inside the last batch

	spelled Spelled     // in the documents in use so far
	reread  func(int64) // told of documents that Restore reads again, or nil

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
	it := &Iterator{data: d, docs: s, rows: rows, seqLen: seqLen, files: d.filesFingerprint(s.files)}
	it.last = it.position()
	return it, nil
}

// Next returns the next batch, which is the caller's, or io.EOF after the last. If
// ctx had ended before the call, Next can be called again. After any other error it
// returns the same error until Restore.
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
		it.last.Ended = it.last.Ended || it.err == io.EOF
	}
	return nil, it.err
}

// pack lays documents into the next batch.
func (it *Iterator) pack(ctx context.Context) (*Batch, error) {
	it.ended = false
	b := &Batch{IDs: make([]int32, 0, it.rows*it.seqLen), Targets: make([]int32, 0, it.rows*it.seqLen)}
	for end := it.seqLen; end <= cap(b.IDs); end += it.seqLen {
		for len(b.IDs) < end {
			if it.used == len(it.ids) {
				err := it.nextDocument(ctx)
				if err == io.EOF && len(b.IDs) > 0 {
					it.ended = true
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
		it.spell(doc.text)
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

// spell counts the names of control tokens that stay text.
func (it *Iterator) spell(text string) {
	if it.data.c.Special == "always" {
		return
	}
	n, name := it.data.controls.count(text)
	if n == 0 {
		return
	}
	it.spelled.Tokens += int64(n)
	if it.spelled.Documents++; it.spelled.Documents == 1 {
		it.spelled.First = name
	}
}

// Spelled returns how much of the text that this iterator has read spells control tokens
// and was left text.
func (it *Iterator) Spelled() Spelled { return it.spelled }

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
