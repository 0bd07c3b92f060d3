package cpu

import "github.com/herd-ml/herd/backend"

// pagedRows is Attention that rounds and whose keys and values lie in pages. It copies what
// is seen to rows of F32 and attends to these as training does, so that a session in mixed
// precision has the bits of training.
type pagedRows struct {
	attendTask
	args   backend.Args   // of the attention to rows
	layout backend.Layout // whose spans number those rows
	spans  []backend.Span
	pieces []pagePiece
}

// pagePiece is key rows [at, at+n) of a page of a segment, and the row where the first goes.
type pagePiece struct {
	s         *backend.Segment
	at, n, to int
}

// roundedPages reports whether Attention is of pages, all of them, and rounded.
func (e *exec) roundedPages(a *backend.Args) bool {
	for i := range a.Layout.Segments {
		if a.Layout.Segments[i].Pages == nil {
			return false
		}
	}
	return a.Round == backend.RoundBothBF16 && e.b.kernels.HasBF16Dot() && len(a.Layout.Segments) > 0
}

func (e *exec) attentionPages(a *backend.Args) {
	mark := e.arena.mark()
	defer e.arena.release(mark)
	t := &e.pagedRows
	t.attendTask = attendTask{a: a, hd: a.KV.HeadDim, wide: panels(a.KV.HeadDim) * panel}
	t.lay(a.Layout)
	t.args = *a
	t.args.Layout = &t.layout
	wide := backend.Dims(t.layout.Keys, a.KV.Heads*t.hd)
	t.args.In[1], t.args.In[2] = e.Alloc(backend.F32, wide), e.Alloc(backend.F32, wide)
	e.b.pool.run(t, len(t.pieces)*a.KV.Heads)
	e.attentionRows(&t.args)
	t.a = nil
	t.args.Reset()
	clear(t.pieces) // which keep pages alive
	clear(t.layout.Segments)
}

// lay numbers the rows of all spans, one after the other.
func (t *pagedRows) lay(l *backend.Layout) {
	t.layout = backend.Layout{Segments: append(t.layout.Segments[:0], l.Segments...), Pos: l.Pos}
	t.spans, t.pieces = t.spans[:0], t.pieces[:0]
	for i := range l.Segments {
		for _, sp := range l.Segments[i].Spans {
			t.spans = append(t.spans, backend.Span{Start: t.layout.Keys, Len: sp.Len})
			for at := sp.Start; at < sp.Start+sp.Len; {
				n := min(sp.Start+sp.Len-at, backend.PageLen-at%backend.PageLen)
				t.pieces = append(t.pieces, pagePiece{&l.Segments[i], at, n, t.layout.Keys})
				at, t.layout.Keys = at+n, t.layout.Keys+n
			}
		}
	}
	spans := t.spans
	for i := range t.layout.Segments {
		s := &t.layout.Segments[i]
		s.Pages, s.Spans, spans = nil, spans[:len(s.Spans)], spans[len(s.Spans):]
	}
}

// run writes a head of the keys and values of a piece to their rows.
func (t *pagedRows) run(w *worker, chunk int) {
	p := &t.pieces[chunk/t.a.KV.Heads]
	c := attending{attendTask: &t.attendTask, w: w, s: p.s, g: chunk % t.a.KV.Heads}
	c.buffers()
	k, v := c.keys(p.at, p.n, nil), c.values(p.at, p.n, nil)
	keys, values := elems[float32](&t.args.In[1]), elems[float32](&t.args.In[2])
	stride := t.args.In[1].RowStride()
	for r := range p.n {
		at := (p.to+r)*stride + c.g*t.hd
		copy(values[at:][:t.hd], v.f[r*v.stride:])
		for i := range t.hd {
			keys[at+i] = k.f[i*k.stride+r]
		}
	}
}
