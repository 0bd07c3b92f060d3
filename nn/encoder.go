package nn

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// LayerNorm takes the mean from each row and divides by the standard deviation
// (https://arxiv.org/abs/1607.06450).
type LayerNorm struct {
	Weight *tensor.Param `name:"weight"` // [D]
	Bias   *tensor.Param `name:"bias"`   // [D]
	Eps    float32
}

// NewLayerNorm returns a layer without numbers.
func NewLayerNorm(dim int, eps float32) *LayerNorm {
	return &LayerNorm{Weight: tensor.NewParam(dim), Bias: tensor.NewParam(dim), Eps: eps}
}

// Forward keeps the shape [R,D].
func (l *LayerNorm) Forward(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	return tensor.LayerNorm(c, x, l.Weight, l.Bias, l.Eps)
}

// MLP is fc2(gelu(fc1(x))), the feed-forward layer of encoders
// (https://arxiv.org/abs/2010.11929, section 3.1).
type MLP struct {
	FC1 *Linear `name:"fc1"` // [F, D]
	FC2 *Linear `name:"fc2"` // [D, F]
}

// NewMLP returns a layer without numbers.
func NewMLP(dim, hidden int, bias bool) *MLP {
	return &MLP{FC1: NewLinear(dim, hidden, bias), FC2: NewLinear(hidden, dim, bias)}
}

// Forward keeps the shape [R,D].
func (l *MLP) Forward(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	return l.FC2.Forward(c, tensor.GELU(c, l.FC1.Forward(c, x)))
}

// Conv is a convolution: a linear map of what a window sees. Rows are the moments of
// sequences or the pixels of pictures, a segment each.
type Conv struct {
	Weight *tensor.Param `name:"weight"` // [out, taps*in]: all inputs of the first tap, then of the next
	Bias   *tensor.Param `name:"bias"`   // [out], or nil
	Window backend.Window
}

// NewConv returns a layer without numbers. Files whose weight is [out, in, down, across]
// have the taps last: a loader exchanges them.
func NewConv(in, out int, w backend.Window, bias bool) *Conv {
	l := &Conv{Weight: tensor.NewParam(out, w.Taps()*in), Window: w}
	if bias {
		l.Bias = tensor.NewParam(out)
	}
	return l
}

// Forward maps [R,in] to [S,out], S what Window.Outputs says of the layout, nil for the
// step's.
func (l *Conv) Forward(c *tensor.Context, x *tensor.Tensor, layout *backend.Layout) *tensor.Tensor {
	y := tensor.MatMul(c, tensor.Unfold(c, x, l.Window, layout), l.Weight)
	if l.Bias != nil {
		y = tensor.AddTo(c, y, l.Bias.Value())
	}
	return y
}

// DepthwiseConv is a convolution of each channel by itself.
type DepthwiseConv struct {
	Weight *tensor.Param `name:"weight"` // [D, 1, taps], as files have it
	Bias   *tensor.Param `name:"bias"`   // [D], or nil
	Window backend.Window
}

// NewDepthwiseConv returns a layer without numbers.
func NewDepthwiseConv(dim int, w backend.Window, bias bool) *DepthwiseConv {
	l := &DepthwiseConv{Weight: tensor.NewParam(dim, 1, w.Taps()), Window: w}
	if bias {
		l.Bias = tensor.NewParam(dim)
	}
	return l
}

// Forward maps [R,D] to [S,D], S what Window.Outputs says of the layout, nil for the
// step's.
func (l *DepthwiseConv) Forward(c *tensor.Context, x *tensor.Tensor, layout *backend.Layout) *tensor.Tensor {
	taps, d := l.Window.Taps(), x.Cols()
	h := tensor.Unfold(c, x, l.Window, layout) // [S, taps*D]
	rows := h.Rows()
	w := tensor.Transpose(c, l.Weight.Value(), 0, 2) // [taps, 1, D]
	h = tensor.Mul(c, tensor.Reshape(c, h, backend.Dims(rows, taps, d)), tensor.Reshape(c, w, backend.Dims(taps, d)))
	y := tensor.Reshape(c, tensor.Sum(c, h, 1), backend.Dims(rows, d))
	if l.Bias != nil {
		y = tensor.AddTo(c, y, l.Bias.Value())
	}
	return y
}
