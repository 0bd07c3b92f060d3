package train

import "fmt"

// NoTarget is the target of a row that predicts nothing.
const NoTarget = -1

// A Batch is the rows of one forward and backward pass: Rows sequences of SeqLen
// tokens, one after the other, without a gap.
type Batch struct {
	IDs     []int32   // [Rows*SeqLen]
	Targets []int32   // [Rows*SeqLen] the token that follows, or NoTarget
	Weights []float32 // [Rows*SeqLen] of the rows' losses; nil: all 1
	// Docs are the lengths of the pieces that may not see each other, in order;
	// positions start at 0 in each. None reaches from one sequence into the next,
	// and together they are all rows. Padding is a piece of its own.
	Docs   []int
	Tokens int // targets that count
}

// check refuses a batch whose parts do not fit together.
func (b *Batch) check() error {
	rows := 0
	for i, n := range b.Docs {
		if n <= 0 {
			return fmt.Errorf("train: piece %d has %d tokens", i, n)
		}
		rows += n
	}
	if len(b.IDs) == 0 || rows != len(b.IDs) || len(b.Targets) != rows || b.Weights != nil && len(b.Weights) != rows {
		return fmt.Errorf("train: %d ids, %d targets, %d weights and pieces of %d tokens together", len(b.IDs), len(b.Targets), len(b.Weights), rows)
	}
	return nil
}

// weight is the sum of the weights of what has a target.
func (b *Batch) weight() (sum float64) {
	for i, y := range b.Targets {
		switch {
		case y < 0:
		case b.Weights == nil:
			sum++
		default:
			sum += float64(b.Weights[i])
		}
	}
	return sum
}

// sums are those of -logp and of lse^2 over what counts, by the weights.
func (b *Batch) sums(logp, lse []float32) (nll, squares float64) {
	for i, y := range b.Targets {
		w := 1.0
		if b.Weights != nil {
			w = float64(b.Weights[i])
		}
		if y >= 0 && w != 0 {
			nll -= w * float64(logp[i])
			squares += w * float64(lse[i]) * float64(lse[i])
		}
	}
	return nll, squares
}

// count is the number of targets that count.
func (b *Batch) count() (n int) {
	for i, y := range b.Targets {
		if y >= 0 && (b.Weights == nil || b.Weights[i] != 0) {
			n++
		}
	}
	return n
}
