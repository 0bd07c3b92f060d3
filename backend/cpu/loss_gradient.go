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

// addGradients adds the products of gradients of n logits from at on, of which z holds
// something for each row.
func (e *exec) addGradients(l *loss, g lossGradients, z []float32, stride, at, n int) {
	mark := e.arena.mark()
	t := &e.logitGradients
	*t = logitGradients{format: l.format, l: l, z: z, stride: stride, at: at, n: n}
	if g.rows != nil {
		t.dz = e.newOperand(l.format, l.rows, n)
	}
	if g.mem != nil {
		t.turned = e.newOperand(l.format, n, l.rows)
	}
	e.b.pool.run(t, (l.rows+rowsTogether-1)/rowsTogether)
	if g.rows != nil {
		e.addProducts(l.format, t.dz, weightSource(l.w), at, n, l.k, g.rows, l.k, l.rows, at > 0)
	}
	if g.mem != nil {
		e.gemm = gemm{format: l.format, x: t.turned, mem: g.mem, step: g.step,
			out: elems[float32](g.dw)[at*g.dw.RowStride():], stride: g.dw.RowStride(), rows: n, cols: l.k, k: l.rows, accumulate: true}
		e.multiply(&e.gemm)
		e.gemm = gemm{}
	}
	*t = logitGradients{}
	e.arena.release(mark)
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

// logitGradients makes gradients dz of n logits from at on into operands, of what is
// in z: gradients, or what reduce leaves of logits. Chunks are rowsTogether rows, so that
// z, which may come from memory, is read once.
type logitGradients struct {
	format
	l          *loss
	z          []float32
	stride     int
	at, n      int
	dz, turned operand // of rows and of logits, if wanted
}

func (t *logitGradients) run(w *worker, chunk int) {
	const most, stride = 2 * lossCols, 2*lossCols + panel
	first := chunk * rowsTogether
	rows := min(rowsTogether, t.l.rows-first)
	buf, ones := slice[float32](&w.scratch, rowsTogether*stride), slice[float32](&w.scratch, lossCols)
	for i := range ones {
		ones[i] = 1
	}
	for c := 0; c < t.n; c += most {
		if w.pause() {
			return
		}
		n := min(most, t.n-c)
		dz := source{s: t.z[first*t.stride+c:], stride: t.stride}
		if t.l.grad != nil {
			dz = source{s: buf, stride: stride}
			for r := range rows {
				t.scale(w, buf[r*stride:][:n], ones, first+r, c)
			}
		}
		mark := w.scratch.mark()
		t.operands(w, dz, first, rows, c, n)
		w.scratch.release(mark)
	}
}

// scale writes the gradients of a row from column c on.
func (t *logitGradients) scale(w *worker, y, ones []float32, r, c int) {
	l, g, z := t.l, &t.l.grad[r], t.z[r*t.stride+c:]
	for i := 0; i < len(y); i += lossCols {
		y := y[i:min(i+lossCols, len(y))]
		s := float32(g.mul * factor(float64(l.tops[(t.at+c+i)/lossCols*l.rows+r]), l.lse[r]))
		w.kernels.Scaled(y, z[i:], ones, s)
	}
	if id := int(l.ids[l.order[r]]) - t.at - c; id >= 0 && id < len(y) {
		y[id] = float32(float64(y[id]) + g.add)
	}
}

// operands writes columns [c, c+n) of some rows, which dz starts with.
func (t *logitGradients) operands(w *worker, dz source, first, rows, c, n int) {
	if len(t.dz.b.s) > 0 || len(t.dz.x.s) > 0 {
		for r := range rows {
			if !t.dot {
				buf := slice[float32](&w.scratch, n)
				y := t.dz.x.at(first+r, c)
				copy(y, dz.rounded(w, t.format, buf, r, 0, n))
				continue
			}
			y := t.dz.b.at(first+r, c)[:n+1]
			y[n] = 0 // in the place of the next, or of the second of a pair
			w.kernels.RoundBF16(y[:n], dz.row(nil, r, 0, n))
		}
	}
	turn := turned{format: t.format, src: dz, from: -first, col: -c, to: t.turned}
	switch {
	case len(t.turned.b.s) > 0:
		turn.pairs(w, first, rows, c, n)
	case len(t.turned.x.s) > 0:
		for i := 0; i < rows; i += panel {
			turn.values(w, first+i, min(panel, rows-i), c, n)
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
		if g.add != 0 || g.mul != 0 || g.ent != 0 {
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
		l.known = slice[rowGradient](&e.arena, n)
		for i, r := range l.order {
			l.known[i] = gradientOf(a, r)
			if dentropy {
				l.known[i].entropy = l.entropy[i]
			}
		}
		g := e.gradients(l, a, &a.Out[0], &a.Out[1])
		stride := blockLen + panel
		z := slice[float32](&e.arena, n*stride)
		l.finish = (*loss).differentiate
		for l.at = 0; l.at < vocab && !e.b.pool.halted(); l.at += blockLen {
			some := min(blockLen, vocab-l.at)
			e.logits(l, some, z, stride)
			e.addGradients(l, g, z, stride, l.at, some)
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
		z, g := z[r*stride:][:cols], &l.known[row+r]
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
