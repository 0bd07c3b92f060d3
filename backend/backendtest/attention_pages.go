package backendtest

import (
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
)

// The cases of attention that rounds while keys and values lie in pages: a session in
// mixed precision.

// roundedPageScenes are layouts of several sessions, with gaps between spans and before
// them, of more rows than a backend is likely to take at once.
func roundedPageScenes() []scene {
	return append(append(pagedScenes(), sourceScenes()...),
		scene{name: "gaps in three sessions", rows: []int{3, 101, 1}, spans: [][]backend.Span{
			{{Start: 7, Len: 90}, {Start: 130, Len: 3}}, {{Start: 64, Len: 64}, {Start: 140, Len: 1}, {Start: 200, Len: 120}}, {{Start: 63, Len: 2}}}},
		scene{name: "prefill of 200 behind 150, and a step", rows: []int{200, 1}, spans: [][]backend.Span{{{Len: 350}}, {{Len: 97}}}},
	)
}

func attentionPagesCases() (cs []*testCase) {
	for i, s := range roundedPageScenes() {
		for j, t := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
			g := geometries[(i+3*j)%len(geometries)]
			if t == backend.Q8_0 {
				g = []heads{{9, 3, 64}, {3, 3, 32}, {4, 1, 128}}[i%3]
			}
			c := roundedPages(s, t, g, i%2)
			if i%3 == 0 {
				c.out[1] = fresh(backend.F32, place(j%3), c.args.Layout.Rows(), g.query)
			}
			cs = append(cs, c)
		}
	}
	for i, t := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
		s := scene{name: "a later key is NaN, a value infinite", rows: []int{70, 9}, spans: [][]backend.Span{{{Start: 3, Len: 20}, {Start: 70, Len: 80}}, {{Len: 9}}}}
		c := roundedPages(s, t, heads{4, 2, 32}, i%2)
		c.spoil(0, 0, 148, float32(math.NaN()))
		if t != backend.Q8_0 { // which makes it NaN
			c.spoil(0, 1, 141, float32(math.Inf(1))) // in the middle of a panel of queries
		}
		cs = append(cs, c)
	}
	return cs
}

// roundedPages is attention to pages of a type that rounds.
func roundedPages(s scene, t backend.DType, g heads, layer int) *testCase {
	c := newCase(backend.Attention, "%s/pages of %v/%d on %d heads of %d, rounded", s.name, t, g.query, g.kv, g.dim)
	c.args.KV = backend.KV{Type: t, Layers: 2, Heads: g.kv, HeadDim: g.dim}
	c.args.Layer, c.args.Round = layer, backend.RoundBothBF16
	c.layout(s, true)
	c.addPages()
	return c.attention(g, place(layer))
}

// checkPagesAsRows checks that attention that rounds has the same bits from pages as from
// the rows that these hold, which a sampler and its trainer need.
func checkPagesAsRows(b backend.Backend) error {
	s := scene{name: "sessions", rows: []int{130, 1, 7}, spans: [][]backend.Span{{{Len: 130}}, {{Len: 299}}, {{Len: 71}}}}
	for _, g := range geometries {
		paged := roundedPages(s, backend.F32, g, 1)
		from, of := scene{rows: s.rows}, paged.keyValues(nil)
		var rows [2][]float64
		for i, spans := range s.spans {
			n := spans[0].Len
			from.spans = append(from.spans, []backend.Span{{Start: from.keys, Len: n}})
			from.keys += n
			for value := range rows {
				for t := range n {
					for head := range g.kv {
						rows[value] = append(rows[value], of(i, value, head, []int{t})[0]...)
					}
				}
			}
		}
		c := newCase(backend.Attention, "%s", paged.name)
		c.args.KV, c.args.Scale, c.args.Round = paged.args.KV, paged.args.Scale, paged.args.Round
		c.layout(from, false)
		for value, x := range rows {
			c.in[1+value] = newOperand(backend.F32, dense, func(i int) float64 { return x[i] }, from.keys, g.kv*g.dim)
		}
		c.in[0], c.out[0] = paged.in[0], paged.out[0]
		want, err := paged.run(b)
		if err != nil {
			return err
		}
		if err := sameRows(b, want, paged, c, 0); err != nil {
			return fmt.Errorf("pages and rows: %w", err)
		}
	}
	return nil
}
