package llama

import (
	"errors"
	"fmt"
	"slices"

	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// TrainedAdapter is what sessions call the adapter that AddAdapter or LoadAdapter put on a
// model.
const TrainedAdapter = "trained"

// adapterSet is an adapter as sessions see it. Its place in a list is its number in
// backend.Segment.
type adapterSet struct {
	name  string
	whole bool // it brings numbers that all rows have
}

// adapterSets are those of a checkpoint that was opened with a list of adapters.
func adapterSets(list []Adapter, c *checkpoint.Checkpoint) (sets []adapterSet) {
	for i, a := range list {
		o := c.Adapters[i]
		if a.Name == "" {
			a.Name = a.Path
		}
		sets = append(sets, adapterSet{name: a.Name, whole: len(o.Whole)+len(o.Rows) > 0})
	}
	return sets
}

// adapters are the model's, the one that is trained last.
func (m *Model) adapters() []adapterSet {
	if m.training.Load() != nil {
		return append(slices.Clip(m.sets), adapterSet{name: TrainedAdapter})
	}
	return m.sets
}

// Adapters are the names of the model's adapters, in the order of their work: those of
// Options.Adapters and, last, TrainedAdapter where one is trained.
func (m *Model) Adapters() (names []string) {
	for _, a := range m.adapters() {
		names = append(names, a.name)
	}
	return names
}

// adapterNumbers are those, ascending, of the adapters that a session asks for, as in
// backend.Segment: nil for nil. The error lists every violation.
func (m *Model) adapterNumbers(names []string) ([]int, error) {
	if names == nil {
		return nil, nil
	}
	var errs []error
	numbers, sets := []int{}, m.adapters()
	for _, name := range names {
		is := func(a adapterSet) bool { return a.name == name }
		i := slices.IndexFunc(sets, is)
		switch {
		case i < 0:
			errs = append(errs, fmt.Errorf("llama: SessionOptions.Adapters: the model has no adapter %q: it has %q", name, m.Adapters()))
		case slices.ContainsFunc(sets[i+1:], is):
			errs = append(errs, fmt.Errorf("llama: SessionOptions.Adapters: the model has several adapters %q: give each an Adapter.Name", name))
		default:
			numbers = append(numbers, i)
		}
	}
	for i, a := range sets {
		if a.whole && !slices.Contains(numbers, i) && len(errs) == 0 {
			errs = append(errs, fmt.Errorf("llama: SessionOptions.Adapters: a session without adapter %q is %w: parts of the model's own are replaced by what it brings", a.name, ErrUnsupported))
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), errors.Join(errs...)
}
