package tensor

import (
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
)

// AttentionOptions say what attention looks at. The zero value is self-attention of the
// step's rows, in the first layer of its pages where it has some.
type AttentionOptions struct {
	// Layout says what each row sees. nil is the step's. It must not change during the
	// step.
	Layout *backend.Layout
	// KV is the geometry of keys and values. Zero is the step's.
	KV backend.KV
	// Layer is the layer's place in the pages.
	Layer int
	// Scale of the scores; 0 is 1/sqrt(head size).
	Scale float32
}

// complete replaces what was left out by what the step has.
func (o *AttentionOptions) complete(c *Context) {
	o.Layout = c.layoutOr(o.Layout)
	if o.KV == (backend.KV{}) {
		o.KV = c.kv
	}
	if o.Scale == 0 {
		o.Scale = float32(1 / math.Sqrt(float64(o.KV.HeadDim)))
	}
}

// layoutOr is l, or the step's layout where it is nil. The first operation that names a
// layout of its own hands it over.
func (c *Context) layoutOr(l *backend.Layout) *backend.Layout {
	if l == nil || l == c.layout {
		return c.layout
	}
	if !slices.Contains(c.handed, l) {
		c.exec.Layout(l)
		c.handed = append(c.handed, l)
	}
	return l
}

// Attention attends from q [R,H*hd] to the keys that the layout names.
//
// Without pages these are the rows of k and v [S,G*hd], S = Layout.KeyRows: the same rows,
// or those of another source. Where segments have pages, k and v [R,G*hd] are first
// appended to them as KVAppend does; with k and v nil the pages hold all that is seen.
func Attention(c *Context, q, k, v *Tensor, o AttentionOptions) *Tensor {
	o.complete(c)
	pages := o.Layout.Paged()
	if pages && k != nil {
		c.kvAppend(k, v, &o)
	}
	y := c.New(backend.F32, q.Shape())
	var lse *Tensor // for backward
	if c.Recording() && !pages {
		lse = c.New(backend.F32, backend.Dims(q.Rows(), q.Cols()/o.KV.HeadDim))
	}
	a := c.begin()
	a.In[0], a.Out[0] = c.use(q), c.use(y)
	if k != nil {
		a.In[1], a.In[2] = c.use(k), c.use(v)
	}
	a.Layout, a.KV, a.Layer, a.Scale, a.Round = o.Layout, o.KV, o.Layer, o.Scale, c.roundingBack()
	if lse != nil {
		a.Out[1] = c.use(lse)
	}
	c.exec.Run(backend.Attention, a)
	if c.tape != nil {
		c.recordAttention(y, lse, q, k, v, o)
	}
	return y
}

// KVAppend writes keys and values [R,G*hd] to the pages of the layout: those of a source
// that other rows, of this step or of later ones, attend to with k and v nil.
func KVAppend(c *Context, k, v *Tensor, o AttentionOptions) {
	o.complete(c)
	c.kvAppend(k, v, &o)
}

func (c *Context) kvAppend(k, v *Tensor, o *AttentionOptions) {
	a := c.begin()
	a.In[0], a.In[1] = c.use(k), c.use(v)
	a.Layout, a.KV, a.Layer = o.Layout, o.KV, o.Layer
	c.exec.Run(backend.KVAppend, a)
}
