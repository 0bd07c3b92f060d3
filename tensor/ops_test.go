package tensor_test

import (
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/tensor"
)

func TestMatMul(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, s := range []struct{ r, k, n int }{{1, 1, 1}, {1, 40, 16}, {3, 33, 17}, {20, 64, 50}} {
			x, w := random(s.r*s.k), random(s.n*s.k)
			p := pack(t, b, w, s.n, s.k)
			var want []number
			for i := range s.r {
				for j := range s.n {
					want = append(want, dot(x[i*s.k:(i+1)*s.k], w[j*s.k:(j+1)*s.k]))
				}
			}
			alone(t, b, func(c *tensor.Context) {
				y := tensor.MatMul(c, write(c, x, s.r, s.k), p)
				if y.Shape() != backend.Dims(s.r, s.n) {
					t.Errorf("%v gives shape %v", s, y.Shape())
				}
				compare(t, "MatMul", read(c, y), want)
			})
		}
	})
}

// rounding is the oracle with another table of roundings, and counts the
// products.
type rounding struct {
	backend.Backend
	table    map[backend.DType]backend.Rounding
	products int
}

func (b *rounding) Rounding(t backend.DType) backend.Rounding { return b.table[t] }

func (b *rounding) NewExec() (backend.Exec, error) {
	e, err := b.Backend.NewExec()
	return &roundingExec{e, b}, err
}

type roundingExec struct {
	backend.Exec
	b *rounding
}

func (e *roundingExec) Backend() backend.Backend { return e.b }

func (e *roundingExec) Run(op backend.Op, a *backend.Args) {
	if op == backend.MatMul {
		e.b.products++
	}
	e.Exec.Run(op, a)
}

// rounded is a row as Op RoundI8 leaves it: codes times scales.
func rounded(x []float32, group int) []float32 {
	out := make([]float32, len(x))
	for from := 0; from < len(x); from += group {
		var m float32
		for _, v := range x[from : from+group] {
			m = max(m, float32(math.Abs(float64(v))))
		}
		for i := from; i < from+group; i++ {
			code := math.RoundToEven(float64(x[i] * (127 / m)))
			out[i] = float32(code) * (m / 127)
		}
	}
	return out
}

// TestMatMuls: weights of different types and an absent one, each with its own
// rounding, in as few products as there are roundings.
func TestMatMuls(t *testing.T) {
	const r, k = 3, 64
	for _, c := range []struct {
		name      string
		precision backend.Precision
		table     map[backend.DType]backend.Rounding
		q8, f32   int // groups of the rounding expected; 0 is none
	}{
		{"one rounding", backend.PrecisionAuto, nil, 0, 0},
		{"two roundings", backend.PrecisionAuto, map[backend.DType]backend.Rounding{backend.Q8_0: backend.RoundI8x32}, 32, 0},
		{"a group wider than a row", backend.PrecisionAuto, map[backend.DType]backend.Rounding{backend.Q8_0: backend.RoundI8x256}, 0, 0},
		{"the other type", backend.PrecisionAuto, map[backend.DType]backend.Rounding{backend.F32: backend.RoundI8x32}, 0, 32},
		{"never", backend.PrecisionF32, map[backend.DType]backend.Rounding{backend.Q8_0: backend.RoundI8x32}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &rounding{Backend: ref.New(), table: c.table}
			q, qv := packQ8(t, b, 5, k)
			fv := random(4 * k)
			f := pack(t, b, fv, 4, k)
			x := random(r * k)
			cx := newContext(t, b, tensor.Options{Precision: c.precision})
			product := func(w []float32, n, group int) []number {
				var want []number
				for i := range r {
					row := x[i*k : (i+1)*k]
					if group > 0 {
						row = rounded(row, group)
					}
					for j := range n {
						want = append(want, dot(row, w[j*k:(j+1)*k]))
					}
				}
				return want
			}
			for _, order := range [][backend.MaxWeights]*tensor.Param{{q, f, q}, {f, q, f}, {f, q}, {q}, {nil, f, q}, {q, nil, f}} {
				b.products = 0
				groups := map[int]bool{}
				step(t, cx, nil, backend.KV{}, func() {
					y := tensor.MatMuls(cx, write(cx, x, r, k), order)
					for i, w := range order {
						switch w {
						case nil:
							if y[i] != nil {
								t.Errorf("an absent weight has a result")
							}
						case q:
							groups[c.q8] = true
							compare(t, "the quantised weight", read(cx, y[i]), product(qv, 5, c.q8))
						case f:
							groups[c.f32] = true
							compare(t, "the float weight", read(cx, y[i]), product(fv, 4, c.f32))
						}
					}
				})
				if b.products != len(groups) {
					t.Errorf("%d products for %d roundings", b.products, len(groups))
				}
			}
		})
	}
}

func TestEmbedding(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const v, d = 21, 32
		plain := random(v * d)
		q, quantised := packQ8(t, b, v, d)
		for _, w := range []struct {
			p      *tensor.Param
			values []float32
		}{{pack(t, b, plain, v, d), plain}, {q, quantised}} {
			ids := []int32{20, 0, 3, 3, 17}
			var want []number
			for _, id := range ids {
				for _, x := range w.values[int(id)*d : (int(id)+1)*d] {
					want = append(want, exact(x))
				}
			}
			alone(t, b, func(c *tensor.Context) {
				compare(t, "Embedding", read(c, tensor.Embedding(c, c.IDs(ids), w.p)), want)
			})
		}
	})
}

func TestRMSNorm(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, s := range []struct {
			r, d int
			eps  float32
		}{{1, 1, 1e-5}, {3, 19, 1e-5}, {2, 64, 0.5}} {
			x, w := random(s.r*s.d), random(s.d)
			var want []number
			for i := range s.r {
				row, square := x[i*s.d:(i+1)*s.d], 0.0
				for _, v := range row {
					square += float64(v) * float64(v)
				}
				root := math.Sqrt(square/float64(s.d) + float64(s.eps))
				for j, v := range row {
					want = append(want, relative(float64(v)*float64(w[j])/root, s.d+8))
				}
			}
			alone(t, b, func(c *tensor.Context) {
				compare(t, "RMSNorm", read(c, tensor.RMSNorm(c, write(c, x, s.r, s.d), vector(t, b, w, 1), s.eps)), want)
			})
		}
	})
}

// TestRoPE checks table and rotation, at positions that do not follow rows.
func TestRoPE(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const heads, hd = 3, 8
		pos := []int32{0, 7, 7, 100000}
		freqs := []float32{1, 0.1, 0.01, 0.001}
		x := random(len(pos) * heads * hd)
		var table, want []number
		for r, p := range pos {
			cos, sin := make([]float64, hd/2), make([]float64, hd/2)
			for i, f := range freqs {
				sin[i], cos[i] = math.Sincos(float64(float32(p) * f))
			}
			for _, v := range append(cos, sin...) {
				table = append(table, number{v, 8 * u})
			}
			for h := range heads {
				row := x[(r*heads+h)*hd:][:hd]
				y := make([]number, hd)
				for i := range hd / 2 {
					a, b := float64(row[i]), float64(row[i+hd/2])
					bound := 12 * u * (math.Abs(a) + math.Abs(b))
					y[i] = number{a*cos[i] - b*sin[i], bound}
					y[i+hd/2] = number{b*cos[i] + a*sin[i], bound}
				}
				want = append(want, y...)
			}
		}
		layout := &backend.Layout{Pos: pos, Segments: []backend.Segment{{Rows: len(pos), Spans: []backend.Span{{Len: len(pos)}}}}}
		c := newContext(t, b, tensor.Options{})
		step(t, c, layout, backend.KV{}, func() {
			angles := tensor.RoPETable(c, vector(t, b, freqs, 1), nil)
			compare(t, "RoPETable", read(c, angles), table)
			compare(t, "RoPE", read(c, tensor.RoPE(c, write(c, x, len(pos), heads*hd), angles)), want)
		})
	})
}

func TestSwiGLU(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const r, f = 3, 37
		gate, up := random(r*f), random(r*f)
		var want []number
		for i, g := range gate {
			want = append(want, relative(float64(g)/(1+math.Exp(-float64(g)))*float64(up[i]), 16))
		}
		alone(t, b, func(c *tensor.Context) {
			compare(t, "SwiGLU", read(c, tensor.SwiGLU(c, write(c, gate, r, f), write(c, up, r, f))), want)
		})
	})
}

// TestAdd covers equal shapes and a vector for every row, also one whose
// numbers are not neighbours.
func TestAdd(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const r, d = 3, 19
		x, y, bias := random(r*d), random(r*d), random(d)
		var same, rows []number
		for i := range x {
			same = append(same, exact(x[i]+y[i]))
			rows = append(rows, exact(x[i]+bias[i%d]))
		}
		alone(t, b, func(c *tensor.Context) {
			tx := write(c, x, r, d)
			compare(t, "Add", read(c, tensor.Add(c, tx, write(c, y, r, d))), same)
			for _, stride := range []int{1, 3} {
				compare(t, "Add of a vector", read(c, tensor.Add(c, tx, vector(t, b, bias, stride).Value())), rows)
			}
		})
	})
}

// TestRowsOfMatrix: Gather copies rows, SliceRows is a window of the memory.
func TestRowsOfMatrix(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const r, d = 6, 5
		x := random(r * d)
		at := func(rows ...int) []number {
			var want []number
			for _, i := range rows {
				for _, v := range x[i*d : (i+1)*d] {
					want = append(want, exact(v))
				}
			}
			return want
		}
		alone(t, b, func(c *tensor.Context) {
			tx := write(c, x, r, d)
			compare(t, "Gather", read(c, tensor.Gather(c, tx, []int32{5, 0, 0, 3})), at(5, 0, 0, 3))
			window := tensor.SliceRows(c, tx, 2, 3)
			if window.Rows() != 3 || window.Cols() != d {
				t.Errorf("SliceRows gives %v", window.Shape())
			}
			compare(t, "SliceRows", read(c, window), at(2, 3, 4))
			compare(t, "Gather of a window", read(c, tensor.Gather(c, window, []int32{2, 0})), at(4, 2))
			copy(x[2*d:], random(3*d))
			c.Write(window, x[2*d:5*d])
			compare(t, "the matrix behind a window", read(c, tx), at(0, 1, 2, 3, 4, 5))
		})
	})
}

// TestFused: fused operations give the bits of one after the other, whatever the
// weights' inputs are rounded to.
func TestFused(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		if b.Describe().Device == "ref" {
			t.Skip("sums in float64")
		}
		const k, n = 64, 37
		types := []backend.DType{backend.F32, backend.BF16, backend.Q8_0}
		for i, gateType := range types {
			for _, upType := range types {
				r := []int{3, 33, 1}[i]
				gate, up := packAny(t, b, gateType, n, k), packAny(t, b, upType, n, k)
				x, y := random(r*k), random(r*n)
				alone(t, b, func(c *tensor.Context) {
					p := tensor.MatMuls(c, write(c, x, r, k), [backend.MaxWeights]*tensor.Param{gate, up})
					want := read(c, tensor.SwiGLU(c, p[0], p[1]))
					if got := read(c, tensor.MatMulSwiGLU(c, write(c, x, r, k), gate, up)); !slices.Equal(got, want) {
						t.Errorf("MatMulSwiGLU of %v and %v differs", gateType, upType)
					}
					want = read(c, tensor.Add(c, write(c, y, r, n), p[0]))
					if got := read(c, tensor.MatMulAdd(c, write(c, y, r, n), write(c, x, r, k), gate)); !slices.Equal(got, want) {
						t.Errorf("MatMulAdd of %v differs", gateType)
					}
				})
			}
		}
	})
}
