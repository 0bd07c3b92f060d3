package backend

// Results says what is wanted of a segment's rows when its step is done. The zero value
// wants nothing. A step may hold segments that want different things.
type Results struct {
	Kind Result
	// Last is the number of rows that it is wanted of: the last ones of the segment.
	Last int
	// Targets are, for ResultLogprobs, the ids whose log-probabilities are wanted, one
	// for each of the Last rows. Nothing is wanted of a row whose target is below 0.
	Targets []int32
}

// Result is a kind of result, which each row has one of.
type Result uint8

const (
	// ResultNone is nothing but the keys and values that a row appends.
	ResultNone Result = iota
	// ResultLogits are the logits of the next token, [V].
	ResultLogits
	// ResultLogprobs is the log-probability of the row's target, one number.
	ResultLogprobs
	// ResultHidden is the state after the last norm, [D].
	ResultHidden
)

// Count is the number of rows that something is wanted of.
func (r *Results) Count() int {
	switch r.Kind {
	case ResultNone:
		return 0
	case ResultLogprobs:
		n := 0
		for _, t := range r.Targets {
			if t >= 0 {
				n++
			}
		}
		return n
	}
	return r.Last
}

// FillLogits makes l.Logits the rows that the segments want results of. It panics with a
// *ShapeError where a segment wants more rows than it has.
func (l *Layout) FillLogits() {
	l.Logits = l.Logits[:0]
	for i := range l.Segments {
		s := &l.Segments[i]
		r := &s.Results
		if r.Last < 0 || r.Last > s.Rows || r.Kind == ResultLogprobs && len(r.Targets) != r.Last {
			panic(shapeErr("Results", "of the last %d of %d rows, with %d targets", r.Last, s.Rows, len(r.Targets)))
		}
		if r.Kind == ResultNone {
			continue
		}
		first := s.Row + s.Rows - r.Last
		for j := range r.Last {
			if r.Kind != ResultLogprobs || r.Targets[j] >= 0 {
				l.Logits = append(l.Logits, int32(first+j))
			}
		}
	}
}
