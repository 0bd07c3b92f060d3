package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
)

// gemm is the mode: products of two square matrices.
func (h *harness) gemm(ctx context.Context) error {
	types := []backend.DType{backend.BF16, backend.F32}
	if len(h.args) > 0 {
		types = nil
	}
	for _, a := range h.args {
		t, err := backend.ParseDType(a)
		if err != nil || t != backend.BF16 && t != backend.F32 {
			return fmt.Errorf("gemm: %q is neither bf16 nor f32", a)
		}
		types = append(types, t)
	}
	p, err := h.peer(ctx, "PyTorch", "torchgemm.py", fmt.Sprint(h.run.Workers))
	if err != nil {
		return err
	}
	defer p.close()
	for _, t := range types {
		if err := h.gemmOf(ctx, t, p); err != nil {
			return fmt.Errorf("%v: %w", t, err)
		}
	}
	return nil
}

func (h *harness) gemmOf(ctx context.Context, t backend.DType, p *peer) error {
	ours, err := newProduct(ctx, h.b, t, h.size, h.repeat)
	if err != nil {
		return err
	}
	defer ours.close()
	name := map[backend.DType]string{backend.BF16: "bf16", backend.F32: "float32"}[t]
	request := struct {
		Type    string  `json:"type"`
		N       int     `json:"n"`
		Seconds float64 `json:"seconds"`
	}{name, h.size, h.repeat.Seconds()}
	for _, warm := range []side{ours.measure, p.side(request)} {
		if warm == nil {
			continue
		}
		if _, err := warm(ctx, 0); err != nil {
			return err
		}
	}
	if err := ours.check(); err != nil {
		return err
	}
	peak, unit := h.peak(t)
	o, err := comparison{ours: ours.measure, peer: p.side(request), beside: h.beside(peak), pairs: h.pairs, ops: 1e12}.compare(ctx)
	if err != nil {
		return err
	}
	r := result{Kind: "gemm", What: fmt.Sprintf("%s %d", name, h.size), Peer: p.label(), Unit: "TFLOP/s"}
	r.fill(o, unit+" peak")
	return h.add(r)
}

// product is our side: y [n,n] = x [n,n] W^T, as a layer multiplies. The weight is
// packed before, the input is float32 and rounded as the backend does it for such
// a weight, within the time measured.
type product struct {
	n      int
	repeat time.Duration // in one measurement
	values [2][]float32  // of x and W
	exec   backend.Exec
	weight backend.Weight
	bufs   []backend.Buffer
	args   backend.Args
}

func newProduct(ctx context.Context, b *cpu.Backend, t backend.DType, n int, repeat time.Duration) (p *product, err error) {
	p = &product{n: n, repeat: repeat}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range p.values {
		p.values[i] = make([]float32, n*n)
		for j := range p.values[i] {
			p.values[i][j] = float32(rng.IntN(255)-127) / 128 // bf16 has the bits for it
		}
	}
	if p.weight, err = b.Pack(ctx, backend.WeightSource{Name: "W", Type: t, Rows: n, Cols: n, ReadRows: p.rows(t)}); err != nil {
		return p, err
	}
	if p.exec, err = b.NewExec(); err != nil {
		return p, err
	}
	p.args.W[0], p.args.Round = p.weight, b.Rounding(t)
	for _, v := range []*backend.View{&p.args.In[0], &p.args.Out[0]} {
		buf, err := b.Alloc(int64(n) * int64(n) * 4)
		if err != nil {
			return p, err
		}
		p.bufs = append(p.bufs, buf)
		*v = backend.Contiguous(buf, backend.F32, 0, backend.Dims(n, n))
	}
	err = backend.Step(ctx, p.exec, func() error {
		p.exec.Write(p.args.In[0], p.values[0])
		return nil
	})
	return p, err
}

// rows encodes rows of W.
func (p *product) rows(t backend.DType) func(dst []byte, row, n int) error {
	return func(dst []byte, row, n int) error {
		for i, v := range p.values[1][row*p.n : (row+n)*p.n] {
			if t == backend.BF16 {
				binary.LittleEndian.PutUint16(dst[2*i:], uint16(math.Float32bits(v)>>16))
			} else {
				binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
			}
		}
		return nil
	}
}

// measure returns TFLOP/s.
func (p *product) measure(ctx context.Context, _ int) (float64, error) {
	start, n := time.Now(), 0
	for time.Since(start) < p.repeat {
		err := backend.Step(ctx, p.exec, func() error {
			p.exec.Run(backend.MatMul, &p.args)
			return nil
		})
		if err != nil {
			return 0, err
		}
		n++
	}
	return 2 * math.Pow(float64(p.n), 3) * float64(n) / time.Since(start).Seconds() / 1e12, nil
}

// check compares some results with sums in float64. All values are multiples of
// 2^-7 below 1, so the only error is that of adding n products in float32, each
// addition of at most 2^-24 of a sum that stays below n.
func (p *product) check() error {
	got := make([]float32, p.n*p.n)
	err := backend.Step(context.Background(), p.exec, func() error {
		p.exec.Read(got, p.args.Out[0])
		return nil
	})
	if err != nil {
		return err
	}
	for i := 0; i < len(got); i += max(1, len(got)/101) {
		r, c, want := i/p.n, i%p.n, 0.0
		for k := range p.n {
			want += float64(p.values[0][r*p.n+k]) * float64(p.values[1][c*p.n+k])
		}
		if diff := math.Abs(float64(got[i]) - want); !(diff <= float64(p.n)*float64(p.n)*0x1p-24) {
			return fmt.Errorf("element %d,%d is %v, want %v", r, c, got[i], want)
		}
	}
	return nil
}

func (p *product) close() {
	if p.exec != nil {
		p.exec.Close()
	}
	if p.weight != nil {
		p.weight.Free()
	}
	for _, b := range p.bufs {
		b.Free()
	}
}
