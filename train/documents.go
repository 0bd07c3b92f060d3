package train

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/herd-ml/herd/internal/corpus"
	"github.com/herd-ml/herd/internal/ctxerr"
)

// A Place is where a document starts.
type Place struct {
	File   int   `json:"file"`   // index in the list of files
	Offset int64 `json:"offset"` // bytes, of what was compressed; in parquet rows
	Line   int64 `json:"line"`   // lines or rows before it
}

func (p Place) inFile() corpus.Place { return corpus.Place{Offset: p.Offset, Line: p.Line} }

// document is a text and where it is from.
type document struct {
	Place
	text string
}

// documents gives the documents of files, epoch after epoch, shuffled. Its state
// is the place where it reads on, the places of the documents in the buffer, and
// the random state.
type documents struct {
	data   *Data
	files  []corpus.File
	eval   bool // gives what Holdout takes, else what it leaves
	seed   uint64
	epochs int                   // 0: without end
	buffer int                   // documents; 1 keeps the order
	reread func(documents int64) // told of those that replay and skip take, or nil

	epoch  int
	order  []int // of the files in this epoch
	at     int   // index in order of the file being read; len(order) at the end
	r      *corpus.Reader
	held   []document
	bytes  int       // of held
	random *rand.PCG // state of the epoch
	given  int64     // documents given in this epoch
	sum    uint64    // checksum of their texts, in order
	first  uint64    // the same of the whole first epoch, once it is over
}

// sums are checksums of texts: they tell data that was changed, not data that was forged.
var sums = crc64.MakeTable(crc64.ECMA)

// newDocuments starts the first epoch.
func newDocuments(d *Data, files []corpus.File, eval bool, seed uint64) *documents {
	s := &documents{data: d, files: files, eval: eval, seed: seed, epochs: d.c.Epochs, buffer: d.c.ShuffleBuffer}
	if eval {
		s.epochs = 1
	}
	if eval || d.c.Ordered {
		s.buffer = 1
	}
	s.start(0)
	return s
}

// start begins an epoch.
func (s *documents) start(epoch int) {
	s.epoch, s.at, s.given, s.sum = epoch, 0, 0, 0
	s.order = make([]int, len(s.files))
	for i := range s.order {
		s.order[i] = i
	}
	if s.buffer > 1 {
		r := rand.NewPCG(s.seed, uint64(epoch)<<1|1)
		for i := len(s.order) - 1; i > 0; i-- {
			j := below(r, i+1)
			s.order[i], s.order[j] = s.order[j], s.order[i]
		}
	}
	s.random = rand.NewPCG(s.seed, uint64(epoch)<<1)
}

// below returns a number in [0, n), the same in every version of Go and on
// every machine.
func below(r *rand.PCG, n int) int {
	hi, _ := bits.Mul64(r.Uint64(), uint64(n))
	return int(hi)
}

// next returns the next document, or io.EOF after the last epoch.
func (s *documents) next(ctx context.Context) (document, error) {
	for {
		doc, err := s.take(ctx)
		switch {
		case err != io.EOF:
			return doc, err
		case s.given == 0:
			return document{}, s.nothing()
		case s.epochs > 0 && s.epoch+1 >= s.epochs:
			return document{}, io.EOF
		}
		s.start(s.epoch + 1)
	}
}

// take returns the next document of this epoch, or io.EOF after its last.
func (s *documents) take(ctx context.Context) (document, error) {
	if err := s.fill(ctx); err != nil {
		return document{}, err
	}
	n := len(s.held)
	if n == 0 {
		if s.epoch == 0 {
			s.first = s.sum
		}
		return document{}, io.EOF
	}
	i := 0
	if n > 1 {
		i = below(s.random, n)
	}
	doc := s.held[i]
	s.held[i] = s.held[n-1]
	s.held[n-1] = document{}
	s.held = s.held[:n-1]
	s.bytes -= len(doc.text)
	s.given++
	s.sum = crc64.Update(s.sum, sums, binary.LittleEndian.AppendUint64(nil, uint64(len(doc.text))))
	s.sum = crc64.Update(s.sum, sums, []byte(doc.text))
	return doc, nil
}

// nothing is the error of an epoch without a document.
func (s *documents) nothing() error {
	switch {
	case s.eval && s.data.c.Holdout > 0:
		return fmt.Errorf("data: holdout %v takes none of the documents: there are too few", s.data.c.Holdout)
	case s.data.c.Holdout > 0:
		return fmt.Errorf("data: holdout %v leaves no document to train on", s.data.c.Holdout)
	}
	return errors.New("data: no row of the files has a text")
}

// fill reads documents until the buffer is full or the epoch ends.
func (s *documents) fill(ctx context.Context) error {
	for len(s.held) < s.buffer && (len(s.held) == 0 || s.bytes < s.data.bufferBytes) && s.at < len(s.order) {
		if err := ctxerr.Of(ctx); err != nil {
			return err
		}
		if s.r == nil {
			r, err := corpus.Open(ctx, s.files[s.order[s.at]], s.data.options())
			if err != nil {
				return err
			}
			s.r = r
		}
		doc, err := s.r.Next(ctx)
		if err == io.EOF {
			err = s.r.Close()
			s.r = nil
			s.at++
			if err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if s.data.heldOut(doc.Text) != (s.eval && s.data.c.Holdout > 0) {
			continue
		}
		s.held = append(s.held, document{Place{s.order[s.at], doc.At.Offset, doc.At.Line}, doc.Text})
		s.bytes += len(doc.Text)
	}
	return nil
}

func (s *documents) close() error {
	if s.r == nil {
		return nil
	}
	r := s.r
	s.r = nil
	return r.Close()
}

// save writes the state into a position.
func (s *documents) save(p *Position) {
	p.Epoch, p.Given, p.Sum, p.First = s.epoch, s.given, s.sum, s.first
	p.Next = Place{File: len(s.files)}
	if s.at < len(s.order) {
		p.Next.File = s.order[s.at]
		if s.r != nil {
			at := s.r.Place()
			p.Next.Offset, p.Next.Line = at.Offset, at.Line
		}
	}
	p.Held = make([]Place, len(s.held))
	for i, h := range s.held {
		p.Held[i] = h.Place
	}
	b, err := s.random.MarshalBinary()
	if err != nil {
		panic(err) // it has none
	}
	p.Random = base64.StdEncoding.EncodeToString(b)
}

// restore goes to a saved state.
func (s *documents) restore(ctx context.Context, p Position) error {
	if err := s.close(); err != nil {
		return err
	}
	if err := s.possible(p); err != nil {
		return err
	}
	if len(p.Held) > s.buffer {
		return fmt.Errorf("%d documents in the buffer", len(p.Held))
	}
	random, err := base64.StdEncoding.DecodeString(p.Random)
	if err != nil {
		return fmt.Errorf("random state: %w", err)
	}
	s.start(p.Epoch)
	if err := s.random.UnmarshalBinary(random); err != nil {
		return fmt.Errorf("random state: %w", err)
	}
	s.given, s.sum, s.first = p.Given, p.Sum, p.First
	if s.held, err = s.read(ctx, p.Held); err != nil {
		return err
	}
	s.bytes = 0
	for _, h := range s.held {
		s.bytes += len(h.text)
	}
	if s.at = len(s.order); p.Next.File == len(s.files) {
		return nil
	}
	if s.at = slices.Index(s.order, p.Next.File); s.at < 0 {
		return fmt.Errorf("file %d of %d", p.Next.File, len(s.files))
	}
	if s.r, err = corpus.Open(ctx, s.files[p.Next.File], s.data.options()); err != nil {
		return err
	}
	return s.r.Seek(ctx, p.Next.inFile())
}

// possible refuses a position whose epoch or number of documents cannot be.
func (s *documents) possible(p Position) error {
	if p.Epoch < 0 || s.epochs > 0 && p.Epoch >= s.epochs || p.Given < 0 {
		return fmt.Errorf("epoch %d, %d documents given", p.Epoch, p.Given)
	}
	return nil
}

// errGiven says that documents which a run has seen are no longer the same.
var errGiven = fmt.Errorf("documents that were given before are no longer the same; %w", ErrInexact)

// replay goes to a saved state whose places mean nothing any more, because files were
// changed. It reads again what was given, and returns the last document of that. It
// returns errGiven where that is not what was given before.
func (s *documents) replay(ctx context.Context, p Position) (last document, err error) {
	if err := s.possible(p); err != nil {
		return last, err
	}
	if p.Epoch > 0 { // all epochs have the same documents
		s.start(0)
		for err == nil {
			_, err = s.take(ctx)
			s.tell()
		}
		if err != io.EOF {
			return last, err
		}
		if s.first != p.First {
			return last, errGiven
		}
	}
	if last, err = s.skip(ctx, p); err != nil {
		return last, err
	}
	if s.given != p.Given || s.sum != p.Sum {
		return last, errGiven
	}
	return last, nil
}

// skip begins the epoch of a position and takes as many documents as it has given, or as
// there are. It returns the last.
func (s *documents) skip(ctx context.Context, p Position) (last document, err error) {
	for s.start(p.Epoch); s.given < p.Given; {
		doc, err := s.take(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return last, err
		}
		last = doc
		s.tell()
	}
	return last, nil
}

// tell reports how many documents were read again.
func (s *documents) tell() {
	if s.reread != nil {
		s.reread(s.given)
	}
}

// read reads the documents at places again, each file once from front to back.
func (s *documents) read(ctx context.Context, places []Place) ([]document, error) {
	order := make([]int, len(places))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return places[a].compare(places[b]) })
	docs := make([]document, len(places))
	var r *corpus.Reader
	defer func() {
		if r != nil {
			r.Close()
		}
	}()
	bytes := 0
	for n, i := range order {
		if err := ctxerr.Of(ctx); err != nil {
			return nil, err
		}
		p := places[i]
		if n > 0 && p.compare(places[order[n-1]]) == 0 {
			return nil, fmt.Errorf("the document at %d of file %d is there twice", p.Offset, p.File)
		}
		if p.File < 0 || p.File >= len(s.files) {
			return nil, fmt.Errorf("file %d of %d", p.File, len(s.files))
		}
		if n == 0 || places[order[n-1]].File != p.File {
			if r != nil {
				r.Close()
			}
			var err error
			if r, err = corpus.Open(ctx, s.files[p.File], s.data.options()); err != nil {
				r = nil
				return nil, err
			}
		}
		if err := r.Seek(ctx, p.inFile()); err != nil {
			return nil, err
		}
		doc, err := r.Next(ctx)
		if err == io.EOF {
			err = fmt.Errorf("%s has no document at %d", s.files[p.File].Path, p.Offset)
		}
		if err != nil {
			return nil, err
		}
		// The buffer took one more while it was below its limit.
		if bytes += len(doc.Text); int64(bytes) > int64(s.data.bufferBytes)+s.data.c.MaxDocument {
			return nil, fmt.Errorf("documents of more than %d bytes in the buffer", s.data.bufferBytes)
		}
		docs[i] = document{p, doc.Text}
	}
	return docs, nil
}
