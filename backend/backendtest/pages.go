package backendtest

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// A page is an operand whose view holds its numbers, [Layers, 2, Heads, PageLen,
// HeadDim], as they are stored. What the bytes of a page mean is the backend's own:
// KVAppend writes them, ReadPage tells the numbers.

// addPages makes the pages that the tables name: normal numbers in the key
// rows that a row of the step may see, NaN in all others.
func (c *testCase) addPages() {
	g := c.args.KV
	type place struct{ page, slot int }
	seen := map[place]bool{}
	for i, s := range c.args.Layout.Segments {
		for _, sp := range s.Spans {
			for t := sp.Start; t < sp.Start+sp.Len; t++ {
				seen[place{c.tables[i][t/backend.PageLen], t % backend.PageLen}] = true
			}
		}
	}
	for _, table := range c.tables {
		for range table {
			page := len(c.pages)
			var x []float32
			for e := 0; e < g.Elems(); e += g.HeadDim {
				x = append(x, c.stored(seen[place{page, e / g.HeadDim % backend.PageLen}])...)
			}
			c.pages = append(c.pages, newPage(x))
		}
	}
}

// inPage is where the numbers of a head start in the page of key row at: its keys (value
// 0) or values (1).
func inPage(g backend.KV, layer, value, head, at int) int {
	return (((layer*2+value)*g.Heads+head)*backend.PageLen + at%backend.PageLen) * g.HeadDim
}

// spoil makes the start of the first head of a key (value 0) or value (1) v: all elements
// that may share a scale.
func (c *testCase) spoil(segment, value, at int, v float32) {
	g := c.args.KV
	o := c.pages[c.tables[segment][at/backend.PageLen]]
	x := read(o.view)
	for i := range min(g.HeadDim, backend.Q8_0.BlockElems()) {
		x[inPage(g, c.args.Layer, value, 0, at)+i] = float64(v)
	}
	all := make([]float32, len(x))
	for i, v := range x {
		all[i] = float32(v)
	}
	*o = *newPage(all)
}

// newPage is the operand of a page. A number that is none has the bits of guard bytes.
func newPage(x []float32) *operand {
	mem := make(host, 4*len(x))
	block.Encode(backend.F32, mem, x)
	for i, v := range x {
		if v != v {
			copy(mem[4*i:], "\xff\xff\xff\xff")
		}
	}
	return &operand{backend.Contiguous(mem, backend.F32, 0, backend.Dims(len(x)))}
}

// stored are the numbers of a head at a position: NaN, or normal ones that KVAppend does
// not change. Those of Q8_0 are codes times a scale, one of them the largest there is.
func (c *testCase) stored(seen bool) []float32 {
	g, x := c.args.KV, make([]float32, c.args.KV.HeadDim)
	all := x
	for i := range x {
		switch {
		case !seen:
			x[i] = float32(math.NaN())
		case g.Type == backend.F16:
			x[i] = block.F16ToF32(block.F32ToF16(float32(c.rng.NormFloat64())))
		case g.Type == backend.BF16:
			x[i] = block.BF16ToF32(block.F32ToBF16(float32(c.rng.NormFloat64())))
		default:
			x[i] = float32(c.rng.NormFloat64())
		}
	}
	if n := backend.Q8_0.BlockElems(); seen && g.Type == backend.Q8_0 {
		for ; len(x) >= n; x = x[n:] {
			d := block.F16ToF32(block.F32ToF16(float32(c.rng.ExpFloat64() / 127)))
			for i := range x[:n] {
				x[i] = float32(c.rng.IntN(255)-127) * d
			}
			x[c.rng.IntN(n)] = float32(254*c.rng.IntN(2)-127) * d
		}
	}
	return all
}

// placePage makes a page of a backend, with guard bytes behind it.
func (c *testCase) placePage(b backend.Backend, o *operand) (backend.Buffer, error) {
	g := c.args.KV
	if err := b.Supports(backend.KVAppend); err != nil {
		return nil, err
	}
	size := b.PageBytes(g)
	buf, err := b.Alloc(size + guard)
	if err != nil {
		return nil, err
	}
	if err := b.Upload(buf, size, bytes.Repeat([]byte{0xff}, guard)); err != nil {
		return buf, err
	}
	e, err := b.NewExec()
	if err != nil {
		return buf, err
	}
	defer e.Close()
	l := &backend.Layout{Pos: make([]int32, backend.PageLen), Segments: []backend.Segment{
		{Rows: backend.PageLen, Pages: []backend.Buffer{buf}, Spans: []backend.Span{{Len: backend.PageLen}}}}}
	x, width := read(o.view), g.Heads*g.HeadDim
	return buf, backend.Step(context.Background(), e, func() error {
		e.Layout(l)
		for layer := range g.Layers {
			a := backend.Args{Layout: l, KV: g, Layer: layer}
			for value := range 2 {
				rows := make([]float32, backend.PageLen*width)
				for i := range rows {
					slot, head := i/width, i%width/g.HeadDim
					rows[i] = float32(x[inPage(g, layer, value, head, slot)+i%g.HeadDim])
				}
				a.In[value] = e.Alloc(backend.F32, backend.Dims(backend.PageLen, width))
				e.Write(a.In[value], rows)
			}
			e.Run(backend.KVAppend, &a)
		}
		return nil
	})
}

// readPage is the memory of a page's operand, and says if the bytes behind it changed.
func (c *testCase) readPage(b backend.Backend, buf backend.Buffer) (host, error) {
	x := make([]float32, c.args.KV.Elems())
	if err := b.ReadPage(x, buf, c.args.KV); err != nil {
		return nil, err
	}
	behind := make([]byte, guard)
	if err := b.Download(behind, buf, b.PageBytes(c.args.KV)); err != nil {
		return nil, err
	}
	if !bytes.Equal(behind, bytes.Repeat([]byte{0xff}, guard)) {
		return nil, fmt.Errorf("bytes behind a page were changed: %v", behind)
	}
	return newPage(x).bytes(), nil
}
