package cpu

import "github.com/herd-ml/herd/backend"

// matMulBackward takes blocks of rows and of outputs, at fixed places, so that what is
// packed of them stays small. Sums over either go on from block to block in order.
func (e *exec) matMulBackward(a *backend.Args) {
	f, rows := e.formatOf(a.Round), a.In[0].Rows()
	for from := 0; from < rows; from += blockLen {
		n := min(blockLen, rows-from)
		if a.Out[0].Present() {
			e.inputGradient(a, f, from, n)
		}
		e.weightGradients(a, f, from, n)
	}
}

// window is the columns of which panels of k inputs are packed at once.
func (f format) window(k int) int {
	return max(windowBytes/f.padded(k)/16, 1) * 16 * panel // whole blocks of any type
}

// inputGradient is dx of some rows: sums over the outputs of all weights.
func (e *exec) inputGradient(a *backend.Args, f format, from, rows int) {
	dx, k := &a.Out[0], a.In[0].Cols()
	out, first := elems[float32](dx)[from*dx.RowStride():], true
	for i := range a.Weights() {
		dy, w := viewSource(&a.In[1+i]), a.W[i]
		for n := 0; n < w.Rows(); n += blockLen {
			some := min(blockLen, w.Rows()-n)
			mark := e.arena.mark()
			x := e.rowsOf(f, dy, from, rows, n, some)
			e.addProducts(f, x, weightSource(w), n, some, k, out, dx.RowStride(), rows, !first)
			e.arena.release(mark)
			first = false
		}
	}
}

// addProducts multiplies rows with panels of the columns of rows [from, from+n) of a
// matrix of k columns.
func (e *exec) addProducts(f format, x operand, src source, from, n, k int, out []float32, stride, rows int, accumulate bool) {
	for col, most := 0, f.window(n); col < k; col += most {
		cols := min(most, k-col)
		mark := e.arena.mark()
		mem, step := e.panelsOf(f, src, from, n, col, cols)
		e.gemm = gemm{format: f, x: x, mem: mem, step: step, out: out[col:], stride: stride, rows: rows, cols: cols, k: n, accumulate: accumulate}
		e.multiply(&e.gemm)
		e.gemm = gemm{}
		e.arena.release(mark)
	}
}

// weightGradients adds the products of some rows to dW.
func (e *exec) weightGradients(a *backend.Args, f format, from, rows int) {
	x, k := viewSource(&a.In[0]), a.In[0].Cols()
	any := false
	for i := range a.Weights() {
		any = any || a.Out[1+i].Present()
	}
	for col, most := 0, f.window(rows); any && col < k; col += most {
		cols := min(most, k-col)
		mark := e.arena.mark()
		mem, step := e.panelsOf(f, x, from, rows, col, cols)
		for i := range a.Weights() {
			dw, dy := &a.Out[1+i], viewSource(&a.In[1+i])
			for n := 0; dw.Present() && n < a.W[i].Rows(); n += blockLen {
				some := min(blockLen, a.W[i].Rows()-n)
				mark := e.arena.mark()
				e.gemm = gemm{format: f, x: e.columnsOf(f, dy, from, rows, n, some), mem: mem, step: step,
					out: elems[float32](dw)[n*dw.RowStride()+col:], stride: dw.RowStride(), rows: some, cols: cols, k: rows, accumulate: true}
				e.multiply(&e.gemm)
				e.gemm = gemm{}
				e.arena.release(mark)
			}
		}
		e.arena.release(mark)
	}
}
