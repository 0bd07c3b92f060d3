package tensor_test

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/tensor"
)

// Sizes of the attention tests.
const (
	heads, kvHeads, hd = 4, 2, 8
	width, kvWidth     = heads * hd, kvHeads * hd
)

var geometry = backend.KV{Type: backend.F32, Layers: 2, Heads: kvHeads, HeadDim: hd}

// A keyed row is the key and value of one position, [kvWidth] each.
type keyed struct{ k, v []float32 }

// attend is what a query row [width] gets from the rows it sees.
func attend(q []float32, seen []keyed, scale float64) []number {
	var out []number
	for h := range heads {
		from := h / (heads / kvHeads) * hd // of the head's keys
		scores, weights := make([]float64, len(seen)), 0.0
		for t, row := range seen {
			for i := range hd {
				scores[t] += scale * float64(q[h*hd+i]) * float64(row.k[from+i])
			}
		}
		most := slices.Max(scores)
		for t := range scores {
			scores[t] = math.Exp(scores[t] - most)
			weights += scores[t]
		}
		for i := range hd {
			var sum, size float64
			for t, row := range seen {
				p := scores[t] / weights * float64(row.v[from+i])
				sum += p
				size += math.Abs(p)
			}
			// A weight is off by the roundings of its score, which is a few.
			out = append(out, number{sum, float64(len(seen)+200) * u * size})
		}
	}
	return out
}

// split puts keys and values into a matrix each.
func split(rows []keyed) (k, v []float32) {
	for _, row := range rows {
		k, v = append(k, row.k...), append(v, row.v...)
	}
	return k, v
}

func randomRows(n int) (q [][]float32, kv []keyed) {
	for range n {
		q = append(q, random(width))
		kv = append(kv, keyed{random(kvWidth), random(kvWidth)})
	}
	return q, kv
}

// TestAttentionRows: keys in the rows of the step itself, as in training: a
// document, a prompt, and two responses that share the prompt.
func TestAttentionRows(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const rows = 12
		layout := &backend.Layout{Pos: make([]int32, rows), Segments: []backend.Segment{
			{Row: 0, Rows: 3, Spans: []backend.Span{{Start: 0, Len: 3}}},
			{Row: 3, Rows: 4, Spans: []backend.Span{{Start: 3, Len: 4}}},
			{Row: 7, Rows: 2, Spans: []backend.Span{{Start: 3, Len: 4}, {Start: 7, Len: 2}}},
			{Row: 9, Rows: 3, Spans: []backend.Span{{Start: 3, Len: 4}, {Start: 9, Len: 3}}},
		}}
		q, kv := randomRows(rows)
		var want []number
		for _, s := range layout.Segments {
			for j := range s.Rows {
				var seen []keyed
				for _, span := range s.Spans[:len(s.Spans)-1] {
					seen = append(seen, kv[span.Start:span.Start+span.Len]...)
				}
				seen = append(seen, kv[s.Row:s.Row+j+1]...)
				want = append(want, attend(q[s.Row+j], seen, 0.3)...)
			}
		}
		k, v := split(kv)
		c := newContext(t, b, tensor.Options{})
		step(t, c, layout, geometry, func() {
			y := tensor.Attention(c, write(c, slices.Concat(q...), rows, width), write(c, k, rows, kvWidth), write(c, v, rows, kvWidth), tensor.AttentionOptions{Scale: 0.3})
			compare(t, "Attention", read(c, y), want)
		})
	})
}

// sequence is what a test knows of a sequence in pages: per layer the rows.
type sequence struct {
	pages []backend.Buffer
	rows  [2][]keyed
}

// append adds n rows to a layer and returns their queries.
func (s *sequence) append(layer, n int, typ backend.DType) (q [][]float32, new []keyed) {
	q, new = randomRows(n)
	for _, row := range new {
		s.rows[layer] = append(s.rows[layer], keyed{stored(row.k, typ), stored(row.v, typ)})
	}
	return q, new
}

// stored is what a page of a type makes of numbers.
func stored(x []float32, typ backend.DType) []float32 {
	raw := make([]byte, len(x)*typ.BlockBytes())
	out := make([]float32, len(x))
	block.Encode(typ, raw, x)
	block.Decode(typ, out, raw)
	return out
}

func (s *sequence) grow(t *testing.T, b backend.Backend, kv backend.KV, rows int) {
	for len(s.pages)*backend.PageLen < rows {
		p, err := b.Alloc(b.PageBytes(kv))
		check(t, err)
		t.Cleanup(p.Free)
		s.pages = append(s.pages, p)
	}
}

// TestAttentionPages: two sequences in steps of several rows, over page
// boundaries, in two layers of the same pages; then one goes on in a copy of
// its last page.
func TestAttentionPages(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, typ := range []backend.DType{backend.F32, backend.F16} {
			kv := geometry
			kv.Type = typ
			c := newContext(t, b, tensor.Options{})
			seqs := make([]sequence, 2)
			run := func(news ...int) {
				t.Helper()
				layout := &backend.Layout{}
				for i, n := range news {
					if n == 0 {
						continue
					}
					held := len(seqs[i].rows[0])
					seqs[i].grow(t, b, kv, held+n)
					layout.Segments = append(layout.Segments, backend.Segment{
						Row: layout.Rows(), Rows: n, Pages: seqs[i].pages, Spans: []backend.Span{{Len: held + n}},
					})
					layout.Pos = append(layout.Pos, make([]int32, n)...)
				}
				step(t, c, layout, kv, func() {
					for layer := range 2 {
						var q [][]float32
						var rows []keyed
						var want []number
						for i, n := range news {
							sq, new := seqs[i].append(layer, n, typ)
							q, rows = append(q, sq...), append(rows, new...)
							all := seqs[i].rows[layer]
							for j := range n {
								want = append(want, attend(sq[j], all[:len(all)-n+j+1], 0.5)...)
							}
						}
						k, v := split(rows)
						y := tensor.Attention(c, write(c, slices.Concat(q...), len(q), width),
							write(c, k, len(q), kvWidth), write(c, v, len(q), kvWidth), tensor.AttentionOptions{Layer: layer, Scale: 0.5})
						compare(t, typ.String(), read(c, y), want)
					}
				})
			}
			run(70, 9)
			run(3, 1)
			run(0, 60)
			run(1, 0)

			old := &seqs[0].pages[1]
			fresh, err := b.Alloc(b.PageBytes(kv))
			check(t, err)
			t.Cleanup(fresh.Free)
			step(t, c, nil, kv, func() { c.CopyPage(fresh, *old) })
			check(t, b.Upload(*old, 0, make([]byte, (*old).Size())))
			*old = fresh
			run(2, 2)
		}
	})
}

// TestCrossAttention: the rows of a text attend to a source whose keys and values are
// appended once, to pages of another geometry, in the step of the prompt or before it, and
// to the pages of the text itself; later steps read what the pages hold. Two texts see
// different parts of the source, and a third nothing of it.
func TestCrossAttention(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, before := range []bool{false, true} {
			testCrossAttention(t, b, before)
		}
	})
}

func testCrossAttention(t *testing.T, b backend.Backend, before bool) {
	const length, layer = 150, 2
	kv := backend.KV{Type: backend.F16, Layers: 3, Heads: kvHeads, HeadDim: hd}
	c := newContext(t, b, tensor.Options{})
	var source sequence
	source.grow(t, b, kv, length)
	_, new := source.append(0, length, kv.Type)
	appended := &backend.Layout{Pos: make([]int32, length), Segments: []backend.Segment{
		{Rows: length, Pages: source.pages, Spans: []backend.Span{{Len: length}}}}}
	fill := func() {
		k, v := split(new)
		tensor.KVAppend(c, write(c, k, length, kvWidth), write(c, v, length, kvWidth), tensor.AttentionOptions{Layout: appended, KV: kv, Layer: layer})
	}
	if before {
		step(t, c, nil, backend.KV{}, fill)
	}
	sees := []backend.Span{{Start: 10, Len: 130}, {Len: 7}, {}}
	texts := make([]sequence, len(sees))
	for round, rows := range []int{5, 1, 70} {
		own, cross := &backend.Layout{}, &backend.Layout{}
		for i := range texts {
			held := len(texts[i].rows[0])
			texts[i].grow(t, b, geometry, held+rows)
			s := backend.Segment{Row: i * rows, Rows: rows, Pages: texts[i].pages, Spans: []backend.Span{{Len: held + rows}}}
			own.Segments = append(own.Segments, s)
			s.Pages, s.Spans, s.Whole = source.pages, sees[i:i+1], true
			cross.Segments = append(cross.Segments, s)
		}
		own.Pos = make([]int32, rows*len(texts))
		cross.Pos = own.Pos
		var q [][]float32
		var added []keyed
		var self, other []number
		for i := range texts {
			sq, new := texts[i].append(0, rows, geometry.Type)
			q, added = append(q, sq...), append(added, new...)
			all := texts[i].rows[0]
			for j := range sq {
				self = append(self, attend(sq[j], all[:len(all)-rows+j+1], 0.5)...)
				if sees[i].Len == 0 {
					other = append(other, slices.Repeat([]number{exact(0)}, width)...)
					continue
				}
				other = append(other, attend(sq[j], source.rows[0][sees[i].Start:][:sees[i].Len], 1/math.Sqrt(hd))...)
			}
		}
		step(t, c, own, geometry, func() {
			if round == 0 && !before {
				fill()
			}
			k, v := split(added)
			n := len(q)
			x := write(c, slices.Concat(q...), n, width)
			y := tensor.Attention(c, x, write(c, k, n, kvWidth), write(c, v, n, kvWidth), tensor.AttentionOptions{Scale: 0.5})
			compare(t, "the text", read(c, y), self)
			y = tensor.Attention(c, x, nil, nil, tensor.AttentionOptions{Layout: cross, KV: kv, Layer: layer})
			compare(t, "the source", read(c, y), other)
		})
	}
}

// TestWhole: the rows of an encoder see all others, in pages and without.
func TestWhole(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const rows = 90
		q, kv := randomRows(rows)
		var want []number
		for j := range rows {
			want = append(want, attend(q[j], kv, 1/math.Sqrt(hd))...)
		}
		k, v := split(kv)
		var s sequence
		s.grow(t, b, geometry, rows)
		for _, pages := range [][]backend.Buffer{nil, s.pages} {
			l := &backend.Layout{Pos: make([]int32, rows), Segments: []backend.Segment{
				{Rows: rows, Pages: pages, Spans: []backend.Span{{Len: rows}}, Whole: true}}}
			c := newContext(t, b, tensor.Options{})
			step(t, c, nil, geometry, func() { // a layout beside the step's
				y := tensor.Attention(c, write(c, slices.Concat(q...), rows, width), write(c, k, rows, kvWidth), write(c, v, rows, kvWidth), tensor.AttentionOptions{Layout: l})
				compare(t, "Attention", read(c, y), want)
			})
		}
	})
}

// TestStaleKeys: stale keys and values do not reach a page, which outlives the
// step.
func TestStaleKeys(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		c := newContext(t, b, tensor.Options{})
		page, err := b.Alloc(b.PageBytes(geometry))
		check(t, err)
		t.Cleanup(page.Free)
		layout := &backend.Layout{Pos: make([]int32, 1), Segments: []backend.Segment{
			{Rows: 1, Pages: []backend.Buffer{page}, Spans: []backend.Span{{Len: 1}}},
		}}
		step(t, c, layout, geometry, func() {
			q, fresh := write(c, random(width), 1, width), write(c, random(kvWidth), 1, kvWidth)
			mark := c.Mark()
			stale := write(c, random(kvWidth), 1, kvWidth)
			c.Release(mark)
			for name, work := range map[string]func(){
				"keys":   func() { tensor.Attention(c, q, stale, fresh, tensor.AttentionOptions{Scale: 1}) },
				"values": func() { tensor.Attention(c, q, fresh, stale, tensor.AttentionOptions{Scale: 1}) },
			} {
				before, after := make([]byte, page.Size()), make([]byte, page.Size())
				check(t, b.Download(before, page, 0))
				panics[*tensor.StaleError](t, name, nil, work)
				check(t, b.Download(after, page, 0))
				if !bytes.Equal(before, after) {
					t.Errorf("%s: the page has changed", name)
				}
			}
		})
	})
}
