package nn

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// Linear is y = x W^T + b, W with what the adapters make of it.
type Linear struct {
	Weight   *tensor.Param `name:"weight"`   // [out, in]
	Bias     *tensor.Param `name:"bias"`     // [out], or nil
	Adapters []*LoRA       `name:"adapters"` // in the order of their work, for the rows that have them

	// Group adds up the products of several machines that each have some columns of one
	// matrix (backend.WeightSource.ColumnRange). All of them have the same Bias, and the
	// same y in AddTo; these are added once, to the sum. nil is one machine.
	Group tensor.Group
}

// NewLinear returns a layer without numbers.
func NewLinear(in, out int, bias bool) *Linear {
	l := &Linear{Weight: tensor.NewParam(out, in)}
	if bias {
		l.Bias = tensor.NewParam(out)
	}
	return l
}

// Forward maps [R,in] to [R,out].
func (l *Linear) Forward(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	if l.Group != nil {
		return l.summed(c, x)
	}
	return project(c, x, [backend.MaxWeights]*Linear{l})[0]
}

// summed is Forward of a layer whose products are added up over a group.
func (l *Linear) summed(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	part := *l
	part.Bias, part.Group = nil, nil
	y := tensor.GroupSum(c, part.Forward(c, x), l.Group)
	if l.Bias != nil {
		y = tensor.AddTo(c, y, l.Bias.Value())
	}
	return y
}

// AddTo returns y + x W^T + b for y [R,out] and x [R,in]. Without a tape the sum takes the
// memory of y, which must not be used afterwards.
func (l *Linear) AddTo(c *tensor.Context, y, x *tensor.Tensor) *tensor.Tensor {
	if l.Bias != nil || l.Group != nil || l.rescaled() {
		return tensor.AddTo(c, y, l.Forward(c, x))
	}
	y = tensor.MatMulAdd(c, y, x, l.Weight)
	ys := [backend.MaxWeights]*tensor.Tensor{y}
	adapt(c, x, [backend.MaxWeights]*Linear{l}, &ys)
	return ys[0]
}

// shared is the input x of the layers before l. The outputs of those layers are divided
// among the machines of l's group, as the columns of l are.
func (l *Linear) shared(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	if l.Group == nil {
		return x
	}
	return tensor.GroupCopy(c, x, l.Group)
}

// project applies several layers to one input, their products in one dispatch
// and the first factors of their adapters in another.
func project(c *tensor.Context, x *tensor.Tensor, ls [backend.MaxWeights]*Linear) [backend.MaxWeights]*tensor.Tensor {
	var ws [backend.MaxWeights]*tensor.Param
	for i, l := range ls {
		if l != nil {
			ws[i] = l.Weight
		}
	}
	ys := tensor.MatMuls(c, x, ws)
	adapt(c, x, ls, &ys)
	for i, l := range ls {
		if l != nil && l.Bias != nil {
			ys[i] = tensor.AddTo(c, ys[i], l.Bias.Value())
		}
	}
	return ys
}

// Embedding looks up rows of a table.
type Embedding struct {
	Weight *tensor.Param `name:"weight"` // [V, D]
	// Adapters change what is looked up, in the order of their work. A of each is a table
	// [V, r], of which rows are looked up too.
	Adapters []*LoRA `name:"adapters"`
}

// NewEmbedding returns a layer without numbers.
func NewEmbedding(vocab, dim int) *Embedding {
	return &Embedding{Weight: tensor.NewParam(vocab, dim)}
}

// Forward maps ids [R] to [R,D].
func (l *Embedding) Forward(c *tensor.Context, ids *tensor.Tensor) *tensor.Tensor {
	y := tensor.Embedding(c, ids, l.Weight)
	if len(l.Adapters) == 0 {
		return y
	}
	rows := c.Rows()
	for _, a := range l.Adapters {
		share := shareOf(rows.Layout, a.Set)
		if share == noRows {
			continue
		}
		h := tensor.Embedding(c, ids, a.A) // [R, r]
		if share == allRows {
			y = a.add(c, y, h)
			continue
		}
		y = a.addRows(c, y, &rows, func(from, n int) *tensor.Tensor { return tensor.SliceRows(c, h, from, n) })
	}
	return y
}

// RMSNorm divides each row by its root mean square
// (https://arxiv.org/abs/1910.07467).
type RMSNorm struct {
	Weight *tensor.Param `name:"weight"` // [D]
	Eps    float32
}

// NewRMSNorm returns a layer without numbers.
func NewRMSNorm(dim int, eps float32) *RMSNorm {
	return &RMSNorm{Weight: tensor.NewParam(dim), Eps: eps}
}

// Forward keeps the shape [R,D].
func (l *RMSNorm) Forward(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	return tensor.RMSNorm(c, x, l.Weight, l.Eps)
}

// RoPE rotates queries and keys by their position
// (https://arxiv.org/abs/2104.09864); pairs are (i, i+hd/2).
type RoPE struct {
	// Freqs [hd/2] are the angles a position advances by, in radians. They
	// follow from the configuration and are no trained parameter.
	Freqs *tensor.Param
	// Factor multiplies the rotated queries and keys; 0 is 1.
	Factor float32
}

// NewRoPE returns a layer without numbers.
func NewRoPE(headDim int) *RoPE { return &RoPE{Freqs: tensor.NewParam(headDim / 2)} }

// Table returns the rotations of the positions of a layout, nil for the step's, [R,hd].
// All layers of a step share it.
func (l *RoPE) Table(c *tensor.Context, layout *backend.Layout) *tensor.Tensor {
	table := tensor.RoPETable(c, l.Freqs, layout)
	if l.Factor != 0 && l.Factor != 1 {
		table = tensor.Scale(c, table, l.Factor)
	}
	return table
}

// Attention is self-attention with grouped queries
// (https://arxiv.org/abs/2305.13245): key-value head g serves the query heads
// [g*H/G, (g+1)*H/G). The step's layout says what each row sees, and its geometry of keys
// and values how wide a head is. A machine of WO.Group has some of the heads, and the parts
// of the matrices that belong to them.
type Attention struct {
	WQ *Linear `name:"q_proj"` // [H*hd, D]
	WK *Linear `name:"k_proj"` // [G*hd, D]
	WV *Linear `name:"v_proj"` // [G*hd, D]
	WO *Linear `name:"o_proj"` // [D, H*hd]
}

// NewAttention returns a layer without numbers. bias adds biases to q, k and
// v, outBias one to the output.
func NewAttention(dim, heads, kvHeads, headDim int, bias, outBias bool) *Attention {
	return &Attention{
		WQ: NewLinear(dim, heads*headDim, bias),
		WK: NewLinear(dim, kvHeads*headDim, bias),
		WV: NewLinear(dim, kvHeads*headDim, bias),
		WO: NewLinear(heads*headDim, dim, outBias),
	}
}

// Forward keeps the shape [R,D]. rope is RoPE.Table of the same layout, nil for no
// rotation.
func (l *Attention) Forward(c *tensor.Context, x, rope *tensor.Tensor, o tensor.AttentionOptions) *tensor.Tensor {
	return l.WO.Forward(c, l.heads(c, x, rope, o))
}

// AddTo is Forward added to y [R,D], as Linear.AddTo.
func (l *Attention) AddTo(c *tensor.Context, y, x, rope *tensor.Tensor, o tensor.AttentionOptions) *tensor.Tensor {
	return l.WO.AddTo(c, y, l.heads(c, x, rope, o))
}

// heads is what the heads attend to [R,H*hd].
func (l *Attention) heads(c *tensor.Context, x, rope *tensor.Tensor, o tensor.AttentionOptions) *tensor.Tensor {
	x = l.WO.shared(c, x)
	p := project(c, x, [backend.MaxWeights]*Linear{l.WQ, l.WK, l.WV})
	q, k := p[0], p[1] // [R, H*hd], [R, G*hd]
	if rope != nil {
		q, k = tensor.RoPETo(c, q, rope), tensor.RoPETo(c, k, rope)
	}
	return tensor.Attention(c, q, k, p[2], o)
}

// FeedForward is down(silu(gate(x)) * up(x)) (https://arxiv.org/abs/2002.05202). A
// machine of Down.Group has some of the rows of Gate and Up, and their columns of Down.
type FeedForward struct {
	Gate *Linear `name:"gate_proj"` // [F, D]
	Up   *Linear `name:"up_proj"`   // [F, D]
	Down *Linear `name:"down_proj"` // [D, F]
}

// NewFeedForward returns a layer without numbers.
func NewFeedForward(dim, hidden int, bias bool) *FeedForward {
	return &FeedForward{
		Gate: NewLinear(dim, hidden, bias),
		Up:   NewLinear(dim, hidden, bias),
		Down: NewLinear(hidden, dim, bias),
	}
}

// Forward keeps the shape [R,D].
func (l *FeedForward) Forward(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	h := l.gated(c, x)
	y := l.Down.Forward(c, h)
	c.Drop(h)
	return y
}

// AddTo is Forward added to y [R,D], as Linear.AddTo.
func (l *FeedForward) AddTo(c *tensor.Context, y, x *tensor.Tensor) *tensor.Tensor {
	h := l.gated(c, x)
	y = l.Down.AddTo(c, y, h)
	c.Drop(h)
	return y
}

// gated is silu(gate(x)) * up(x) [R,F].
func (l *FeedForward) gated(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	x = l.Down.shared(c, x)
	if l.Gate.plain() && l.Up.plain() {
		return tensor.MatMulSwiGLU(c, x, l.Gate.Weight, l.Up.Weight)
	}
	p := project(c, x, [backend.MaxWeights]*Linear{l.Gate, l.Up})
	return tensor.SwiGLU(c, p[0], p[1])
}
