package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// lossGradients are where the gradients of some rows go.
type lossGradients struct {
	dx, dw *backend.View // perhaps absent
	rows   []float32     // [rows, k] of dx
	mem    []byte        // panels of x
	step   int
}

// gradients takes room for dx and packs x for dW.
func (e *exec) gradients(l *loss, a *backend.Args, dx, dw *backend.View) lossGradients {
	g := lossGradients{dx: dx, dw: dw}
	if dx.Present() {
		g.rows = slice[float32](&e.arena, l.rows*l.k)
	}
	if dw.Present() {
		src := viewSource(&a.In[0])
		src.order = l.order
		g.mem, g.step = e.panelsOf(l.format, src, 0, l.rows, 0, l.k)
	}
	return g
}

// addGradients adds the products of gradients dz of n logits from at on.
func (e *exec) addGradients(l *loss, g lossGradients, dz source, at, n int) {
	mark := e.arena.mark()
	if g.rows != nil {
		e.addProducts(l.format, e.rowsOf(l.format, dz, 0, l.rows, 0, n), weightSource(l.w), at, n, l.k, g.rows, l.k, l.rows, at > 0)
		e.arena.release(mark)
	}
	if g.mem != nil {
		e.gemm = gemm{format: l.format, x: e.columnsOf(l.format, dz, 0, l.rows, 0, n), mem: g.mem, step: g.step,
			out: elems[float32](g.dw)[at*g.dw.RowStride():], stride: g.dw.RowStride(), rows: n, cols: l.k, k: l.rows, accumulate: true}
		e.multiply(&e.gemm)
		e.gemm = gemm{}
		e.arena.release(mark)
	}
}

// spreadLoss writes dx.
func (e *exec) spreadLoss(l *loss, g lossGradients) {
	if g.rows != nil {
		dx := elems[float32](g.dx)
		for i, r := range l.order {
			copy(row(dx, int(r), g.dx.RowStride(), l.k), g.rows[i*l.k:])
		}
	}
}

// lossRows makes gradients dz of n logits from at on of what reduce kept of them: chunks
// are rows.
type lossRows struct {
	l        *loss
	z        []float32
	stride   int
	at, n    int
	perChunk int
}

func (e *exec) scaled(l *loss, z []float32, stride, at, n int) {
	e.lossRows = lossRows{l, z, stride, at, n, max(1, chunkElems/n)}
	e.b.pool.run(&e.lossRows, (l.rows+e.lossRows.perChunk-1)/e.lossRows.perChunk)
	e.lossRows = lossRows{}
}

func (t *lossRows) run(w *worker, chunk int) {
	l := t.l
	for r := chunk * t.perChunk; r < min((chunk+1)*t.perChunk, l.rows); r++ {
		g, z := &l.grad[r], t.z[r*t.stride:][:t.n]
		for c := 0; c < t.n; c += lossCols {
			z := z[c:min(c+lossCols, t.n)]
			s := float32(g.mul * factor(float64(l.tops[(t.at+c)/lossCols*l.rows+r]), l.lse[r]))
			w.kernels.Mix(z, z, s, 0)
		}
		if id := int(l.ids[l.order[r]]) - t.at; id >= 0 && id < t.n {
			z[id] = float32(float64(z[id]) + g.add)
		}
	}
}

// factor is exp(top - lse), which exp(z - top) is to be multiplied with for exp(z -
// lse). Where both are infinite it is 1: exp(z - top) is NaN or 0 as exp(z - lse) is.
func factor(top, lse float64) float64 {
	if math.IsInf(lse, 1) && top == lse {
		return 1
	}
	return math.Exp(top - lse)
}

// logProbBackward makes gradients of logits as they are multiplied, since lse is known.
// An entropy, which its gradient needs, takes a product of its own.
func (e *exec) logProbBackward(a *backend.Args) {
	checkIDs(backend.LogProbBackward, a)
	rows, vocab, f := a.In[0].Rows(), a.W[0].Rows(), e.formatOf(a.Round)
	mark := e.arena.mark()
	defer e.arena.release(mark)
	if !a.Out[0].Present() && !a.Out[1].Present() {
		return
	}
	order, n, dentropy := slice[int32](&e.arena, rows), 0, false
	for r := range rows {
		g := gradientOf(a, int32(r))
		dentropy = dentropy || g.ent != 0
		if g != (rowGradient{lse: g.lse}) {
			order[n] = int32(r)
			n++
		} else if a.Out[0].Present() {
			clear(row(elems[float32](&a.Out[0]), r, a.Out[0].RowStride(), a.Out[0].Cols()))
		}
	}
	e.inParts(n, lossRow, func(from, n int) {
		l := e.start(a, order[from:from+n], f, dentropy)
		if dentropy {
			e.logSumExps(l, nil, 0)
		}
		l.grad = slice[rowGradient](&e.arena, n)
		for i, r := range l.order {
			l.grad[i] = gradientOf(a, r)
			if dentropy {
				l.grad[i].entropy = l.entropy[i]
			}
		}
		g := e.gradients(l, a, &a.Out[0], &a.Out[1])
		stride := blockLen + panel
		z := slice[float32](&e.arena, n*stride)
		l.finish = (*loss).differentiate
		for l.at = 0; l.at < vocab && !e.b.pool.halted(); l.at += blockLen {
			some := min(blockLen, vocab-l.at)
			e.logits(l, some, z, stride)
			e.addGradients(l, g, source{s: z, stride: stride}, l.at, some)
		}
		e.spreadLoss(l, g)
	})
}

// gradientOf is that of a row of LogProbBackward.
func gradientOf(a *backend.Args, r int32) rowGradient {
	at := func(i int) float64 {
		if !a.In[i].Present() {
			return 0
		}
		return float64(elems[float32](&a.In[i])[r])
	}
	return rowGradient{add: at(3), mul: at(4) - at(3), ent: at(5), lse: at(2)}
}

// differentiate replaces logits by their gradients.
func (l *loss) differentiate(w *worker, z []float32, stride, row, rows, col, cols int) {
	before := slice[float32](&w.scratch, cols)
	for r := range rows {
		z, g := z[r*stride:][:cols], &l.grad[row+r]
		copy(before, z)
		w.kernels.ExpsFrom(z, float32(g.lse))
		if g.ent == 0 {
			w.kernels.Mix(z, z, float32(g.mul), 0)
		} else {
			for i, p := range z {
				if p != 0 {
					z[i] = float32(float64(p) * (g.mul - g.ent*(float64(before[i])-g.lse+g.entropy)))
				}
			}
		}
		if id := int(l.ids[l.order[row+r]]) - l.at - col; id >= 0 && id < cols {
			z[id] = float32(float64(z[id]) + g.add)
		}
	}
}
