package backend

import "fmt"

// RowRange is rows [from, from+n) of a source as a source of its own: the part of a
// machine, among several, that computes some of the outputs.
func (s WeightSource) RowRange(from, n int) (WeightSource, error) {
	if from < 0 || n < 0 || from > s.Rows-n {
		return WeightSource{}, fmt.Errorf("backend: weight %s: rows [%d, +%d) of %d", s.Name, from, n, s.Rows)
	}
	read := s.ReadRows
	s.Rows = n
	s.ReadRows = func(dst []byte, row, n int) error { return read(dst, from+row, n) }
	return s, nil
}

// ColumnRange is columns [from, from+n) of a source as a source of its own: the part of
// a machine, among several, whose products with some of the inputs are added up. They
// are whole blocks of the type; rows that begin with a scale keep it. Whole rows are
// read, a part at a time.
func (s WeightSource) ColumnRange(from, n int) (WeightSource, error) {
	e := s.Type.BlockElems()
	if from < 0 || n < 0 || from > s.Cols-n || from%e != 0 || n%e != 0 {
		return WeightSource{}, fmt.Errorf("backend: weight %s: columns [%d, +%d) of %d are no whole blocks of %v", s.Name, from, n, s.Cols, s.Type)
	}
	whole, err := s.Type.RowBytes(int64(s.Cols))
	if err != nil {
		return WeightSource{}, err
	}
	part, err := s.Type.RowBytes(int64(n))
	if err != nil {
		return WeightSource{}, err
	}
	read, head, at := s.ReadRows, s.Type.RowHead(), s.Type.RowHead()+from/e*s.Type.BlockBytes()
	s.Cols = n
	s.ReadRows = func(dst []byte, row, n int) error {
		const most = 1 << 18 // bytes of whole rows at once
		some := min(n, max(1, most/max(int(whole), 1)))
		rows := make([]byte, some*int(whole))
		for ; n > 0; row, n = row+some, n-some {
			some = min(some, n)
			if err := read(rows[:some*int(whole)], row, some); err != nil {
				return err
			}
			for r := range some {
				line := rows[r*int(whole):][:whole]
				copy(dst[:head], line)
				copy(dst[head:part], line[at:])
				dst = dst[part:]
			}
		}
		return nil
	}
	return s, nil
}
