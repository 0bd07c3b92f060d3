package kernel

// SumSquares is the sum of the squares of x in float64, where a square is exact. It
// keeps sums of every sixteenth element.
func (s *Set) SumSquares(x []float32) float64 {
	var t [lanes]float64
	n := len(x) &^ (lanes - 1)
	if s.vector && n > 0 {
		sumSquaresAVX2(x[:n], &t[0])
	} else {
		for i := 0; i < n; i += lanes {
			for j, v := range (*[lanes]float32)(x[i:]) {
				t[j] += float64(float64(v) * float64(v))
			}
		}
	}
	for i, v := range x[n:] {
		t[i] += float64(float64(v) * float64(v))
	}
	return total(&t)
}

// Scaled is y = x * scale * w, all of the length of y.
func (s *Set) Scaled(y, x, w []float32, scale float32) {
	x, w = x[:len(y)], w[:len(y)]
	n := s.whole(len(y), half)
	if n > 0 {
		scaledAVX2(y[:n], x, w, scale)
	}
	for i := n; i < len(y); i++ {
		y[i] = x[i] * scale * w[i]
	}
}

// Rotate turns the pairs (x[i], x[n+i]), n = len(cos), by an angle each: y[i] = x[i]
// cos[i] - x[n+i] sin[i], y[n+i] = x[n+i] cos[i] + x[i] sin[i], products rounded. x, y
// [2n], sin [n]; y may be x.
func (s *Set) Rotate(y, x, cos, sin []float32) { s.rotate(y, x, cos, sin, rotateAVX2, 1) }

// RotateBack is Rotate by the opposite angles.
func (s *Set) RotateBack(y, x, cos, sin []float32) { s.rotate(y, x, cos, sin, rotateBackAVX2, -1) }

func (s *Set) rotate(y, x, cos, sin []float32, assembly func(cos, sin, y, x []float32), sign float32) {
	half := len(cos)
	sin, x, y = sin[:half], x[:2*half], y[:2*half]
	if s.vector && half > 0 && half%8 == 0 {
		assembly(cos, sin, y, x)
		return
	}
	xi, xj, yi, yj := x[:half], x[half:], y[:half], y[half:]
	for i, c := range cos {
		u, v, s := xi[i], xj[i], sign*sin[i]
		yi[i], yj[i] = float32(u*c)-float32(v*s), float32(v*c)+float32(u*s)
	}
}

// NormSums is the sum of the squares of x and that of x * float32(w*dy), in float64,
// as SumSquares adds them. w and dy are of the length of x.
func (s *Set) NormSums(x, w, dy []float32) (squares, dot float64) {
	w, dy = w[:len(x)], dy[:len(x)]
	var t [2][lanes]float64
	n := s.whole(len(x), lanes)
	if n > 0 {
		normSumsAVX2(x[:n], w, dy, &t[0][0])
	}
	for i := n; i < len(x); i++ {
		v := float64(x[i])
		t[0][i%lanes] += float64(v * v)
		t[1][i%lanes] += float64(v * float64(w[i]*dy[i]))
	}
	return total(&t[0]), total(&t[1])
}

// NormBackward is dx = w*dy*s - x*c and dw += dy*x*s, all of the length of x.
func (s *Set) NormBackward(dx, dw, x, w, dy []float32, scale, c float32) {
	dx, dw, w, dy = dx[:len(x)], dw[:len(x)], w[:len(x)], dy[:len(x)]
	n := s.whole(len(x), half)
	if n > 0 {
		normBackwardAVX2(dx, dw, x[:n], w, dy, scale, c)
	}
	for i := n; i < len(x); i++ {
		dx[i] = float32(float32(w[i]*dy[i])*scale) - float32(x[i]*c)
		dw[i] += float32(float32(dy[i]*x[i]) * scale)
	}
}
