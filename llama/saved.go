package llama

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// A saved session is one file, numbers little-endian:
//
//	magic    "herd kv\n"
//	version  uint32
//	length   uint32, of the header
//	header   JSON, a savedHeader
//	ids      int32 [Positions]
//	pages    of each page, layer by layer, its keys and then its values
//	         [positions, Heads*HeadDim], in the order of the axes and in the type's own
//	         encoding; of the last page the positions that it holds
//	sum      SHA-256 of all before
const (
	savedMagic   = "herd kv\n"
	savedVersion = 1 // goes up when the layout changes, or what a model computes
	savedHead    = len(savedMagic) + 8
	savedHeader  = 4 << 10 // bytes at most
)

// savedFrom says what the positions of a file are and where they come from. All but the
// last two must be what the session has.
type savedFrom struct {
	Model     string `json:"model"` // its identity
	Device    string `json:"device"`
	Variant   string `json:"variant"` // of the kernels
	Precision string `json:"precision"`
	Type      string `json:"type"` // of keys and values
	Layers    int    `json:"layers"`
	Heads     int    `json:"heads"`
	HeadDim   int    `json:"head_dim"`

	Positions int  `json:"positions"`
	Private   bool `json:"private,omitempty"`
}

// from is what a file of the session begins with, without the model's identity.
func (s *Session) from() savedFrom {
	d, kv := s.m.b.Describe(), s.m.pages.kv
	return savedFrom{
		Device: d.Device, Variant: d.Variant, Precision: s.m.opts.Precision.String(),
		Type: kv.Type.String(), Layers: kv.Layers, Heads: kv.Heads, HeadDim: kv.HeadDim,
		Positions: len(s.ids), Private: s.private,
	}
}

// differs says in what a file's positions are of something else than those here, but for
// the model's identity.
func (f savedFrom) differs(here savedFrom) string {
	var list []string
	for _, v := range []struct {
		name        string
		there, here any
	}{
		{"device", f.Device, here.Device}, {"kernels", f.Variant, here.Variant}, {"precision", f.Precision, here.Precision},
		{"type of keys and values", f.Type, here.Type}, {"layers", f.Layers, here.Layers},
		{"key-value heads", f.Heads, here.Heads}, {"head size", f.HeadDim, here.HeadDim},
	} {
		if v.there != v.here {
			list = append(list, fmt.Sprintf("%s %s, not %v", v.name, vfs.Clip(fmt.Sprint(v.there)), v.here))
		}
	}
	return strings.Join(list, "; ")
}

// Save writes the session's positions, ids with keys and values, to a file, for Load. The
// file appears when it is complete, in the place of one that was there. The first Save or
// Load of a model reads all its weights once, to tell it from others.
func (s *Session) Save(ctx context.Context, path string) error {
	call, leave, err := s.claim(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.m.begin(); err != nil {
		return err
	}
	defer s.m.steps.Done()
	if len(s.ids) > 0 && s.version != s.m.version.Load() {
		return ErrStale
	}
	from := s.from()
	if from.Model, err = s.m.identity(call, s.request.segment.Adapters); err != nil {
		return err
	}
	err = vfs.WriteAtomic(path, func(w io.Writer) error { return s.write(call, w, from) })
	if err == nil && len(s.ids) > 0 && s.version != s.m.version.Load() {
		err = ErrStale // changed meanwhile: Load refuses the file
	}
	return err
}

func (s *Session) write(ctx context.Context, w io.Writer, from savedFrom) error {
	header, err := json.Marshal(from)
	if err != nil {
		return err
	}
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<16)
	b := binary.LittleEndian.AppendUint32([]byte(savedMagic), savedVersion)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(len(header))), header...)
	for _, id := range s.ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	if _, err := out.Write(b); err != nil {
		return err
	}
	c := newPageCodec(s.m.pages.kv)
	for i, p := range s.pages {
		if err := ended(ctx); err != nil {
			return err
		}
		if err := s.m.b.ReadPage(c.page, p.buf, c.kv); err != nil {
			return err
		}
		rows, err := c.encode(min(backend.PageLen, len(s.ids)-i*backend.PageLen))
		if err != nil {
			return err
		}
		if _, err := out.Write(rows); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// Load makes the session hold what Save wrote to a file, and nothing else. Calls that go on
// from there have the bits that they have without the file. Other sessions find the loaded
// pages as they find computed ones, so a caller must trust the file to be what Save wrote.
//
// A damaged file gives a *FileError. It wraps ErrOtherModel if another model, adapter,
// setting or kernel computed the positions, and ErrContextFull if there are more positions
// than the session can hold. After an error the session is as it was.
func (s *Session) Load(ctx context.Context, path string) error {
	call, leave, err := s.claim(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.m.begin(); err != nil {
		return err
	}
	defer s.m.steps.Done()
	f, err := vfs.Open(vfs.Split(path))
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the name
		}
		return &FileError{File: path, Reason: "cannot be opened", Err: err}
	}
	defer f.Close()
	n := s.m.newSession(s.limit, s.request.priority)
	defer n.Close()
	n.request.segment.Adapters = s.request.segment.Adapters
	n.version = s.m.version.Load()
	r := &savedReader{file: f, path: path, sum: sha256.New()}
	if err := r.load(call, n); err != nil {
		return err
	}
	if n.version != s.m.version.Load() {
		return ErrStale
	}
	for i, name := range n.names {
		s.m.pages.publish(n.pages[i], name)
	}
	s.truncate(0)
	s.version, s.private = n.version, n.private
	s.ids, n.ids = n.ids, s.ids
	s.m.pages.swap(s.pageList, n.pageList)
	s.bufs, n.bufs = n.bufs, s.bufs
	s.names, n.names = n.names, s.names
	return nil
}

// savedReader reads a file from its start to its end.
type savedReader struct {
	file *vfs.File
	path string
	at   int64
	sum  hash.Hash // of what has been read
}

// read fills b.
func (r *savedReader) read(b []byte) error {
	if _, err := vfs.ReadFull(r.file, b, r.at); err != nil {
		return r.damaged(err, "cannot be read")
	}
	r.at += int64(len(b))
	r.sum.Write(b)
	return nil
}

func (r *savedReader) damaged(cause error, format string, a ...any) error {
	return &FileError{File: r.path, Reason: fmt.Sprintf(format, a...), Err: vfs.Damage(cause)}
}

// load fills an empty session.
func (r *savedReader) load(ctx context.Context, s *Session) error {
	from, err := r.header()
	if err != nil {
		return err
	}
	c := newPageCodec(s.m.pages.kv)
	if err := r.check(from, s, c.bytes(1)); err != nil {
		return err
	}
	model, err := s.m.identity(ctx, s.request.segment.Adapters)
	if err != nil {
		return err
	}
	if from.Model != model {
		return &FileError{File: r.path, Reason: "its positions were computed with other weights or adapters", Err: ErrOtherModel}
	}
	b := make([]byte, 4*from.Positions)
	if err := r.read(b); err != nil {
		return err
	}
	ids := make([]int32, from.Positions)
	for i := range ids {
		ids[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	if err := s.m.checkIDs(ids); err != nil {
		return r.damaged(err, "is no session of the model")
	}
	s.private = from.Private
	for len(s.ids) < len(ids) {
		some := ids[len(s.ids):min(len(s.ids)+backend.PageLen, len(ids))]
		if err := r.read(c.raw[:c.bytes(len(some))]); err != nil {
			return err
		}
		i, whole := len(s.ids)/backend.PageLen, len(some) == backend.PageLen && !s.private
		if whole && s.share(i, ids) {
			continue
		}
		if err := s.appendPage(ctx, some, c.decode(len(some))); err != nil {
			return err
		}
		if whole {
			s.names = append(s.names, s.name(i, ids))
		}
	}
	want := r.sum.Sum(nil)
	got := make([]byte, len(want))
	if err := r.read(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return r.damaged(nil, "its checksum is not that of what it holds")
	}
	return nil
}

// header reads what comes before the ids.
func (r *savedReader) header() (from savedFrom, err error) {
	head := make([]byte, savedHead)
	if r.file.Size < int64(len(head)) {
		return from, r.damaged(io.ErrUnexpectedEOF, "its %d bytes are no saved session", r.file.Size)
	}
	if err := r.read(head); err != nil {
		return from, err
	}
	text, ok := bytes.CutPrefix(head, []byte(savedMagic))
	if !ok {
		kind := r.file.Kind()
		if kind == "" {
			kind = "something else"
		}
		return from, checkpoint.Errorf(r.path, "", "is no saved session: it is %s", kind)
	}
	if v := binary.LittleEndian.Uint32(text); v != savedVersion {
		return from, &FileError{File: r.path, Reason: fmt.Sprintf("is a session of version %d, want %d", v, savedVersion), Err: ErrOtherModel}
	}
	n := binary.LittleEndian.Uint32(text[4:])
	if n > savedHeader || int64(n) > r.file.Size-r.at {
		return from, r.damaged(nil, "its header of %d bytes is too long", n)
	}
	b := make([]byte, n)
	if err := r.read(b); err != nil {
		return from, err
	}
	if err := jsontext.Unmarshal(b, &from); err != nil {
		return from, r.damaged(err, "its header cannot be read")
	}
	return from, nil
}

// check refuses what does not fit a session, of whose positions each takes so many bytes,
// and a file of another length than its header says.
func (r *savedReader) check(from savedFrom, s *Session, position int) error {
	if d := from.differs(s.from()); d != "" {
		return &FileError{File: r.path, Reason: "its positions were computed by another model or otherwise: " + d, Err: ErrOtherModel}
	}
	if from.Positions < 0 || from.Positions > math.MaxInt32 {
		return r.damaged(nil, "it says to hold %d positions", from.Positions)
	}
	if from.Positions > s.limit {
		return &FileError{File: r.path, Reason: fmt.Sprintf("holds %d positions, the session has %d", from.Positions, s.limit), Err: ErrContextFull}
	}
	body, ok := mul(int64(from.Positions), 4+int64(position))
	if !ok {
		return r.damaged(nil, "it says to hold %d positions", from.Positions)
	}
	switch left := r.file.Size - r.at - sha256.Size; {
	case left < body:
		return r.damaged(io.ErrUnexpectedEOF, "has %d bytes for %d positions, which take %d", left, from.Positions, body)
	case left > body:
		return r.damaged(nil, "has %d bytes for %d positions, which take %d", left, from.Positions, body)
	}
	return nil
}

// pageCodec turns pages into the bytes of a file and back.
type pageCodec struct {
	kv   backend.KV
	page []float32 // [Layers, 2, Heads, PageLen, HeadDim]
	rows []float32 // [Layers, 2, n, Heads*HeadDim]
	raw  []byte    // of rows, in the type's encoding
}

func newPageCodec(kv backend.KV) *pageCodec {
	c := &pageCodec{kv: kv, page: make([]float32, kv.Elems()), rows: make([]float32, kv.Elems())}
	c.raw = make([]byte, c.bytes(backend.PageLen))
	return c
}

// bytes is what n positions take.
func (c *pageCodec) bytes(n int) int {
	return c.kv.Elems() / backend.PageLen / c.kv.Type.BlockElems() * c.kv.Type.BlockBytes() * n
}

// encode is the first n positions of the page.
func (c *pageCodec) encode(n int) ([]byte, error) {
	heads, width, to := c.kv.Heads, c.kv.HeadDim, c.rows
	for r := range c.kv.Layers * 2 {
		for slot := range n {
			for head := range heads {
				copy(to[:width], c.page[((r*heads+head)*backend.PageLen+slot)*width:])
				to = to[width:]
			}
		}
	}
	raw := c.raw[:c.bytes(n)]
	x := c.rows[:c.kv.Elems()/backend.PageLen*n]
	if c.kv.Type.Float() {
		block.Encode(c.kv.Type, raw, x)
		return raw, nil
	}
	// The largest code of a block is 127, so that its scale is found again, and the codes.
	if err := block.EncodeRow(c.kv.Type, raw, x, nil); err != nil {
		return nil, fmt.Errorf("llama: keys and values that cannot be saved: %w", err)
	}
	return raw, nil
}

// decode gives the keys and values [n, Heads*HeadDim] of a layer of the first n positions
// of what was read.
func (c *pageCodec) decode(n int) func(layer int) (k, v []float32) {
	block.Decode(c.kv.Type, c.rows[:c.kv.Elems()/backend.PageLen*n], c.raw[:c.bytes(n)])
	size := n * c.kv.Heads * c.kv.HeadDim
	return func(layer int) (k, v []float32) {
		rows := c.rows[2*layer*size:]
		return rows[:size], rows[size:][:size]
	}
}
