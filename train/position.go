package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Position is where an iterator stands between two batches, to be saved as
// JSON. Its fields mean nothing to others.
type Position struct {
	Files    string  `json:"files"`    // fingerprint of the files and how they are read
	Settings string  `json:"settings"` // fingerprint of what decides the tokens
	Seed     uint64  `json:"seed"`
	Tokens   int64   `json:"tokens"` // given so far
	Learnt   bool    `json:"learnt"` // a document had a target
	Epoch    int     `json:"epoch"`
	Given    int64   `json:"given"` // documents of this epoch
	Sum      uint64  `json:"sum"`   // checksum of their texts
	First    uint64  `json:"first"` // the same of all of the first epoch
	Next     Place   `json:"next"`  // where reading goes on
	Held     []Place `json:"held"`  // the documents in the shuffle buffer
	Random   string  `json:"random"`
	Open     *Place  `json:"open,omitempty"`   // the document partly used
	Used     int     `json:"used,omitempty"`   // its tokens used
	Length   int     `json:"length,omitempty"` // its tokens
	Ended    bool    `json:"ended,omitempty"`  // the data ended before a batch was full
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
	p := Position{Files: it.files, Settings: it.data.tokens, Seed: it.docs.seed, Tokens: it.tokens, Learnt: it.learnt, Ended: it.ended}
	it.docs.save(&p)
	if it.used < len(it.ids) {
		open := it.place
		p.Open, p.Used, p.Length = &open, it.used, len(it.ids)
	}
	return p
}

// ErrInexact is wrapped by the error of a run that could go on, but with other numbers than
// if it had not stopped.
var ErrInexact = errors.New("the run cannot go on exactly")

// Restore moves the iterator to a position that an iterator over the same data gave. The
// documents that follow are the same, bit for bit; rows and lengths of sequences may
// differ.
//
// Where files were changed, added or renamed since, or are read in another way, Restore
// reads again what was given before. If that is still the same, it goes on with the files
// as they are now. If not, or if the seed or the tokens have changed, it returns an error
// that wraps ErrInexact and leaves the iterator where it was.
func (it *Iterator) Restore(ctx context.Context, p Position) error {
	switch {
	case p.Settings != it.data.tokens:
		return fmt.Errorf("data: the tokenizer, or bos, eos or special, is not that of the saved position; %w", ErrInexact)
	case p.Seed != it.docs.seed:
		return fmt.Errorf("data: the seed is %d and was %d; %w", it.docs.seed, p.Seed, ErrInexact)
	}
	if p.Open != nil { // it may be elsewhere now
		open := *p.Open
		p.Open = &open
	}
	next := newDocuments(it.data, it.docs.files, it.docs.eval, it.docs.seed)
	next.reread = it.reread
	ids, err := it.reopen(ctx, next, p)
	if err != nil {
		next.close()
		return fmt.Errorf("data: the saved position does not fit the data: %w", err)
	}
	it.goOn(next, ids, p)
	return nil
}

// RestoreNear goes on with data that Restore refuses. It starts the epoch of the position
// and skips as many documents as that epoch had given. Some documents may then come twice
// in this epoch, and others not at all.
func (it *Iterator) RestoreNear(ctx context.Context, p Position) error {
	next := newDocuments(it.data, it.docs.files, it.docs.eval, it.docs.seed)
	next.reread = it.reread
	if next.epochs > 0 {
		p.Epoch = min(p.Epoch, next.epochs-1)
	}
	err := next.possible(p)
	if err == nil {
		_, err = next.skip(ctx, p)
	}
	if err != nil {
		next.close()
		return fmt.Errorf("data: %w", err)
	}
	p.Open, p.Used = nil, 0
	it.goOn(next, nil, p)
	return nil
}

// goOn makes docs, which stand at position p, the iterator's documents.
func (it *Iterator) goOn(docs *documents, ids []int32, p Position) {
	it.docs.close()
	it.docs, it.ids, it.used, it.tokens, it.learnt, it.ended, it.err = docs, ids, p.Used, p.Tokens, p.Learnt, p.Ended, nil
	if p.Open != nil {
		it.place = *p.Open
	}
	it.last = it.position()
}

// reopen moves s to a position. It returns the tokens of the document that was partly
// used there, and updates that document's place in p where files have changed.
func (it *Iterator) reopen(ctx context.Context, s *documents, p Position) ([]int32, error) {
	if p.Tokens < 0 {
		return nil, fmt.Errorf("%d tokens given", p.Tokens)
	}
	if p.Open == nil && p.Used != 0 {
		return nil, errors.New("tokens used of no document")
	}
	var open document
	if p.Files != it.files {
		last, err := s.replay(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("files, or how they are read, have changed: %w", err)
		}
		open = last
		if p.Open != nil {
			*p.Open = last.Place
		}
	} else if err := s.restore(ctx, p); err != nil {
		return nil, err
	}
	if p.Open == nil {
		return nil, nil
	}
	if p.Files == it.files {
		docs, err := s.read(ctx, []Place{*p.Open})
		if err != nil {
			return nil, err
		}
		open = docs[0]
	}
	ids, err := it.encode(nil, open)
	if err == nil && (len(ids) != p.Length || p.Used < 0 || p.Used >= len(ids)) {
		err = fmt.Errorf("%s has %d tokens, and had %d of which %d were used", it.where(*p.Open), len(ids), p.Length, p.Used)
	}
	return ids, err
}

// compare orders places by file and offset.
func (p Place) compare(q Place) int {
	return cmp.Or(cmp.Compare(p.File, q.File), cmp.Compare(p.Offset, q.Offset))
}
