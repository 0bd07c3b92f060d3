package kernel

// AddSquares adds the squares of x to t, in float64, where a square is exact.
func (s *Set) AddSquares(t *Sums, x []float32) {
	if len(x) > 0 {
		s.addSquares(t, x)
	}
}

func addSquaresGeneric(t *Sums, x []float32) {
	n := len(x) &^ (lanes - 1)
	for i := 0; i < n; i += lanes {
		for j, v := range (*[lanes]float32)(x[i:]) {
			t[j] += float64(float64(v) * float64(v))
		}
	}
	for i, v := range x[n:] {
		t[i] += float64(float64(v) * float64(v))
	}
}

// Scaled is y = x * scale * w, all of the length of y.
func (s *Set) Scaled(y, x, w []float32, scale float32) {
	if n := len(y); n > 0 {
		s.scaled(y, x[:n], w[:n], scale)
	}
}

func scaledGeneric(y, x, w []float32, scale float32) {
	for i := range y {
		y[i] = x[i] * scale * w[i]
	}
}

// Rotate turns the pairs (x[i], x[n+i]), n = len(cos), by an angle each: y[i] = x[i]
// cos[i] - x[n+i] sin[i], y[n+i] = x[n+i] cos[i] + x[i] sin[i], products rounded. x, y
// [2n], sin [n]; y may be x.
func (s *Set) Rotate(y, x, cos, sin []float32) {
	if n := len(cos); n > 0 {
		s.rotate(y[:2*n], x[:2*n], cos, sin[:n])
	}
}

// RotateBack is Rotate by the opposite angles.
func (s *Set) RotateBack(y, x, cos, sin []float32) {
	if n := len(cos); n > 0 {
		s.rotateBack(y[:2*n], x[:2*n], cos, sin[:n])
	}
}

func rotateGeneric(y, x, cos, sin []float32)     { turn(y, x, cos, sin, 1) }
func rotateBackGeneric(y, x, cos, sin []float32) { turn(y, x, cos, sin, -1) }

func turn(y, x, cos, sin []float32, sign float32) {
	n := len(cos)
	xi, xj, yi, yj := x[:n], x[n:], y[:n], y[n:]
	for i, c := range cos {
		u, v, s := xi[i], xj[i], sign*sin[i]
		yi[i], yj[i] = float32(u*c)-float32(v*s), float32(v*c)+float32(u*s)
	}
}

// AddNormSums adds the squares of x to t[0] and x * float32(w*dy) to t[1], in float64. w
// and dy are of the length of x.
func (s *Set) AddNormSums(t *[2]Sums, x, w, dy []float32) {
	if n := len(x); n > 0 {
		s.addNormSums(t, x, w[:n], dy[:n])
	}
}

func addNormSumsGeneric(t *[2]Sums, x, w, dy []float32) {
	for i := range x {
		v := float64(x[i])
		t[0][i%lanes] += float64(v * v)
		t[1][i%lanes] += float64(v * float64(w[i]*dy[i]))
	}
}

// NormBackward is dx = w*dy*s - x*c and dw += dy*x*s, all of the length of x.
func (s *Set) NormBackward(dx, dw, x, w, dy []float32, scale, c float32) {
	if n := len(x); n > 0 {
		s.normBackward(dx[:n], dw[:n], x, w[:n], dy[:n], scale, c)
	}
}

func normBackwardGeneric(dx, dw, x, w, dy []float32, scale, c float32) {
	for i := range x {
		dx[i] = float32(float32(w[i]*dy[i])*scale) - float32(x[i]*c)
		dw[i] += float32(float32(dy[i]*x[i]) * scale)
	}
}
