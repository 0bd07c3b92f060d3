package ref

import (
	"encoding/binary"
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

func kvAppend(x *Values) {
	a, g := x.Args, x.Args.KV
	for i := range a.Layout.Segments {
		s := &a.Layout.Segments[i]
		for j := range s.Rows {
			t := s.KeyRow(j)
			mem := memory(s.Pages[t/backend.PageLen])
			for value := range 2 {
				row := x.In[value][(s.Row+j)*g.Heads*g.HeadDim:][:g.Heads*g.HeadDim]
				if g.Type == backend.Q8_0 {
					appendQ8(a, mem, value, t%backend.PageLen, row)
					continue
				}
				for c := range g.Heads * g.HeadDim {
					at := g.At(a.Layer, value, c/g.HeadDim, t%backend.PageLen, c%g.HeadDim)
					put(g.Type, mem, at, row[c])
				}
			}
		}
	}
}

// appendQ8 rounds keys or values of one row to Q8_0.
func appendQ8(a *backend.Args, mem []byte, value, slot int, row []float64) {
	g, n := a.KV, backend.Q8_0.BlockElems()
	for c := 0; c < len(row); c += n {
		head, i := c/g.HeadDim, c%g.HeadDim
		code, d := roundGroup(row[c:][:n])
		binary.LittleEndian.PutUint16(mem[g.ScaleAt(a.Layer, value, head, slot, i):], block.F32ToF16(d))
		for j, v := range code {
			mem[g.At(a.Layer, value, head, slot, i+j)] = byte(v)
		}
	}
}

// element is element i of a position of a head's keys or values in a page.
func element(a *backend.Args, mem []byte, value, head, slot, i int) float64 {
	g := a.KV
	at := g.At(a.Layer, value, head, slot, i)
	if g.Type == backend.Q8_0 {
		d := binary.LittleEndian.Uint16(mem[g.ScaleAt(a.Layer, value, head, slot, i):])
		return float64(int8(mem[at])) * float64(block.F16ToF32(d))
	}
	return get(g.Type, mem, at)
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
		mem, row := memory(s.Pages[t/backend.PageLen]), make([]float64, g.HeadDim)
		for c := range row {
			row[c] = element(a, mem, value, head, t%backend.PageLen, c)
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
