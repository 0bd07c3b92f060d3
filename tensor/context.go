package tensor

import (
	"context"
	"errors"
	"fmt"

	"github.com/herd-ml/herd/backend"
)

// Options are the settings of a Context. The zero value lets activations be
// rounded where the backend gains speed by it.
type Options struct {
	Precision backend.Precision
}

// Context is where steps run, one after the other. It serves one goroutine at a time.
type Context struct {
	exec   backend.Exec
	opts   Options
	ctx    context.Context // of the step, nil between steps
	layout *backend.Layout
	none   backend.Layout    // of a step that has no layout
	handed []*backend.Layout // to the backend in this step, beside its own
	kv     backend.KV
	rows   Rows   // what SetRows was told
	noise  uint64 // what SetNoise was told
	watch  Watcher
	step   uint64 // counts beginnings and ends of steps, so that old tensors are recognised
	args   backend.Args
	tape   *Tape     // of the step, or nil
	filler []float32 // room of fill
	// slabs hold the tensors of this step and of the one before. Places of the step before
	// are not used again yet, so that a tensor of it that is used too late is recognised.
	slabs [2][][]Tensor
	used  int // of the step's, released ones included
}

// slab is the number of tensors allocated at once.
const slab = 256

// NewContext returns a Context on a backend.
func NewContext(b backend.Backend, o Options) (*Context, error) {
	exec, err := b.NewExec()
	if err != nil {
		return nil, err
	}
	c := &Context{exec: exec, opts: o}
	c.layout = &c.none
	return c, nil
}

// Step waits for the backend's workers and runs f as a step of layout l. However f ends, the
// step ends and the workers are free again; a panic of f then goes on to the caller. Step
// returns f's error, or else the error of ctx if that stopped the step. After an error the
// results must not be used. kv is the geometry of the pages that the layout names; without
// pages only Heads and HeadDim matter. The layout must not change during the step. It may
// be nil if no operation looks at it. A step within a step is refused.
func (c *Context) Step(ctx context.Context, l *backend.Layout, kv backend.KV, f func() error) error {
	if c.ctx != nil {
		return errors.New("tensor: a step within a step of the same context")
	}
	if l == nil {
		l = &c.none
	}
	return backend.Step(ctx, c.exec, func() error {
		c.exec.Layout(l)
		c.handed = c.handed[:0]
		c.step++
		c.used = 0
		c.ctx, c.layout, c.kv = ctx, l, kv
		defer func() {
			c.step++
			c.ctx, c.layout, c.tape = nil, &c.none, nil
			c.SetRows(Rows{})
			c.SetNoise(0)
		}()
		return f()
	})
}

// Backend is what the steps run on.
func (c *Context) Backend() backend.Backend { return c.exec.Backend() }

// Layout is the layout of the step, empty where there is none.
func (c *Context) Layout() *backend.Layout { return c.layout }

// Rows says which rows of a layout the rows of a tensor are: row r is row List[From+r], or
// row From+r where List is nil. The zero value is all rows of the step.
type Rows struct {
	Layout *backend.Layout // nil is the step's; else of rows of another source, as those of an encoder
	List   []int32         // ascending
	From   int
}

// At returns the row of the layout that row r of the tensor is.
func (rows *Rows) At(r int) int {
	if rows.List != nil {
		return int(rows.List[rows.From+r])
	}
	return rows.From + r
}

// Count is how many rows there are from From on.
func (rows *Rows) Count() int {
	if rows.List != nil {
		return len(rows.List) - rows.From
	}
	return rows.Layout.Rows() - rows.From
}

// SetRows says which rows of a layout the layers get from here on, and returns what it said
// before. Layers whose adapters differ by segment ask for it. A step begins with the zero
// value, all rows of the step.
func (c *Context) SetRows(rows Rows) (before Rows) {
	before, c.rows = c.rows, rows
	return before
}

// Rows is what SetRows was told last, with its layout.
func (c *Context) Rows() Rows {
	rows := c.rows
	rows.Layout = c.layoutOr(rows.Layout)
	return rows
}

// SetNoise sets the seed of the random numbers by which layers drop part of their input,
// and returns the seed before. A step begins with seed 0, with which nothing is dropped.
// What a tape computes again uses the seed that it was first computed with.
func (c *Context) SetNoise(seed uint64) (before uint64) {
	before, c.noise = c.noise, seed
	return before
}

// Noise is the seed that SetNoise set last.
func (c *Context) Noise() uint64 { return c.noise }

// A Watcher is called before each product x W^T, with x [R,K], which it may
// [Context.Read], and the matrices, some of which may be absent.
type Watcher func(x *Tensor, w [backend.MaxWeights]*Param)

// Watch sets the watcher of MatMuls, MatMulAdd and MatMulSwiGLU in all steps from here on.
// nil stops watching.
func (c *Context) Watch(f Watcher) { c.watch = f }

// Reserve says, between steps, how many bytes of the arena the largest step will take: the
// arena is made that large at once. It is advice.
func (c *Context) Reserve(bytes int64) { c.exec.Reserve(bytes) }

// Scratch is the most arena memory that any step has used, in bytes.
func (c *Context) Scratch() int64 { return c.exec.Scratch() }

// Close frees the arena.
func (c *Context) Close() { c.exec.Close() }

// New returns a tensor of the step, contents undefined.
func (c *Context) New(t backend.DType, s backend.Shape) *Tensor {
	x := c.tensor()
	if c.tape != nil {
		x.view, x.bytes = c.tape.take(t, s)
	} else {
		x.view = c.exec.Alloc(t, s)
	}
	return x
}

func (c *Context) tensor() *Tensor {
	if slabs := &c.slabs[c.parity()]; c.used == slab*len(*slabs) {
		*slabs = append(*slabs, make([]Tensor, slab))
	}
	x := c.at(c.used)
	c.used++
	*x = Tensor{ctx: c, step: c.step}
	return x
}

// parity alternates between 0 and 1 from step to step.
func (c *Context) parity() uint64 { return (c.step + 1) / 2 % 2 }

// at is tensor i of the step.
func (c *Context) at(i int) *Tensor { return &c.slabs[c.parity()][i/slab][i%slab] }

// IDs returns a tensor of the step that holds I32 ids, one a row.
func (c *Context) IDs(ids []int32) *Tensor {
	x := c.New(backend.I32, backend.Dims(len(ids)))
	c.exec.WriteIDs(x.view, ids)
	return x
}

// Read copies a contiguous F32 tensor to the host.
func (c *Context) Read(dst []float32, x *Tensor) { c.exec.Read(dst, c.use(x)) }

// Write copies host numbers to a contiguous F32 tensor.
func (c *Context) Write(x *Tensor, src []float32) { c.exec.Write(c.use(x), src) }

// Mark remembers how much memory the step has taken, and Release gives back what it took
// since. They bound the memory of a deep model: a layer writes its result into the
// residual stream (AddTo, MatMulAdd), and the rest of what it took is given back.
func (c *Context) Mark() Mark { return Mark{arena: c.exec.Mark(), tensors: c.used} }

// Mark is a point in a step's memory.
type Mark struct {
	arena   int64
	tensors int
}

// Release gives back what was allocated since the mark. With a tape it does
// nothing.
func (c *Context) Release(m Mark) {
	if c.tape != nil {
		return
	}
	c.exec.Release(m.arena)
	for i := m.tensors; i < c.used; i++ {
		c.at(i).step = 0
	}
}

// Stopped reports whether the step's context has ended; Step then returns its error.
func (c *Context) Stopped() bool { return c.ctx.Err() != nil }

// CopyPage copies a page of keys and values of the step's geometry.
func (c *Context) CopyPage(dst, src backend.Buffer) {
	n := backend.Dims(int(c.Backend().PageBytes(c.kv)) / backend.I32.BlockBytes()) // words, of whatever type
	a := c.begin()
	a.In[0] = backend.Contiguous(src, backend.I32, 0, n)
	a.Out[0] = backend.Contiguous(dst, backend.I32, 0, n)
	c.exec.Run(backend.Copy, a)
}

// begin returns the cleared operands of the next operation.
func (c *Context) begin() *backend.Args {
	c.args.Reset()
	return &c.args
}

// use returns the view of a tensor and panics where the step it belongs to is
// over.
func (c *Context) use(x *Tensor) backend.View {
	if !x.param && (x.ctx != c || x.step != c.step || x.dropped) {
		panic(&StaleError{Shape: x.view.Shape})
	}
	return x.view
}

// place returns the tensor that an operation of x and other writes to, where its result
// should take the memory of x. It has new memory in three cases: the memory of x is a
// parameter's, which must not change; backward reads the numbers of x; or x and other
// share memory.
func (c *Context) place(x, other *Tensor) *Tensor {
	if x.param || x.ofParam || x.readBack || overlap(&x.view, &other.view) {
		return c.New(backend.F32, x.Shape())
	}
	if !c.Recording() {
		return x
	}
	y := c.tensor() // another tensor, as its gradient is another
	y.view, y.bytes, x.bytes = c.use(x), x.bytes, 0
	return y
}

// overlap reports whether the stretches of memory from the first to the last element
// of two views of F32 have a part in common.
func overlap(a, b *backend.View) bool {
	end := func(v *backend.View) int {
		n := v.Off + 1
		for i, d := range v.Shape.Dim[:v.Shape.Rank] {
			n += max(d-1, 0) * v.Stride[i]
		}
		return n
	}
	return a.Buf == b.Buf && a.Off < end(b) && b.Off < end(a)
}

// StaleError is the value of the panic when a tensor is used after its step, or after it
// was released. The mistake is always found until the end of the next step. Later the same
// *Tensor may stand for a new tensor.
type StaleError struct{ Shape backend.Shape }

func (e *StaleError) Error() string {
	return fmt.Sprintf("tensor: a tensor %v is used after it was released or its step ended", e.Shape)
}
