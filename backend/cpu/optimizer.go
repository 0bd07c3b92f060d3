package cpu

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

func (e *exec) adamW(a *backend.Args) {
	e.eachRow(a, a.In[0].Shape.Elems(), 1, func(w *worker, a *backend.Args, from, to int) {
		part := func(v *backend.View) []float32 { return elems[float32](v)[from:to] }
		step := kernel.NewAdamW(&a.AdamW)
		w.kernels.AdamW(step, part(&a.Out[0]), part(&a.Out[1]), part(&a.Out[2]), part(&a.In[0]))
	})
}

// sumTask is SumSquares: a chunk is chunkElems elements and has a sum of its own,
// so that it does not matter who adds them up.
type sumTask struct {
	x    []float32
	sums []float64
}

func (t *sumTask) run(w *worker, chunk int) {
	from := chunk * chunkElems
	t.sums[chunk] = w.sumSquares(t.x[from:min(from+chunkElems, len(t.x))])
}

func (e *exec) sumSquares(a *backend.Args) {
	n := a.In[0].Shape.Elems()
	mark := e.arena.mark()
	defer e.arena.release(mark)
	t := &e.squares
	*t = sumTask{x: elems[float32](&a.In[0])[:n], sums: slice[float64](&e.arena, (n+chunkElems-1)/chunkElems)}
	e.b.pool.run(t, len(t.sums))
	var total float64
	for _, s := range t.sums {
		total += s
	}
	*t = sumTask{}
	elems[float32](&a.Out[0])[0] = float32(total)
}
