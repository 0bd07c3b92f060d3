package backendtest

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// testCase is one operation with operands, on no backend yet.
type testCase struct {
	name    string
	op      backend.Op
	in      [backend.MaxIn]*operand
	out     [backend.MaxOut]*operand // may be the same as an input: in place
	weights []*matrix
	pages   []*operand               // pages of keys and values: see addPages
	tables  [][]int                  // per segment, indices into pages; nil without pages
	args    backend.Args             // Round, Layout, KV, Layer, Eps, Scale, Axis, AdamW
	loose   bool                     // a value that is not finite may be any such value
	rng     *rand.Rand               // numbers of the operands
	answer  func() ([]wanted, error) // oracle, computed once
}

// newCase starts a case whose numbers depend on its name alone.
func newCase(op backend.Op, format string, a ...any) *testCase {
	c := &testCase{name: fmt.Sprintf(format, a...), op: op}
	h := fnv.New64a()
	h.Write([]byte(op.String() + c.name))
	c.rng = rand.New(rand.NewPCG(h.Sum64(), 1))
	c.answer = sync.OnceValues(c.oracle)
	return c
}

// normal fills with the normal distribution.
func (c *testCase) normal(int) float64 { return c.rng.NormFloat64() }

// host is memory of the test itself.
type host = ref.Host

// bytes is the memory of an operand.
func (o *operand) bytes() host { return o.view.Buf.(host) }

// oracle is the backend that every case is computed on.
var oracle = ref.New()

// operand is a buffer with the window that an operation gets. Everything
// around and between the elements of the window is guard bytes, 0xff: NaN in
// every float type.
type operand struct{ view backend.View } // Buf is a host

// A place says where the elements of an operand lie in its buffer.
type place int

const (
	dense      place = iota // contiguous, 128 bytes into the buffer
	odd                     // contiguous, 3 elements further: unaligned
	gaps                    // rows with a gap between them
	transposed              // the last two axes exchanged
	repeated                // the first axis repeated, stride 0: inputs only
)

const guard = 32 // elements before and after the window

// newOperand makes an operand and fills it in row-major order.
func newOperand(t backend.DType, p place, fill func(i int) float64, dims ...int) *operand {
	v := backend.Contiguous(nil, t, guard, backend.Dims(dims...))
	last := v.Shape.Rank - 1
	switch {
	case p == odd:
		v.Off += 3
	case p == gaps && last > 0:
		for i := range last {
			v.Stride[i] = v.Stride[i] / max(1, dims[last]) * (dims[last] + 5)
		}
	case p == transposed && last > 0:
		s := append([]int(nil), dims...)
		s[last], s[last-1] = s[last-1], s[last]
		v = backend.Contiguous(nil, t, guard, backend.Dims(s...)).Transpose(last-1, last)
	case p == repeated:
		v.Stride[0] = 0
	}
	end := v.Off + 1
	for i := range v.Shape.Rank {
		end += max(0, v.Shape.Dim[i]-1) * v.Stride[i]
	}
	mem := make(host, (end+guard+3)*t.BlockBytes()&^3) // whole 32-bit words
	for i := range mem {
		mem[i] = 0xff
	}
	v.Buf = mem
	x := make([]float64, v.Shape.Elems())
	for i := range x {
		x[i] = fill(i)
	}
	write(v, x)
	return &operand{v}
}

// fresh is an output: its elements are guard bytes too.
func fresh(t backend.DType, p place, dims ...int) *operand {
	o := newOperand(t, p, func(int) float64 { return 0 }, dims...)
	mem := o.bytes()
	for i := range mem {
		mem[i] = 0xff
	}
	return o
}

// read returns the elements of a view in host memory.
func read(v backend.View) []float64 {
	return ref.Load(&backend.Args{In: [backend.MaxIn]backend.View{v}}).In[0]
}

func write(v backend.View, x []float64) {
	values := ref.Values{Args: &backend.Args{Out: [backend.MaxOut]backend.View{v}}}
	values.Out[0] = x
	values.Store()
}

// matrix is a weight: packed from rows in the file's encoding, or where float
// is set a view of memory.
type matrix struct {
	t          backend.DType
	rows, cols int
	raw        []byte
	float      *operand
}

func (m *matrix) rowBytes() int { return len(m.raw) / max(1, m.rows) }

func (m *matrix) pack(b backend.Backend) (backend.Weight, error) {
	return b.Pack(context.Background(), backend.WeightSource{
		Name: "test." + m.t.String(), Type: m.t, Rows: m.rows, Cols: m.cols,
		ReadRows: func(dst []byte, row, n int) error {
			copy(dst, m.raw[row*m.rowBytes():][:n*m.rowBytes()])
			return nil
		},
	})
}

// operands lists the buffers of the case, each once.
func (c *testCase) operands() []*operand {
	var list []*operand
	seen := map[*operand]bool{nil: true}
	add := func(os ...*operand) {
		for _, o := range os {
			if !seen[o] {
				seen[o] = true
				list = append(list, o)
			}
		}
	}
	add(c.in[:]...)
	add(c.out[:]...)
	add(c.pages...)
	for _, w := range c.weights {
		add(w.float)
	}
	return list
}

// placed is a case on a backend.
type placed struct {
	c    *testCase
	args backend.Args
	bufs map[*operand]backend.Buffer
}

// place allocates and uploads the operands and packs the weights of c on b.
func (c *testCase) place(b backend.Backend) (*placed, error) {
	p := &placed{c: c, args: c.args, bufs: map[*operand]backend.Buffer{}}
	for _, o := range c.operands() {
		buf, err := c.placeOperand(b, o)
		if buf != nil {
			p.bufs[o] = buf
		}
		if err != nil {
			p.free()
			return nil, err
		}
	}
	for i := range c.in {
		p.args.In[i] = p.view(c.in[i])
	}
	for i := range c.out {
		p.args.Out[i] = p.view(c.out[i])
	}
	for i, m := range c.weights {
		w, err := p.weight(b, m)
		if err != nil {
			p.free()
			return nil, err
		}
		p.args.W[i] = w
	}
	if c.args.Layout != nil {
		p.args.Layout = p.ownLayout(c)
	}
	return p, nil
}

// placeOperand makes the buffer of an operand.
func (c *testCase) placeOperand(b backend.Backend, o *operand) (backend.Buffer, error) {
	if slices.Contains(c.pages, o) {
		return c.placePage(b, o)
	}
	buf, err := b.Alloc(o.view.Buf.Size())
	if err != nil {
		return nil, err
	}
	return buf, b.Upload(buf, 0, o.bytes())
}

func (p *placed) view(o *operand) backend.View {
	if o == nil {
		return backend.View{}
	}
	v := o.view
	v.Buf = p.bufs[o]
	return v
}

func (p *placed) weight(b backend.Backend, m *matrix) (backend.Weight, error) {
	if m.float != nil {
		return b.Float("test.float", p.view(m.float))
	}
	return m.pack(b)
}

// ownLayout is the case's layout with the pages of p. It is a copy, as a layout serves one
// context at a time.
func (p *placed) ownLayout(c *testCase) *backend.Layout {
	l := *c.args.Layout
	l.Segments = append([]backend.Segment(nil), l.Segments...)
	for i, table := range c.tables {
		for _, n := range table {
			l.Segments[i].Pages = append(l.Segments[i].Pages, p.bufs[c.pages[n]])
		}
	}
	return &l
}

func (p *placed) free() {
	for i := range p.args.Weights() {
		p.args.W[i].Free()
	}
	for _, buf := range p.bufs {
		buf.Free()
	}
}

// download reads the operands back.
func (p *placed) download(b backend.Backend) (map[*operand]host, error) {
	after := map[*operand]host{}
	for o, buf := range p.bufs {
		var err error
		if slices.Contains(p.c.pages, o) {
			after[o], err = p.c.readPage(b, buf)
		} else {
			after[o] = make(host, o.view.Buf.Size())
			err = b.Download(after[o], buf, 0)
		}
		if err != nil {
			return nil, err
		}
	}
	return after, nil
}

// run runs the case on b and returns all memory afterwards.
func (c *testCase) run(b backend.Backend) (after map[*operand]host, err error) {
	if err := b.Supports(c.op); err != nil {
		return nil, err
	}
	p, err := c.place(b)
	if err != nil {
		return nil, err
	}
	defer p.free()
	e, err := b.NewExec()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := within(e, func() { p.run(e) }); err != nil {
		return nil, err
	}
	return p.download(b)
}

// run runs the operation in a step.
func (p *placed) run(e backend.Exec) {
	if p.args.Layout != nil {
		e.Layout(p.args.Layout)
	}
	e.Run(p.c.op, &p.args)
}

// within runs work as a step of e, and returns a panic as an error.
func within(e backend.Exec, work func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return backend.Step(context.Background(), e, func() error {
		work()
		return nil
	})
}

// output runs another operation of the oracle on the operands of c and returns
// its last output; sizes are those of the outputs.
func (c *testCase) output(op backend.Op, sizes ...int) []float64 {
	p, err := c.place(oracle)
	if err != nil {
		panic(err) // the oracle takes every case
	}
	defer p.free()
	x := ref.Load(&p.args)
	for i, n := range sizes {
		x.Out[i] = make([]float64, n)
	}
	x.Eval(op)
	return x.Out[len(sizes)-1]
}
