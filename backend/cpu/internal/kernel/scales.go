package kernel

// MeasureScales is block.MeasureScales, of x and w as long. Every operation is rounded, so
// that all variants give the same bits.
func (s *Set) MeasureScales(errs *[16]float32, x, w []float32, inverse, shift *[16]float32, most float32) {
	if len(x) == 0 {
		*errs = [16]float32{}
		return
	}
	s.measureScales(errs, x, w[:len(x)], inverse, shift, most)
}
