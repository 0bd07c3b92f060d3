package nn

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// CrossAttention lets rows attend to those of a source: a text to a picture. Its norms are
// of the numbers of one head (https://arxiv.org/abs/2407.21783, section 7.1, and the
// released vision models).
type CrossAttention struct {
	WQ    *Linear  `name:"q_proj"` // [H*hd, D]
	WK    *Linear  `name:"k_proj"` // [G*hd, S]
	WV    *Linear  `name:"v_proj"` // [G*hd, S]
	WO    *Linear  `name:"o_proj"` // [D, H*hd]
	QNorm *RMSNorm `name:"q_norm"` // [hd], or nil
	KNorm *RMSNorm `name:"k_norm"` // [hd], or nil
}

// NewCrossAttention returns a layer without biases, norms and numbers for rows of dim
// numbers that look at a source of rows of sourceDim.
func NewCrossAttention(dim, sourceDim, heads, kvHeads, headDim int) *CrossAttention {
	return &CrossAttention{
		WQ: NewLinear(dim, heads*headDim, false),
		WK: NewLinear(sourceDim, kvHeads*headDim, false),
		WV: NewLinear(sourceDim, kvHeads*headDim, false),
		WO: NewLinear(heads*headDim, dim, false),
	}
}

// Keys returns the keys and values, both [S,G*hd], of a source [S,sourceDim]. They are
// operands of Forward, or go to pages by tensor.KVAppend. layout is the layout of the
// source's rows, which says what adapters they have; nil is the step's.
func (l *CrossAttention) Keys(c *tensor.Context, source *tensor.Tensor, layout *backend.Layout) (k, v *tensor.Tensor) {
	defer c.SetRows(c.SetRows(tensor.Rows{Layout: layout}))
	p := project(c, source, [backend.MaxWeights]*Linear{l.WK, l.WV})
	return eachHead(c, p[0], l.KNorm), p[1]
}

// Forward keeps the shape [R,D] of x. k and v are what Keys returned, of as many rows as
// the layout has keys; nil where its pages hold them.
func (l *CrossAttention) Forward(c *tensor.Context, x, k, v *tensor.Tensor, o tensor.AttentionOptions) *tensor.Tensor {
	q := eachHead(c, l.WQ.Forward(c, x), l.QNorm)
	return l.WO.Forward(c, tensor.Attention(c, q, k, v, o))
}

// eachHead normalises the heads of x [R,H*hd]; a norm that is nil does nothing.
func eachHead(c *tensor.Context, x *tensor.Tensor, norm *RMSNorm) *tensor.Tensor {
	if norm == nil {
		return x
	}
	shape := x.Shape()
	heads := backend.Dims(shape.Elems()/norm.Weight.Shape.Dim[0], norm.Weight.Shape.Dim[0])
	return tensor.Reshape(c, norm.Forward(c, tensor.Reshape(c, x, heads)), shape)
}
