package quantize

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
)

// An Imatrix is an importance matrix: how large the numbers are that each matrix of a model
// multiplies, column by column, over a text. An error of a weight matters as much as the
// square of what it is multiplied with.
type Imatrix struct {
	Entries  map[string]Entry // by the matrix's name in GGUF files
	Datasets []string         // names of the texts
	Chunks   int              // of the texts
	// ChunkSize is the tokens of a chunk; 0 is unknown.
	ChunkSize int
}

// An Entry is of one matrix.
type Entry struct {
	// Sums of the squares of each column's inputs.
	Sums []float32
	// Count is how many inputs they are sums of, or what they must be divided by else.
	Count float64
}

// Mean is the mean square of each column's inputs.
func (e Entry) Mean() []float32 {
	mean := make([]float32, len(e.Sums))
	for i, s := range e.Sums {
		mean[i] = float32(float64(s) / e.Count)
	}
	return mean
}

// check says what is wrong with an entry.
func (e Entry) check() error {
	if !(e.Count > 0) || math.IsInf(e.Count, 0) {
		return fmt.Errorf("is of %v inputs", e.Count)
	}
	for i, s := range e.Sums {
		if !(s >= 0) || math.IsInf(float64(s), 0) {
			return fmt.Errorf("has %v in column %d, which is no sum of squares", s, i)
		}
	}
	return nil
}

// Validate lists every violation, in the order of names.
func (m *Imatrix) Validate() error {
	var errs []error
	for _, name := range m.names() {
		if err := m.Entries[name].check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// names are those of the entries, in order.
func (m *Imatrix) names() []string {
	return slices.Sorted(maps.Keys(m.Entries))
}

// Importance is the mean square of the inputs of each matrix, nil for those that are not
// quantised or that the file need not have: the two of the vocabulary. It refuses entries
// that are of another model: names that it does not have, other widths, matrices that are
// missing.
func (m *Imatrix) Importance(matrices []Matrix, types []backend.DType) ([][]float32, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	means := make([][]float32, len(matrices))
	var errs []error
	for i, x := range matrices {
		known[x.Name] = true
		e, ok := m.Entries[x.Name]
		switch {
		case ok && len(e.Sums) != x.Cols:
			errs = append(errs, fmt.Errorf("%s has %d columns there and %d in the model", x.Name, len(e.Sums), x.Cols))
		case ok && types[i].Quantized():
			means[i] = e.Mean()
		case !ok && types[i].Quantized() && x.Name != embeddingName && x.Name != outputName:
			errs = append(errs, fmt.Errorf("%s is not in it", x.Name))
		}
	}
	for _, name := range m.names() {
		if !known[name] {
			errs = append(errs, fmt.Errorf("the model has no matrix %.80q", name))
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("the importance matrix is of another model: %w", errors.Join(errs[:min(len(errs), maxShown)]...))
	}
	return means, nil
}

// maxShown bounds the mistakes that an error lists.
const maxShown = 3
