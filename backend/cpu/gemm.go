package cpu

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// operand is the rows that panels are multiplied with.
type operand struct {
	b input[uint16]  // pairs of bfloat16
	x input[float32] // or F32
}

// newOperand takes room for rows of k columns, one block of them.
func (e *exec) newOperand(f format, rows, k int) (o operand) {
	if f.dot {
		o.b = newInput[uint16](&e.arena, rows, k, k+k%2, 32)
	} else {
		o.x = newInput[float32](&e.arena, rows, k, k+k%2, 1)
	}
	return o
}

// operandRows packs columns [col, col+cols) of rows [from, from+n) of a matrix as the
// rows of an operand. Chunks are runs of rows.
type operandRows struct {
	format
	src       source
	from, n   int
	col, cols int
	to        operand
	perChunk  int
}

func (t *operandRows) run(w *worker, chunk int) {
	buf := slice[float32](&w.scratch, t.cols)
	for r := chunk * t.perChunk; r < min((chunk+1)*t.perChunk, t.n); r++ {
		if w.pause() {
			return
		}
		if t.dot {
			y := t.to.b.at(r, 0)[:t.to.b.cols]
			w.kernels.RoundBF16(y, t.src.row(buf, t.from+r, t.col, t.cols))
			clear(y[t.cols:])
		} else {
			t.to.x.set(r, t.src.rounded(w, t.format, buf, t.from+r, t.col, t.cols))
		}
	}
}

// rowsOf packs columns of rows of a matrix as an operand.
func (e *exec) rowsOf(f format, src source, from, n, col, cols int) operand {
	o := e.newOperand(f, n, cols)
	e.operandRows = operandRows{f, src, from, n, col, cols, o, max(1, chunkElems/cols)}
	e.b.pool.run(&e.operandRows, (n+e.operandRows.perChunk-1)/e.operandRows.perChunk)
	e.operandRows = operandRows{}
	return o
}

// columnsOf packs columns of rows of F32 as an operand's rows.
func (e *exec) columnsOf(f format, src source, from, n, col, cols int) operand {
	o := e.newOperand(f, cols, n)
	e.turned = turned{f, src, from, n, col, cols, o}
	e.b.pool.run(&e.turned, (n+rowsTogether-1)/rowsTogether)
	e.turned = turned{}
	return o
}

// panelsOf packs rows of a matrix as panels of its columns.
func (e *exec) panelsOf(f format, src source, from, n, col, cols int) (mem []byte, step int) {
	step = f.padded(n)
	mem = slice[byte](&e.arena, panels(cols)*step)
	e.colPanels = colPanels{f, src, from, n, col, cols, mem, step}
	e.b.pool.run(&e.colPanels, (n+rowsTogether-1)/rowsTogether)
	e.colPanels = colPanels{}
	return mem, step
}

// weightPanels returns panels of rows of a weight, packed, or as they lie in memory.
func (e *exec) weightPanels(f format, w backend.Weight, first, n int) (mem []byte, step int) {
	step = f.step(w.Cols())
	if p, ok := w.(*packed); ok && (f.dot && p.typ == backend.BF16 || !f.dot && !f.round && p.typ == backend.F32) {
		return p.mem[first*step:], step
	}
	mem = slice[byte](&e.arena, n*step)
	e.rowPanelsOf(f, w, first, n, mem)
	return mem, step
}

// rowPanelsOf packs panels of rows of a weight into mem.
func (e *exec) rowPanelsOf(f format, w backend.Weight, first, n int, mem []byte) {
	t := &e.rowPanels
	*t = rowPanels{format: f, src: weightSource(w), rows: w.Rows(), k: w.Cols(), first: first, n: n, mem: mem, step: f.step(w.Cols())}
	t.perChunk = max(1, chunkElems/(panel*t.k))
	e.b.pool.run(t, (n+t.perChunk-1)/t.perChunk)
	*t = rowPanels{}
}

// gemm is a product of rows and panels: out [rows, cols] = x [rows, k] by panels, or
// added to it. Chunks are blocks of rows, each with some panels.
type gemm struct {
	format
	x                operand
	mem              []byte
	step             int
	out              []float32
	stride           int
	rows, cols, k    int
	accumulate       bool
	rowsPer, perCols int   // of a chunk, perCols in panels
	loss             *loss // finishes chunks of logits, whose rows have room for whole panels
}

const (
	gemmBytes = 1 << 19 // of rows that stay in the second-level cache
	gemmWork  = 1 << 24 // multiplications of a chunk
)

// multiply runs a product whose operands are set.
func (e *exec) multiply(g *gemm) {
	size := 4
	if g.dot {
		size = 2
	}
	most := max(gemmBytes/(size*g.k)/kernel.MaxRows, 1)
	if g.loss != nil { // their logits stay there too
		most = min(most, lossCols/kernel.MaxRows)
	}
	blocks := (g.rows + most*kernel.MaxRows - 1) / (most * kernel.MaxRows)
	if blocks == 0 {
		return
	}
	g.rowsPer = ((g.rows+blocks-1)/blocks + kernel.MaxRows - 1) / kernel.MaxRows * kernel.MaxRows
	if g.perCols == 0 {
		g.perCols = max(gemmWork/(g.rowsPer*g.k*panel)/kernel.Pair, 1) * kernel.Pair
	}
	e.b.pool.run(g, (g.rows+g.rowsPer-1)/g.rowsPer*g.across())
}

// across is the number of chunks that share rows.
func (g *gemm) across() int { return (panels(g.cols) + g.perCols - 1) / g.perCols }

func (g *gemm) run(w *worker, chunk int) {
	row, first := chunk/g.across()*g.rowsPer, chunk%g.across()*g.perCols
	rows, end := min(g.rowsPer, g.rows-row), min(first+g.perCols, panels(g.cols))
	part := operand{g.x.b.part(row, rows), g.x.x.part(row, rows)}
	all, stride := []float32(nil), g.stride
	if g.out != nil {
		all = g.out[row*stride+first*panel:]
	} else { // of the worker alone
		stride = (end - first) * panel
		all = slice[float32](&w.scratch, rows*stride)
	}
	for p := first; p < end; {
		n := max(min(kernel.Pair, end-p, g.cols/panel-p), 1)
		out, wide := all[(p-first)*panel:], stride
		mark := w.scratch.mark()
		cols := min(n*panel, g.cols-p*panel)
		ragged := cols < n*panel && g.loss == nil // kernels write whole panels
		if ragged {
			wide = n * panel
			out = slice[float32](&w.scratch, rows*wide)
			for r := 0; r < rows && g.accumulate; r++ {
				copy(out[r*wide:][:cols], all[r*stride+(p-first)*panel:])
			}
		}
		if g.dot {
			multiply(w, w.kernels.BF16Dot, n, out, wide, &part.b, as[uint16](g.mem[p*g.step:]), 2*panel, g.step/2, 2, 0, g.k+g.k%2, g.accumulate)
		} else {
			multiply(w, w.kernels.F32, n, out, wide, &part.x, as[float32](g.mem[p*g.step:]), panel, g.step/4, 1, 0, g.k, g.accumulate)
		}
		if ragged {
			for r := range rows {
				copy(all[r*stride+(p-first)*panel:][:cols], out[r*wide:])
			}
		}
		w.scratch.release(mark)
		if p += n; w.pause() {
			return
		}
	}
	if g.loss != nil {
		g.loss.finish(g.loss, w, all, stride, row, rows, first*panel, min(end*panel, g.cols)-first*panel)
	}
}
