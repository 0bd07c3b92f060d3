package ref

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

func ropeTable(x *Values) {
	half := x.Args.In[0].Cols()
	for r, pos := range x.Args.Layout.Pos {
		out := x.Out[0][r*2*half:][:2*half]
		for i, f := range x.In[0] {
			angle := float64(float32(pos) * float32(f))
			out[i], out[half+i] = math.Cos(angle), math.Sin(angle)
		}
	}
}

func rope(x *Values)         { rotate(x, 1) }
func ropeBackward(x *Values) { rotate(x, -1) }

// rotate turns every pair by the angles of the table, times sign.
func rotate(x *Values, sign float64) {
	d, hd := x.Args.In[0].Cols(), x.Args.In[1].Cols()
	half := hd / 2
	for r := range x.Args.In[0].Rows() {
		table := x.In[1][r*hd:][:hd]
		for h := 0; h < d; h += hd {
			in, out := x.In[0][r*d+h:][:hd], x.Out[0][r*d+h:][:hd]
			for i := range half {
				cos, sin := table[i], sign*table[half+i]
				a, b := in[i], in[half+i]
				out[i], out[half+i] = a*cos-b*sin, b*cos+a*sin
			}
		}
	}
}

// rowOf is the bytes of a page that hold the keys (value 0) or values (1) of all heads at
// a position. The oracle's pages are [Layers, 2, PageLen] such rows, encoded as a file's
// rows of the type are.
func rowOf(g backend.KV, page []byte, layer, value, slot int) []byte {
	n := g.Heads * g.HeadDim / g.Type.BlockElems() * g.Type.BlockBytes()
	return page[((layer*2+value)*backend.PageLen+slot)*n:][:n]
}

func kvAppend(x *Values) {
	a, g := x.Args, x.Args.KV
	n := g.Heads * g.HeadDim
	for i := range a.Layout.Segments {
		s := &a.Layout.Segments[i]
		for j := range s.Rows {
			t := s.KeyRow(j)
			page := memory(s.Pages[t/backend.PageLen])
			for value := range 2 {
				row := x.In[value][(s.Row+j)*n:][:n]
				to := rowOf(g, page, a.Layer, value, t%backend.PageLen)
				if g.Type == backend.Q8_0 {
					putQ8(to, row)
					continue
				}
				for c, v := range row {
					put(g.Type, to, c, v)
				}
			}
		}
	}
}

// putQ8 rounds a row to Q8_0.
func putQ8(to []byte, row []float64) {
	n := backend.Q8_0.BlockElems()
	for ; len(row) > 0; row, to = row[n:], to[backend.Q8_0.BlockBytes():] {
		code, d := roundGroup(row[:n])
		binary.LittleEndian.PutUint16(to, block.F32ToF16(d))
		for i, v := range code {
			to[2+i] = byte(v)
		}
	}
}

// pageRow decodes the keys or values of all heads at a position.
func pageRow(g backend.KV, page []byte, layer, value, slot int) []float32 {
	row := make([]float32, g.Heads*g.HeadDim)
	block.Decode(g.Type, row, rowOf(g, page, layer, value, slot))
	return row
}

// PageBytes implements backend.Backend.
func (*device) PageBytes(g backend.KV) int64 {
	row := int64(g.Heads) * int64(g.HeadDim) / int64(g.Type.BlockElems()) * int64(g.Type.BlockBytes())
	return int64(g.Layers) * 2 * backend.PageLen * row
}

// ReadPage implements backend.Backend.
func (b *device) ReadPage(dst []float32, page backend.Buffer, g backend.KV) error {
	if len(dst) != g.Elems() {
		panic(&backend.ShapeError{Op: "ReadPage", Detail: fmt.Sprintf("%d numbers for a page of %d", len(dst), g.Elems())})
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	mem := within("ReadPage", page, 0, int(b.PageBytes(g)))
	for r := range g.Layers * 2 {
		for slot := range backend.PageLen {
			row := pageRow(g, mem, r/2, r%2, slot)
			for head := range g.Heads {
				copy(dst[((r*g.Heads+head)*backend.PageLen+slot)*g.HeadDim:], row[head*g.HeadDim:][:g.HeadDim])
			}
		}
	}
	return nil
}

// visible lists the key rows that row j of segment s sees.
func visible(s *backend.Segment, j int) []int {
	var ts []int
	for i, sp := range s.Spans {
		end := sp.Start + sp.Len
		if i == len(s.Spans)-1 && !s.Whole {
			end = s.KeyRow(j) + 1
		}
		for t := sp.Start; t < end; t++ {
			ts = append(ts, t)
		}
	}
	return ts
}

// keys returns the keys (value 0) or values (1) of a head by key row, for all
// key rows that the segment may see.
func keys(x *Values, s *backend.Segment, value, head int) map[int][]float64 {
	a, g := x.Args, x.Args.KV
	rows := map[int][]float64{}
	for _, t := range visible(s, s.Rows-1) {
		if s.Pages == nil {
			rows[t] = x.In[1+value][(t*g.Heads+head)*g.HeadDim:][:g.HeadDim]
			continue
		}
		page, row := memory(s.Pages[t/backend.PageLen]), make([]float64, g.HeadDim)
		for c, v := range pageRow(g, page, a.Layer, value, t%backend.PageLen)[head*g.HeadDim:][:g.HeadDim] {
			row[c] = float64(v)
		}
		rows[t] = row
	}
	return rows
}

// probabilities is the softmax of the scaled scores of q against keys ts.
func probabilities(x *Values, q []float64, k map[int][]float64, ts []int) []float64 {
	p := make([]float64, len(ts))
	for i, t := range ts {
		p[i] = float64(x.Args.Scale) * dot(q, k[t])
	}
	softmaxRow(p, p)
	return p
}

// eachHead calls f for every row and head: at is where the head's elements
// start in q, k and v the keys and values it sees, ts their key rows in order.
func eachHead(x *Values, f func(at, kvHead int, k, v map[int][]float64, ts []int)) {
	a, g := x.Args, x.Args.KV
	d := a.In[0].Cols()
	group := d / g.HeadDim / g.Heads // query heads that share a key-value head
	for i := range a.Layout.Segments {
		s := &a.Layout.Segments[i]
		for kvHead := range g.Heads {
			k, v := keys(x, s, 0, kvHead), keys(x, s, 1, kvHead)
			for j := range s.Rows {
				ts := visible(s, j)
				for h := kvHead * group; h < (kvHead+1)*group; h++ {
					f((s.Row+j)*d+h*g.HeadDim, kvHead, k, v, ts)
				}
			}
		}
	}
}

func attention(x *Values) {
	hd := x.Args.KV.HeadDim
	eachHead(x, func(at, _ int, k, v map[int][]float64, ts []int) {
		out, q := x.Out[0][at:][:hd], x.In[0][at:][:hd]
		p := probabilities(x, q, k, ts)
		if x.Out[1] != nil {
			x.Out[1][at/hd] = math.Inf(-1)
			if len(ts) > 0 {
				i := largest(p) // of any key; the best known one
				x.Out[1][at/hd] = float64(x.Args.Scale)*dot(q, k[ts[i]]) - math.Log(p[i])
			}
		}
		clear(out)
		for i, t := range ts {
			axpy(out, p[i], v[t])
		}
	})
}

func attentionBackward(x *Values) {
	heads, hd, scale := x.Args.KV.Heads, x.Args.KV.HeadDim, float64(x.Args.Scale)
	for _, out := range x.Out[:3] {
		clear(out)
	}
	eachHead(x, func(at, kvHead int, k, v map[int][]float64, ts []int) {
		q, y, dy := x.In[0][at:][:hd], x.In[3][at:][:hd], x.In[4][at:][:hd]
		p := probabilities(x, q, k, ts)
		for i, t := range ts {
			ds := scale * p[i] * (dot(dy, v[t]) - dot(dy, y))
			kv := (t*heads + kvHead) * hd
			if dq := x.Out[0]; dq != nil {
				axpy(dq[at:][:hd], ds, k[t])
			}
			if dk := x.Out[1]; dk != nil {
				axpy(dk[kv:][:hd], ds, q)
			}
			if dv := x.Out[2]; dv != nil {
				axpy(dv[kv:][:hd], p[i], dy)
			}
		}
	})
}

// largest is where the largest number is.
func largest(x []float64) (at int) {
	for i, v := range x {
		if v > x[at] {
			at = i
		}
	}
	return at
}
