package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// Log-probabilities and their gradients: products with a vocabulary, whose logits are
// in memory for some rows, or some rows and some of the vocabulary, only.

const (
	lossCols  = 256       // logits of a row that are reduced together, from a multiple of it on
	lossBytes = 144 << 20 // of logits that are in memory at once
	lossRow   = 1024      // rows that are multiplied with what is packed of the vocabulary
)

// loss is what a pass over the vocabulary needs and finds, for some rows.
type loss struct {
	format
	w              backend.Weight
	rows, k, vocab int
	order          []int32 // of the operands' rows
	x              operand
	ids            []int32 // of the operands, as c, dlse and the outputs are
	at             int     // logits before those that are multiplied now

	// Of each row and each lossCols logits, [blocks][rows]: the largest, the sum of
	// exp(z - top), and where wanted sum exp(z - top) (z - top).
	tops, sums []float32
	spreads    []float64
	picked     []float32 // [rows] the logits of ids
	lse        []float64 // [rows]
	entropy    []float64 // [rows] or nil

	grad   []rowGradient // [rows], where they follow from what reduce leaves
	known  []rowGradient // [rows], where logits become gradients at once
	finish func(l *loss, w *worker, z []float32, stride, row, rows, col, cols int)
}

// A rowGradient is dz = add [v=id] + mul p - ent p (z - lse + entropy).
type rowGradient struct{ add, mul, ent, lse, entropy float64 }

func (l *loss) blocks() int { return (l.vocab + lossCols - 1) / lossCols }

// start packs rows, in the order of a list, and takes room for what is found of them.
func (e *exec) start(a *backend.Args, order []int32, f format, entropy bool) *loss {
	l := e.found(a, order, f, entropy)
	e.packRows(l, a)
	return l
}

func (e *exec) packRows(l *loss, a *backend.Args) {
	src := viewSource(&a.In[0])
	src.order = l.order
	l.x = e.rowsOf(l.format, src, 0, l.rows, 0, l.k)
}

// found takes room for what is found of rows.
func (e *exec) found(a *backend.Args, order []int32, f format, entropy bool) *loss {
	l, n := &e.loss, len(order)
	*l = loss{format: f, w: a.W[0], rows: n, k: a.In[0].Cols(), vocab: a.W[0].Rows(), order: order, ids: elems[int32](&a.In[1])}
	l.tops, l.sums = slice[float32](&e.arena, n*l.blocks()), slice[float32](&e.arena, n*l.blocks())
	l.picked, l.lse = slice[float32](&e.arena, n), slice[float64](&e.arena, n)
	if entropy {
		l.spreads, l.entropy = slice[float64](&e.arena, n*l.blocks()), slice[float64](&e.arena, n)
	}
	return l
}

// windowOf is how much of the vocabulary is packed at once.
func (l *loss) windowOf() int {
	return max(windowBytes/(l.step(l.k)/panel)/lossCols, 1) * lossCols
}

// logits multiplies with n rows of the weight from l.at on. Chunks of lossCols logits
// go to out, or nowhere, and to finish.
func (e *exec) logits(l *loss, n int, out []float32, stride int) {
	mark := e.arena.mark()
	mem, step := e.weightPanels(l.format, l.w, l.at/panel, panels(n))
	e.gemm = gemm{format: l.format, x: l.x, mem: mem, step: step, out: out, stride: stride,
		rows: l.rows, cols: n, k: l.k, perCols: lossCols / panel, loss: l}
	e.multiply(&e.gemm)
	e.gemm = gemm{}
	e.arena.release(mark)
}

// logSumExps reduces the logits of all rows. Where z is not nil it keeps exp(z - top),
// top the largest of its lossCols logits.
func (e *exec) logSumExps(l *loss, z []float32, stride int) {
	l.finish = (*loss).reduce
	for l.at = 0; l.at < l.vocab; l.at += l.windowOf() {
		out := z
		if z != nil {
			out = z[l.at:]
		}
		e.logits(l, min(l.windowOf(), l.vocab-l.at), out, stride)
	}
	for r := range l.rows {
		l.total(r)
	}
}

func (l *loss) reduce(w *worker, z []float32, stride, row, rows, col, cols int) {
	block := (l.at + col) / lossCols * l.rows
	var before []float32
	if l.spreads != nil {
		before = slice[float32](&w.scratch, cols)
	}
	for r := range rows {
		z, row := z[r*stride:][:cols], row+r
		if id := int(l.ids[l.order[row]]) - l.at - col; id >= 0 && id < cols {
			l.picked[row] = z[id]
		}
		copy(before, z)
		top, sum := w.kernels.Exps(z, 1)
		l.tops[block+row], l.sums[block+row] = top, sum
		if before == nil {
			continue
		}
		s := 0.0
		for i, p := range z {
			if p != 0 {
				s += float64(p) * float64(before[i]-top)
			}
		}
		l.spreads[block+row] = s
	}
}

// total adds up the blocks of a row, in order. lse is infinite where a logit is, or all
// are minus infinity.
func (l *loss) total(r int) {
	top, sum := math.Inf(-1), 0.0
	for b := r; b < len(l.tops); b += l.rows {
		if t := float64(l.tops[b]); t > top || t != t {
			top = t
		}
		if top != top {
			break
		}
	}
	l.lse[r] = top
	if top-top == 0 {
		for b := r; b < len(l.tops); b += l.rows {
			sum += float64(l.sums[b]) * math.Exp(float64(l.tops[b])-top)
		}
		l.lse[r] += math.Log(sum)
	}
	if l.entropy == nil {
		return
	}
	h, lse := lse0(l.lse[r]), l.lse[r]
	for b := r; b < len(l.tops); b += l.rows {
		if t := float64(l.tops[b]); !math.IsInf(t, -1) {
			h += math.Exp(t-lse) * (float64(l.sums[b])*(lse-t) - l.spreads[b])
		}
	}
	l.entropy[r] = h
}

// lse0 is 0 for a finite number, else NaN.
func lse0(x float64) float64 { return x - x }

// identity lists n rows from a row on.
func (e *exec) identity(from, n int) []int32 {
	order := slice[int32](&e.arena, n)
	for i := range order {
		order[i] = int32(from + i)
	}
	return order
}

// checkIDs panics where an id is not in the vocabulary.
func checkIDs(op backend.Op, a *backend.Args) {
	for _, id := range elems[int32](&a.In[1])[:a.In[0].Rows()] {
		index(op.String(), id, a.W[0].Rows())
	}
}

// store writes logp and lse.
func (l *loss) store(a *backend.Args) {
	logp, lse := elems[float32](&a.Out[0]), elems[float32](&a.Out[1])
	for i, r := range l.order {
		logp[r], lse[r] = float32(float64(l.picked[i])-l.lse[i]), float32(l.lse[i])
	}
}

// crossEntropy takes rows that count first. Logits become exp(z - top) as they are
// made, and gradients of logits by a factor for each lossCols.
func (e *exec) crossEntropy(a *backend.Args) {
	checkIDs(backend.CrossEntropy, a)
	rows, vocab, f := a.In[0].Rows(), a.W[0].Rows(), e.formatOf(a.Round)
	mark := e.arena.mark()
	defer e.arena.release(mark)
	order, n := e.counting(a, rows)
	stride := panels(vocab)*panel + panel
	e.inParts(n, lossBytes/(4*stride), func(from, n int) {
		l := e.start(a, order[from:from+n], f, false)
		z := slice[float32](&e.arena, n*stride)
		e.logSumExps(l, z, stride)
		l.store(a)
		l.grad = slice[rowGradient](&e.arena, n)
		for i, r := range l.order {
			c, zc := weights(a, r)
			dlse := 0.0
			if zc != 0 {
				dlse = 2 * zc * l.lse[i]
			}
			l.grad[i] = rowGradient{add: -c, mul: dlse + c}
		}
		g := e.gradients(l, a, &a.Out[2], &a.Out[3])
		for at := 0; at < vocab && !e.b.pool.halted(); at += blockLen {
			some := min(blockLen, vocab-at)
			e.addGradients(l, g, z[at:], stride, at, some)
		}
		e.spreadLoss(l, g)
	})
	e.inParts(rows-n, lossRow, func(from, some int) {
		l := e.start(a, order[n+from:n+from+some], f, false)
		e.logSumExps(l, nil, 0)
		l.store(a)
		if a.Out[2].Present() {
			dx := elems[float32](&a.Out[2])
			for _, r := range l.order {
				clear(row(dx, int(r), a.Out[2].RowStride(), l.k))
			}
		}
	})
}

// weights are c and zc of a row of CrossEntropy.
func weights(a *backend.Args, r int32) (c, zc float64) {
	if a.In[3].Present() {
		zc = float64(elems[float32](&a.In[3])[r])
	}
	return float64(elems[float32](&a.In[2])[r]), zc
}

// counting lists rows, those first that count, and how many do. Without gradients to
// compute none does.
func (e *exec) counting(a *backend.Args, rows int) (order []int32, n int) {
	order = slice[int32](&e.arena, rows)
	gradients := a.Out[2].Present() || a.Out[3].Present()
	at := rows
	for r := rows - 1; r >= 0; r-- {
		if c, zc := weights(a, int32(r)); !gradients || c == 0 && zc == 0 {
			at--
			order[at] = int32(r)
		}
	}
	for r := range rows {
		if c, zc := weights(a, int32(r)); gradients && (c != 0 || zc != 0) {
			order[n] = int32(r)
			n++
		}
	}
	return order, n
}

// inParts calls f for parts of about the same size, at most so many rows each.
func (e *exec) inParts(rows, most int, f func(from, n int)) {
	most = max(most/kernel.MaxRows, 1) * kernel.MaxRows
	parts := (rows + most - 1) / most
	for from := 0; from < rows && !e.b.pool.halted(); {
		n := min(((rows+parts-1)/parts+kernel.MaxRows-1)/kernel.MaxRows*kernel.MaxRows, rows-from)
		mark := e.arena.mark()
		f(from, n)
		e.arena.release(mark)
		e.loss = loss{}
		from += n
	}
}
