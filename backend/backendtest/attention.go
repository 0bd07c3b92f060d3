package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// heads is a geometry of attention.
type heads struct{ query, kv, dim int }

var geometries = []heads{{2, 1, 8}, {4, 2, 16}, {3, 3, 32}, {9, 3, 64}, {8, 1, 64}, {4, 1, 128}, {1, 1, 2}, {2, 2, 24}}

func ropeTableCases() (cs []*testCase) {
	for i, n := range []int{1, 3, 8, 17, 32, 64} {
		r := rowCounts[i]
		c := newCase(backend.RoPETable, "%d rows, head size %d", r, 2*n)
		pos := make([]int32, r)
		for j := range pos {
			pos[j] = []int32{0, 1, 131071, 7, 8191}[j%5] + int32(c.rng.IntN(2))
		}
		c.args.Layout = &backend.Layout{Segments: []backend.Segment{{Rows: r, Spans: []backend.Span{{Len: r}}}}, Pos: pos}
		c.in[0] = newOperand(backend.F32, place(i%2), func(j int) float64 { return math.Pow(5e5, -float64(j)/float64(n)) }, n)
		c.out[0] = fresh(backend.F32, place(i%3), r, 2*n)
		cs = append(cs, c)
	}
	return cs
}

func ropeCases() (cs []*testCase) {
	for _, op := range []backend.Op{backend.RoPE, backend.RoPEBackward} {
		for i, g := range geometries {
			for _, inPlace := range []bool{false, true} {
				r, d := rowCounts[i%len(rowCounts)], g.query*g.dim
				c := newCase(op, "%d rows, %d heads of %d, in place %v", r, g.query, g.dim, inPlace)
				angles := make([]float64, r*g.dim/2)
				for j := range angles {
					angles[j] = 10 * c.rng.NormFloat64()
				}
				c.in[0] = newOperand(backend.F32, place(i%3), c.normal, r, d)
				c.in[1] = newOperand(backend.F32, place((i+1)%3), func(j int) float64 {
					row, col := j/g.dim, j%g.dim
					if half := g.dim / 2; col >= half {
						return math.Sin(angles[row*half+col-half])
					}
					return math.Cos(angles[row*g.dim/2+col])
				}, r, g.dim)
				if c.out[0] = fresh(backend.F32, place(i%3), r, d); inPlace {
					c.out[0] = c.in[0]
				}
				cs = append(cs, c)
			}
		}
	}
	return cs
}

// scene is a layout: the rows and spans of segments. With paged set, tables
// are made for them.
type scene struct {
	name  string
	rows  []int            // of each segment
	spans [][]backend.Span // of each segment
	whole bool             // of all segments
	keys  int              // rows of keys and values of another source, 0 for the step's
}

// pagedScenes are layouts of inference.
func pagedScenes() []scene {
	whole := func(n int) []backend.Span { return []backend.Span{{Len: n}} }
	return []scene{
		{name: "first token", rows: []int{1}, spans: [][]backend.Span{whole(1)}},
		{name: "prefill 7", rows: []int{7}, spans: [][]backend.Span{whole(7)}},
		{name: "prefill 64", rows: []int{64}, spans: [][]backend.Span{whole(64)}},
		{name: "prefill 65", rows: []int{65}, spans: [][]backend.Span{whole(65)}},
		{name: "prefill 150", rows: []int{150}, spans: [][]backend.Span{whole(150)}},
		{name: "chunk 9 ending at 64", rows: []int{9}, spans: [][]backend.Span{whole(64)}},
		{name: "chunk 33 over a page end", rows: []int{33}, spans: [][]backend.Span{whole(80)}},
		{name: "chunk 3 of 300", rows: []int{3}, spans: [][]backend.Span{whole(300)}},
		{name: "step of one, 63 before", rows: []int{1}, spans: [][]backend.Span{whole(64)}},
		{name: "step of one, 64 before", rows: []int{1}, spans: [][]backend.Span{whole(65)}},
		{name: "step of one, 700 before", rows: []int{1}, spans: [][]backend.Span{whole(701)}},
		{name: "step of five", rows: []int{1, 1, 1, 1, 1}, spans: [][]backend.Span{whole(1), whole(64), whole(129), whole(2), whole(90)}},
		{name: "steps and a prefill", rows: []int{1, 20, 1}, spans: [][]backend.Span{whole(70), whole(20), whole(128)}},
		{name: "shared prompt", rows: []int{2, 1}, spans: [][]backend.Span{{{Len: 70}, {Start: 128, Len: 5}}, {{Start: 3, Len: 20}, {Start: 64, Len: 10}}}},
		{name: "three spans, one empty", rows: []int{4}, spans: [][]backend.Span{{{Start: 130, Len: 10}, {Start: 5, Len: 0}, {Start: 60, Len: 9}}}},
		{name: "encoder of 150", rows: []int{150}, spans: [][]backend.Span{whole(150)}, whole: true},
	}
}

// sourceScenes are layouts whose pages were filled before, by another source.
func sourceScenes() []scene {
	whole := func(n int) []backend.Span { return []backend.Span{{Len: n}} }
	return []scene{
		{name: "one row at a source of 200, nine at one of 5, four at none", rows: []int{1, 9, 4}, spans: [][]backend.Span{whole(200), whole(5), whole(0)}, whole: true},
		{name: "40 rows at two parts of a source of 400", rows: []int{40}, spans: [][]backend.Span{{{Start: 10, Len: 60}, {Start: 270, Len: 130}}}, whole: true},
	}
}

// rowScenes are layouts of training: key rows are rows of the step.
func rowScenes() []scene {
	return []scene{
		{name: "one row", rows: []int{1}, spans: [][]backend.Span{{{Len: 1}}}},
		{name: "one document", rows: []int{70}, spans: [][]backend.Span{{{Len: 70}}}},
		{name: "packed documents", rows: []int{5, 1, 66, 9}, spans: [][]backend.Span{{{Len: 5}}, {{Start: 5, Len: 1}}, {{Start: 6, Len: 66}}, {{Start: 72, Len: 9}}}},
		{name: "responses to one prompt", rows: []int{67, 3, 8}, spans: [][]backend.Span{{{Len: 67}}, {{Len: 67}, {Start: 67, Len: 3}}, {{Len: 67}, {Start: 70, Len: 8}}}},
		{name: "two pictures, whole", rows: []int{60, 13}, spans: [][]backend.Span{{{Len: 60}}, {{Start: 60, Len: 13}}}, whole: true},
		{name: "texts at pictures", rows: []int{7, 2, 70, 1}, spans: [][]backend.Span{{{Start: 40, Len: 31}}, {{Len: 0}}, {{Len: 40}, {Start: 71, Len: 2}}, {{Start: 3, Len: 1}}},
			whole: true, keys: 75},
		{name: "causal in another source", rows: []int{5, 6}, spans: [][]backend.Span{{{Start: 4, Len: 9}}, {{Len: 3}, {Start: 14, Len: 6}}}, keys: 20},
	}
}

// layout makes the Layout of s, and for paged layouts a shuffled page table
// for every segment in c.tables.
func (c *testCase) layout(s scene, paged bool) {
	l, pages := &backend.Layout{Keys: s.keys}, 0
	for i, rows := range s.rows {
		seg := backend.Segment{Row: l.Rows(), Rows: rows, Seq: i, Spans: s.spans[i], Whole: s.whole}
		last := seg.Spans[len(seg.Spans)-1]
		end := 0
		for _, sp := range seg.Spans {
			end = max(end, sp.Start+sp.Len)
		}
		for j := range rows {
			l.Pos = append(l.Pos, int32(max(0, last.Start+last.Len-rows+j)))
		}
		l.Segments = append(l.Segments, seg)
		if paged {
			table := make([]int, (end+backend.PageLen-1)/backend.PageLen)
			for j := range table {
				table[j] = pages + len(table) - 1 - j // backwards: order in the table counts
			}
			pages += len(table)
			c.tables = append(c.tables, table)
		}
	}
	c.args.Layout = l
}

// kvTypes are the types of keys and values in pages, those that suit a head size.
func kvTypes(dim int) []backend.DType {
	list := []backend.DType{backend.F32, backend.F16, backend.BF16}
	if (backend.KV{Type: backend.Q8_0, HeadDim: dim}).Err() == nil {
		list = append(list, backend.Q8_0)
	}
	return list
}

func kvAppendCases() (cs []*testCase) {
	for i, s := range pagedScenes() {
		g := geometries[i%len(geometries)]
		for _, t := range kvTypes(g.dim) {
			c := newCase(backend.KVAppend, "%s/%v/%d heads of %d", s.name, t, g.kv, g.dim)
			c.args.KV = backend.KV{Type: t, Layers: 2, Heads: g.kv, HeadDim: g.dim}
			c.args.Layer = i % 2
			c.layout(s, true)
			c.addPages()
			r := c.args.Layout.Rows()
			fill := c.normal
			if i%3 == 0 {
				fill = edge
			}
			c.in[0] = newOperand(backend.F32, place(i%3), fill, r, g.kv*g.dim)
			c.in[1] = newOperand(backend.F32, place((i+1)%3), fill, r, g.kv*g.dim)
			cs = append(cs, c)
		}
	}
	return cs
}

func attentionCases() (cs []*testCase) {
	for i, s := range append(pagedScenes(), sourceScenes()...) {
		for j, t := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
			g := geometries[(2*i+j)%len(geometries)]
			if t == backend.Q8_0 {
				g = []heads{{9, 3, 64}, {3, 3, 32}, {8, 1, 64}, {4, 1, 128}, {32, 2, 96}}[i%5]
			}
			c := newCase(backend.Attention, "%s/%v/%d on %d heads of %d", s.name, t, g.query, g.kv, g.dim)
			c.args.KV = backend.KV{Type: t, Layers: 2, Heads: g.kv, HeadDim: g.dim}
			c.args.Layer = i % 2
			c.layout(s, true)
			c.addPages()
			cs = append(cs, c.attention(g, place(i%3)))
		}
	}
	for i, t := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
		c, g := newCase(backend.Attention, "the last key of 150 is NaN/%v", t), heads{4, 2, 32}
		c.args.KV = backend.KV{Type: t, Layers: 2, Heads: g.kv, HeadDim: g.dim}
		c.args.Layer = i % 2
		c.layout(scene{rows: []int{70}, spans: [][]backend.Span{{{Len: 150}}}}, true)
		c.addPages()
		c.spoil(0, 0, 149, float32(math.NaN()))
		cs = append(cs, c.attention(g, place(i%3)))
	}
	for i, s := range rowScenes() {
		for _, g := range geometries {
			c := newCase(backend.Attention, "%s/rows/%d on %d heads of %d", s.name, g.query, g.kv, g.dim)
			c.args.KV = backend.KV{Type: backend.F32, Layers: 1, Heads: g.kv, HeadDim: g.dim}
			c.layout(s, false)
			keys := c.args.Layout.KeyRows()
			c.in[1] = newOperand(backend.F32, place(i%3), c.normal, keys, g.kv*g.dim)
			c.in[2] = newOperand(backend.F32, place((i+1)%3), c.normal, keys, g.kv*g.dim)
			cs = append(cs, c.attention(g, place(i%3)))
		}
	}
	return cs
}

// attention adds q and the output.
func (c *testCase) attention(g heads, p place) *testCase {
	r := c.args.Layout.Rows()
	c.args.Scale = float32(1 / math.Sqrt(float64(g.dim)))
	c.in[0] = newOperand(backend.F32, p, c.normal, r, g.query*g.dim)
	c.out[0] = fresh(backend.F32, p, r, g.query*g.dim)
	return c
}

func attentionBackwardCases() (cs []*testCase) {
	for i, s := range rowScenes() {
		for j, g := range geometries {
			c := newCase(backend.AttentionBackward, "%s/%d on %d heads of %d", s.name, g.query, g.kv, g.dim)
			c.args.KV = backend.KV{Type: backend.F32, Layers: 1, Heads: g.kv, HeadDim: g.dim}
			c.layout(s, false)
			r, keys := c.args.Layout.Rows(), c.args.Layout.KeyRows()
			c.in[1] = newOperand(backend.F32, place(i%3), c.normal, keys, g.kv*g.dim)
			c.in[2] = newOperand(backend.F32, place((i+1)%3), c.normal, keys, g.kv*g.dim)
			c.attention(g, place(i%3))
			y := c.output(backend.Attention, r*g.query*g.dim)
			c.in[3] = newOperand(backend.F32, place((i+1)%3), func(i int) float64 { return y[i] }, r, g.query*g.dim)
			c.in[4] = newOperand(backend.F32, place(i%3), c.normal, r, g.query*g.dim)
			c.out[1] = fresh(backend.F32, place((i+2)%3), keys, g.kv*g.dim)
			c.out[2] = fresh(backend.F32, place(i%3), keys, g.kv*g.dim)
			if absent := j - 4; absent >= 0 && absent < 3 { // some gradients not wanted
				c.out[absent] = nil
			}
			cs = append(cs, c)
		}
	}
	return cs
}
