package cpu

import "github.com/herd-ml/herd/backend/cpu/internal/kernel"

// pieceLen is how many elements a worker goes through between two pauses: some 10 us.
// Pieces of a row are whole blocks of any type, and whole groups of sums.
const pieceLen = 1 << 14

// pieces calls f for the pieces of n elements and pauses between them. It reports false
// where the step has been stopped.
func (w *worker) pieces(n int, f func(from, to int)) bool {
	for from := 0; from < n; from += pieceLen {
		if from > 0 && w.pause() {
			return false
		}
		f(from, min(from+pieceLen, n))
	}
	return true
}

// spent is called before work of n elements, and pauses where there were enough of them.
// A row by a column of a panel, 16 multiplications, is as an element. It reports false
// where the step has been stopped.
func (w *worker) spent(n int) bool {
	if w.done += n; w.done < pieceLen {
		return true
	}
	w.done = 0
	return !w.pause()
}

// sumSquares is the sum of the squares of x in float64: sums of every sixteenth element,
// added up by halves.
func (w *worker) sumSquares(x []float32) float64 {
	t := &w.sums[0]
	*t = kernel.Sums{}
	w.pieces(len(x), func(from, to int) { w.kernels.AddSquares(t, x[from:to]) })
	return t.Total()
}

// normSums is the sum of the squares of x and that of x * float32(g*dy), as sumSquares
// adds them.
func (w *worker) normSums(x, g, dy []float32) (squares, dot float64) {
	w.sums = [2]kernel.Sums{}
	w.pieces(len(x), func(from, to int) { w.kernels.AddNormSums(&w.sums, x[from:to], g[from:to], dy[from:to]) })
	return w.sums[0].Total(), w.sums[1].Total()
}
