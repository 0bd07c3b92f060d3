package cpu

// decoded multiplies with a panel that is decoded tile by tile, once for all
// rows.
func (m *matmulTask) decoded(w *worker, out []float32, stride int, weight *packed, i int) {
	n := min(m.tileCols(), 2*tileLen) // whole blocks, some microseconds each
	tile, tmp := slice[float32](&w.scratch, n*panel), slice[float32](&w.scratch, n*panel)
	for col := 0; col < m.k; col += n {
		cols := min(n, m.k-col)
		weight.tile(tile, tmp, i, col, cols)
		if !multiply(w, w.kernels.F32, 1, out, stride, &m.x, tile, panel, 0, 1, col, cols, col > 0) {
			return
		}
	}
}

// tile decodes columns [col, col+cols) of a panel into dst [cols, 16]. tmp is
// as large.
func (w *packed) tile(dst, tmp []float32, i, col, cols int) {
	for r := range panel {
		w.rowTile(tmp[r*cols:][:cols], i*panel+r, col)
	}
	transpose(dst, tmp, cols, cols)
}

// transpose writes the 16 rows of n that are stride apart in src as dst [n, 16].
func transpose[T number](dst, src []T, n, stride int) {
	r0, r1, r2, r3 := row(src, 0, stride, n), row(src, 1, stride, n), row(src, 2, stride, n), row(src, 3, stride, n)
	r4, r5, r6, r7 := row(src, 4, stride, n), row(src, 5, stride, n), row(src, 6, stride, n), row(src, 7, stride, n)
	for k := range r0 {
		y := (*[8]T)(dst[k*panel:])
		y[0], y[1], y[2], y[3] = r0[k], r1[k], r2[k], r3[k]
		y[4], y[5], y[6], y[7] = r4[k], r5[k], r6[k], r7[k]
	}
	r0, r1, r2, r3 = row(src, 8, stride, n), row(src, 9, stride, n), row(src, 10, stride, n), row(src, 11, stride, n)
	r4, r5, r6, r7 = row(src, 12, stride, n), row(src, 13, stride, n), row(src, 14, stride, n), row(src, 15, stride, n)
	for k := range r0 {
		y := (*[8]T)(dst[k*panel+8:])
		y[0], y[1], y[2], y[3] = r0[k], r1[k], r2[k], r3[k]
		y[4], y[5], y[6], y[7] = r4[k], r5[k], r6[k], r7[k]
	}
}
