package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// centring is what LayerNorm makes of a row: its numbers less mean, times scale.
type centring struct{ mean, scale float64 }

// centre works out the mean and the scale of a row, in float64 and in two passes: a row
// far from zero loses nothing. Sums of every fourth number are added up last.
func centre(x []float32, eps float32) centring {
	var sum [4]float64
	for i, v := range x {
		sum[i%4] += float64(v)
	}
	mean := (sum[0] + sum[1] + sum[2] + sum[3]) / float64(len(x))
	sum = [4]float64{}
	for i, v := range x {
		d := float64(v) - mean
		sum[i%4] += float64(d * d)
	}
	return centring{mean, 1 / math.Sqrt((sum[0]+sum[1]+sum[2]+sum[3])/float64(len(x))+float64(eps))}
}

// of is the centred v.
func (c centring) of(v float32) float64 { return (float64(v) - c.mean) * c.scale }

func (e *exec) layerNorm(a *backend.Args) {
	e.eachRow(a, a.In[0].Rows(), 4*a.In[0].Cols(), func(_ *worker, a *backend.Args, from, to int) {
		d := a.In[0].Cols()
		in, out := elems[float32](&a.In[0]), elems[float32](&a.Out[0])
		w, b := elems[float32](&a.In[1])[:d], elems[float32](&a.In[2])[:d]
		for r := from; r < to; r++ {
			x, y := row(in, r, a.In[0].RowStride(), d), row(out, r, a.Out[0].RowStride(), d)
			c := centre(x, a.Eps)
			for i, v := range x {
				y[i] = float32(float64(c.of(v)*float64(w[i])) + float64(b[i]))
			}
		}
	})
}

// layerNormTask is LayerNormBackward: chunks of normRows rows, then of columns of dw and
// db, whose parts [chunks][2][D] are added in order.
type layerNormTask struct {
	a    *backend.Args
	part []float32
	sum  bool // the second time
}

func (e *exec) layerNormBackward(a *backend.Args) {
	rows, d := a.In[0].Rows(), a.In[0].Cols()
	chunks := (rows + normRows - 1) / normRows
	mark := e.arena.mark()
	defer e.arena.release(mark)
	e.layers = layerNormTask{a: a, part: slice[float32](&e.arena, chunks*2*d)}
	e.b.pool.run(&e.layers, chunks)
	if a.Out[1].Present() || a.Out[2].Present() {
		e.layers.sum = true
		e.b.pool.run(&e.layers, (d+scatterCols-1)/scatterCols)
	}
	e.layers = layerNormTask{}
}

func (t *layerNormTask) run(wk *worker, chunk int) {
	a, d := t.a, t.a.In[0].Cols()
	if !t.sum {
		t.rows(chunk*normRows, min((chunk+1)*normRows, a.In[0].Rows()), t.part[chunk*2*d:][:d], t.part[(chunk*2+1)*d:][:d])
		return
	}
	col := chunk * scatterCols
	n := min(scatterCols, d-col)
	for i := range 2 {
		if o := &a.Out[1+i]; o.Present() {
			sum := elems[float32](o)[col:][:n]
			for at := i*d + col; at < len(t.part); at += 2 * d {
				wk.kernels.Add(sum, sum, t.part[at:])
			}
		}
	}
}

// rows computes dx of rows [from, to), and what they add to dw and db.
func (t *layerNormTask) rows(from, to int, dw, db []float32) {
	a, d := t.a, t.a.In[0].Cols()
	in, w, up := elems[float32](&a.In[0]), elems[float32](&a.In[1])[:d], elems[float32](&a.In[2])
	clear(dw)
	clear(db)
	for r := from; r < to; r++ {
		x, dy := row(in, r, a.In[0].RowStride(), d), row(up, r, a.In[2].RowStride(), d)
		c := centre(x, a.Eps)
		var mean, along float64 // of w dy, and of w dy h
		for i, v := range x {
			h, g := c.of(v), float64(w[i])*float64(dy[i])
			mean += g
			along += float64(g * h)
			dw[i] += float32(float64(dy[i]) * h)
			db[i] += dy[i]
		}
		if !a.Out[0].Present() {
			continue
		}
		mean, along = mean/float64(d), along/float64(d)
		dx := row(elems[float32](&a.Out[0]), r, a.Out[0].RowStride(), d)
		for i, v := range x {
			dx[i] = float32(c.scale * (float64(float64(w[i])*float64(dy[i])) - mean - float64(c.of(v)*along)))
		}
	}
}
