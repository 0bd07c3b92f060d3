package backend

// Op is an operation of the one list that every backend implements. Letters in
// the formulas: R rows of the step, D width, K inputs and N outputs of a
// weight, H query heads, G key-value heads, hd head size, F feed-forward width,
// V vocabulary. Views are F32 unless said otherwise; fused operations want
// rows whose elements are contiguous; SwiGLU and the general ones, from Add on,
// take any strides. No two elements of an output may share memory.
//
// Out[0] may be the same view as In[0] in RMSNorm, LayerNorm, RoPE, RoPEBackward, SwiGLU,
// SwiGLUBackward, Softmax, SoftmaxBackward and the element-wise operations (Add
// to GELUBackward), and as In[1] in MatMulAdd. Otherwise outputs overlap neither inputs
// nor each other.
//
// Gradients of activations are overwritten; gradients of weights (dW, dw) are
// added to. An absent output of a backward operation is not computed.
type Op uint8

// The operations. In, Out and W are the operands in Args.
const (
	NoOp Op = iota

	// MatMul: Out[i][r,n] = sum_k round(In[0])[r,k] * W[i][n,k], for one input
	// and up to MaxWeights weights. In[0] [R,K], W[i] [N_i,K], Out[i] [R,N_i].
	// Round says how the input is rounded, and the weight where it is
	// RoundBothBF16. Each sum runs over k in ascending order, whatever R is.
	MatMul
	// MatMulBackward: Out[0] dx[r,k] = sum_i sum_n dy_i[r,n] W[i][n,k],
	// Out[1+i] dW_i[n,k] += sum_r dy_i[r,n] x[r,k].
	// In[0] x [R,K], In[1+i] dy_i [R,N_i]. Round is RoundNone, or RoundBothBF16:
	// x, dy and W are rounded to bfloat16 before each product.
	MatMulBackward
	// MatMulAdd adds one product to In[1] [R,N], and MatMulSwiGLU is SwiGLU of two:
	// Out[0] = In[1] + y_0 and Out[0] = silu(y_0) * y_1, y_i what MatMul gives for
	// W[i]. Out [R,N]. Where products are F32 the bits are those of one operation
	// after the other.
	MatMulAdd
	MatMulSwiGLU

	// RMSNorm: Out[0][r,d] = x[r,d] * w[d] / sqrt(mean_d x[r,d]^2 + Eps).
	// In[0] x [R,D], In[1] w [D] (https://arxiv.org/abs/1910.07467, eq. 4).
	RMSNorm
	// RMSNormBackward: In x, w, dy. Out[0] dx [R,D], Out[1] dw [D]. With
	// s = 1/sqrt(mean x^2 + Eps): dw += sum_r dy x s, and
	// dx = s (w dy - x s^2 mean_d(w dy x)).
	RMSNormBackward
	// LayerNorm: Out[0][r,d] = h[r,d] w[d] + b[d], h = s (x - mean_d x), s =
	// 1/sqrt(mean_d (x - mean_d x)^2 + Eps). In[0] x [R,D], In[1] w, In[2] b [D]
	// (https://arxiv.org/abs/1607.06450, eq. 3 and 4).
	LayerNorm
	// LayerNormBackward: In x, w, dy. Out[0] dx [R,D], Out[1] dw, Out[2] db [D]. dw +=
	// sum_r dy h, db += sum_r dy, dx = s (w dy - mean_d(w dy) - h mean_d(w dy h)).
	LayerNormBackward

	// RoPETable: Out[0] [R,hd] holds, for row r, cos(Pos[r] f_i) at i and
	// sin(Pos[r] f_i) at hd/2+i. In[0] [hd/2] are the frequencies f; the
	// product is rounded to F32 first, as the reference models do. A constant:
	// it has no backward.
	RoPETable
	// RoPE rotates pairs (i, i+hd/2) of every head by the angles of the table:
	// y_i = x_i cos - x_j sin, y_j = x_j cos + x_i sin, j = i+hd/2.
	// In[0] x [R,H*hd], In[1] table [R,hd], Out[0] [R,H*hd]
	// (https://arxiv.org/abs/2104.09864, section 3.4.2).
	RoPE
	// RoPEBackward rotates back: In[0] dy, In[1] table, Out[0] dx.
	RoPEBackward

	// KVAppend writes keys In[0] and values In[1] [R,G*hd] of layer Layer into
	// the pages of the Layout, rounded to KV.Type as KV says. Inference only.
	KVAppend
	// Attention: for head h with key-value head g = h / (H/G), over the key rows
	// t that the Layout lets row r see (no key: zeros, and lse is minus infinity),
	// Out[0][r,h] = sum_t softmax_t(Scale * q[r,h].k[t,g]) v[t,g].
	// In[0] q [R,H*hd]; keys and values lie in the Layout's pages (geometry KV,
	// layer Layer), or are In[1] and In[2] [S,G*hd] where segments have no
	// pages, S = Layout.KeyRows. Optional Out[1] [R,H] is lse, the logarithm of the sum
	// over keys of exp(Scale * q.k). The sum over keys is cut at fixed places of each
	// span. Round is RoundNone, or RoundBothBF16: keys, values, q (times Scale or not)
	// and the probabilities (at any scale) may be rounded to bfloat16 before each
	// product; sums, the softmax and lse are of F32. A backend rounds in pages and in
	// rows alike, with the same bits
	// (https://arxiv.org/abs/1706.03762, section 3.2; grouped queries
	// https://arxiv.org/abs/2305.13245).
	Attention
	// AttentionBackward: In q, k, v, y, dy, optional lse (computed again where it is
	// absent), keys and values in rows only. Round is as in Attention: dy and ds may
	// be rounded, too.
	// Out dq [R,H*hd], dk, dv [S,G*hd]. With p the softmax:
	// dv[t] = sum p dy, ds = p (dy.v[t] - dy.y), dq = Scale sum_t ds k[t],
	// dk[t] = Scale sum ds q (https://arxiv.org/abs/2205.14135, appendix B).
	AttentionBackward

	// SwiGLU: Out[0] = silu(gate) * up, silu(z) = z / (1 + exp(-z)).
	// In[0] gate, In[1] up [R,F] (https://arxiv.org/abs/2002.05202).
	SwiGLU
	// SwiGLUBackward: In gate, up, dy. Out dgate, dup. With s = sigmoid(gate):
	// dup = dy gate s, dgate = dy up s (1 + gate (1 - s)).
	SwiGLUBackward

	// Embedding: Out[0][r] = row In[0][r] of W[0]. In[0] ids I32 [R],
	// W[0] [V,D], Out[0] [R,D].
	Embedding
	// EmbeddingBackward: Out[0] dW[ids[r]] += dy[r]. In ids I32 [R], dy [R,D].
	EmbeddingBackward

	// RowNorms: Out[0][n] = norm[n] = sqrt(sum_k v[n,k]^2), and Out[1][n] = 1/norm[n], or
	// 0 where norm[n] is 0. Either output may be absent. With one weight, v is W[0]
	// [N,K]. With three, v is that matrix and a low-rank change of it,
	//
	//	v[n,k] = W[0][n,k] + Scale sum_r W[2][n,r] W[1][r,k]
	//
	// with W[1] [r,K] and W[2] [N,r]. Out [N]. v may be added up in float32, but not where
	// the change nearly cancels W[0]: the relative error of a norm must not grow there.
	// RowNorms has no backward: adapters that divide by the norm take it for a constant
	// (https://arxiv.org/abs/2402.09353, section 4.3).
	RowNorms

	// LogProb is a linear layer and the log-probability of one id a row, R rows of
	// V logits never in memory: with z[r] = W[0] x[r], as MatMul computes it,
	// Out[1] lse[r] = log sum_v exp z[r,v], Out[0] logp[r] = z[r,ids[r]] - lse[r],
	// and optional Out[2] entropy[r] = lse[r] - sum_v p z, p = exp(z - lse), where
	// p = 0 adds nothing. In[0] x [R,K], In[1] ids I32 [R], Out [R].
	LogProb
	// LogProbBackward: In x, ids, lse, dlogp [R], optional In[4] dlse and In[5]
	// dentropy [R]. With p = exp(z - lse) and H the entropy: dz = dlogp (1[v=id] -
	// p) + dlse p - dentropy p (z - lse + H), Out[0] dx = dz W, Out[1] dW += dz^T x,
	// each optional. Round is as in MatMulBackward, with dz in the place of dy; z is
	// computed with it too. A row whose gradients are all 0 adds nothing, whatever
	// its logits are.
	LogProbBackward
	// CrossEntropy is LogProb and its gradient in one pass, for a loss whose weights
	// are known beforehand: sum_r -c[r] logp[r] + zc[r] lse[r]^2 (the second term
	// https://arxiv.org/abs/2204.02311, section 5). In[0] x [R,K], In[1] ids I32 [R],
	// In[2] c [R], In[3] zc [R], optional. Out[0] logp, Out[1] lse [R]; with dz =
	// c (p - 1[v=id]) + 2 zc lse p, Out[2] dx [R,K] = dz W and Out[3] dW [V,K] +=
	// dz^T x, each optional. Round is as in LogProbBackward. A row whose c and zc are 0
	// adds nothing to the gradients.
	CrossEntropy

	// RoundI8 rounds groups of Round.Group() elements of a row to -127..127:
	// with m = max |x| in the group and d = m/127, code = x*(127/m) rounded to
	// nearest even, all in F32; a group of zeros, or of values so small that
	// 127/m is not finite (m below about 2^-121), has d = 0 and codes 0, one with
	// a value that is not finite has d = NaN and codes 0. In[0] x [R,K], Out[0] codes
	// I8 [R,K], Out[1] d [R,K/group], Out[2] sums of 16 codes, I32 [R,K/16].
	// The gradient passes straight through.
	RoundI8
	// RoundBF16: Out[0] BF16 = In[0], to nearest even. The gradient passes
	// straight through.
	RoundBF16
	// RoundE4M3 rounds whole rows to 8-bit floats: with m the largest |x| of the row,
	// at least 1e-12 and at most E4M3Bound, and scale = 448/m, code = x*scale, at most
	// 448 either way, rounded to the nearest E4M3, ties to even, and d = 1/scale, all
	// in F32. Infinity counts as E4M3Bound; a row with a NaN has d = NaN and codes 0x7f,
	// which is NaN. In[0] x [R,K], Out[0] codes I8 [R,K], whose bits are E4M3, Out[1] d
	// [R,1] (https://arxiv.org/abs/2407.21783, section 6.2). The gradient passes
	// straight through.
	RoundE4M3

	// Unfold lays what a window sees of the rows of a segment in one row: a convolution is
	// Unfold and MatMul. In[0] x [R,C], of the Layout and the Window of Args. Out[0] [S,T*C],
	// S = Window.Outputs of the Layout, T = Window.Taps: of tap (a,b) of the window at
	// (i,j), Out[0][(i,j),(a,b),c] = x[(i Stride - Pad + a, j Stride - Pad + b),c], zero
	// outside of the segment. Backward: Fold.
	Unfold
	// Fold adds up, in In[0] dy [S,T*C], all that Unfold took from a row: Out[0] dx [R,C],
	// zero for a row that no window sees. Layout and Window are those of Unfold. Backward:
	// Unfold.
	Fold

	// Add: Out[0] = In[0] + In[1]. Broadcasting is a stride of 0 in an input.
	// Backward: Copy; Sum over the broadcast axes.
	Add
	// Mul: Out[0] = In[0] * In[1]. Backward: Mul; Sum over broadcast axes.
	Mul
	// Exp: Out[0] = exp(In[0]). Backward: Mul by the output.
	Exp
	// Log: Out[0] = log(In[0]).
	Log
	// LogBackward: In x, dy. Out[0] = dy / x.
	LogBackward
	// Sigmoid: Out[0] = 1 / (1 + exp(-x)).
	Sigmoid
	// SigmoidBackward: In y, dy. Out[0] = dy y (1 - y).
	SigmoidBackward
	// Tanh: Out[0] = tanh(x).
	Tanh
	// TanhBackward: In y, dy. Out[0] = dy (1 - y^2).
	TanhBackward
	// GELU: Out[0] = x/2 (1 + erf(x/sqrt 2)) (https://arxiv.org/abs/1606.08415).
	GELU
	// GELUBackward: In x, dy. Out[0] = dy (Phi(x) + x phi(x)).
	GELUBackward
	// Sum adds along Axis, which has elements: Out[0] has extent 1 there. Backward: Copy of a view
	// with stride 0.
	Sum
	// Max takes the largest along Axis, which has elements; NaN if one is. Out[0] has extent 1 there.
	Max
	// MaxBackward: In x, y, dy. Out[0] dx is dy at the first largest, else 0;
	// where y is NaN, all are 0.
	MaxBackward
	// Softmax along the last axis: Out[0] = exp(x - max) / sum.
	Softmax
	// SoftmaxBackward: In y, dy. Out[0] = y (dy - sum(y dy)).
	SoftmaxBackward
	// BatchMatMul multiplies activations: Out[0][b] = In[0][b] In[1][b],
	// [B,M,K] by [B,K,N]. Backward: BatchMatMul of transposed views.
	BatchMatMul
	// Gather: Out[0][r] = In[0][idx[r]]. In[0] [N,D], In[1] idx I32 [R].
	// Backward: ScatterAdd.
	Gather
	// ScatterAdd: Out[0][idx[r]] += In[0][r], r ascending. In[0] [R,D], In[1]
	// idx I32 [R], Out[0] [N,D]. Backward: Gather.
	ScatterAdd
	// Copy: Out[0] = In[0], between any strides and float types, rounding to
	// nearest even. Concatenation, slices and transposes are views and Copy.
	Copy

	// AdamW changes numbers w, of which m and v are the running means of the
	// gradient and of its square: Out[0] w, Out[1] m, Out[2] v, In[0] g, of one
	// shape without gaps. With the numbers of Args.AdamW and s = Scale g,
	// m = Beta1 m + (1-Beta1) s, v = Beta2 v + (1-Beta2) s^2, rounded to F32 as
	// they are stored, and then w = w - LR Decay w - LR (m/Correct1) /
	// (sqrt(v/Correct2) + Eps) (https://arxiv.org/abs/1711.05101, algorithm 2). It
	// has no backward.
	AdamW
	// SumSquares: Out[0] [1] = the sum of the squares of In[0], without gaps, added
	// up in float64 and cut at fixed places. It has no backward.
	SumSquares

	numOps
)

// E4M3Bound is the largest value of a row that Op RoundE4M3 keeps: what is larger is
// cut, so that a few large values do not take the precision of all others
// (https://arxiv.org/abs/2407.21783, section 6.2).
const E4M3Bound = 1200

// Limits of Args.
const (
	MaxWeights = 3
	MaxIn      = 6
	MaxOut     = 4
)

// Args are the operands of one operation. Unused fields are zero.
type Args struct {
	In     [MaxIn]View
	Out    [MaxOut]View
	W      [MaxWeights]Weight
	Round  Rounding
	Layout *Layout
	KV     KV
	Layer  int
	Window Window  // Unfold, Fold
	Eps    float32 // RMSNorm, LayerNorm
	Scale  float32 // Attention, RowNorms
	Axis   int     // Sum, Max
	AdamW  AdamWArgs
}

// AdamWArgs are the numbers of Op AdamW.
type AdamWArgs struct {
	LR           float32 // learning rate of the step
	Beta1, Beta2 float32 // how much of each running mean is kept
	Eps          float32
	Decay        float32 // of the weight, a fraction of LR
	Scale        float32 // of the gradient; below 1 where it is clipped
	// Correct1 and Correct2 are 1-Beta1^t and 1-Beta2^t at step t = 1, 2, ...: what
	// the means, which start as zeros, have seen.
	Correct1, Correct2 float32
}

// Reset makes all fields zero.
func (a *Args) Reset() { *a = Args{} }

// Weights is the number of weights given.
func (a *Args) Weights() int {
	n := 0
	for n < MaxWeights && a.W[n] != nil {
		n++
	}
	return n
}

// ops is indexed by Op.
var ops = [numOps]struct {
	name     string
	check    func(*Args, string)
	backward []Op
}{
	NoOp:              {"NoOp", nil, nil},
	MatMul:            {"MatMul", checkMatMul, []Op{MatMulBackward}},
	MatMulBackward:    {"MatMulBackward", checkMatMulBackward, nil},
	MatMulAdd:         {"MatMulAdd", checkMatMulAdd, []Op{MatMulBackward, Copy}},
	MatMulSwiGLU:      {"MatMulSwiGLU", checkMatMulSwiGLU, []Op{MatMul, SwiGLUBackward, MatMulBackward}},
	RMSNorm:           {"RMSNorm", checkRMSNorm, []Op{RMSNormBackward}},
	RMSNormBackward:   {"RMSNormBackward", checkRMSNormBackward, nil},
	LayerNorm:         {"LayerNorm", checkLayerNorm, []Op{LayerNormBackward}},
	LayerNormBackward: {"LayerNormBackward", checkLayerNormBackward, nil},
	RoPETable:         {"RoPETable", checkRoPETable, nil},
	RoPE:              {"RoPE", checkRoPE, []Op{RoPEBackward}},
	RoPEBackward:      {"RoPEBackward", checkRoPE, []Op{RoPE}},
	KVAppend:          {"KVAppend", checkKVAppend, nil},
	Attention:         {"Attention", checkAttention, []Op{AttentionBackward}},
	AttentionBackward: {"AttentionBackward", checkAttentionBackward, nil},
	SwiGLU:            {"SwiGLU", same(2, 1), []Op{SwiGLUBackward}},
	SwiGLUBackward:    {"SwiGLUBackward", same(3, 2), nil},
	Embedding:         {"Embedding", checkEmbedding, []Op{EmbeddingBackward}},
	EmbeddingBackward: {"EmbeddingBackward", checkEmbeddingBackward, nil},
	RowNorms:          {"RowNorms", checkRowNorms, nil},
	LogProb:           {"LogProb", checkLogProb, []Op{LogProbBackward}},
	LogProbBackward:   {"LogProbBackward", checkLogProbBackward, nil},
	CrossEntropy:      {"CrossEntropy", checkCrossEntropy, nil},
	RoundI8:           {"RoundI8", checkRoundI8, []Op{Copy}},
	RoundBF16:         {"RoundBF16", checkRoundBF16, []Op{Copy}},
	RoundE4M3:         {"RoundE4M3", checkRoundE4M3, []Op{Copy}},
	Unfold:            {"Unfold", checkUnfold, []Op{Fold}},
	Fold:              {"Fold", checkFold, []Op{Unfold}},
	Add:               {"Add", same(2, 1), []Op{Copy, Sum}},
	Mul:               {"Mul", same(2, 1), []Op{Mul, Sum}},
	Exp:               {"Exp", same(1, 1), []Op{Mul}},
	Log:               {"Log", same(1, 1), []Op{LogBackward}},
	LogBackward:       {"LogBackward", same(2, 1), nil},
	Sigmoid:           {"Sigmoid", same(1, 1), []Op{SigmoidBackward}},
	SigmoidBackward:   {"SigmoidBackward", same(2, 1), nil},
	Tanh:              {"Tanh", same(1, 1), []Op{TanhBackward}},
	TanhBackward:      {"TanhBackward", same(2, 1), nil},
	GELU:              {"GELU", same(1, 1), []Op{GELUBackward}},
	GELUBackward:      {"GELUBackward", same(2, 1), nil},
	Sum:               {"Sum", checkReduce, []Op{Copy}},
	Max:               {"Max", checkReduce, []Op{MaxBackward}},
	MaxBackward:       {"MaxBackward", checkMaxBackward, nil},
	Softmax:           {"Softmax", same(1, 1), []Op{SoftmaxBackward}},
	SoftmaxBackward:   {"SoftmaxBackward", same(2, 1), nil},
	BatchMatMul:       {"BatchMatMul", checkBatchMatMul, []Op{BatchMatMul}},
	Gather:            {"Gather", checkGather, []Op{ScatterAdd}},
	ScatterAdd:        {"ScatterAdd", checkScatterAdd, []Op{Gather}},
	Copy:              {"Copy", checkCopy, []Op{Copy}},
	AdamW:             {"AdamW", checkAdamW, nil},
	SumSquares:        {"SumSquares", checkSumSquares, nil},
}

// String is the operation's name.
func (o Op) String() string {
	if o >= numOps {
		return "Op(?)"
	}
	return ops[o].name
}

// Backward lists the operations that make up the gradient of o; empty where o
// has none or is itself a gradient.
func (o Op) Backward() []Op { return ops[o].backward }

// Ops lists every operation.
func Ops() []Op {
	list := make([]Op, 0, numOps-1)
	for o := NoOp + 1; o < numOps; o++ {
		list = append(list, o)
	}
	return list
}

// Check panics with a *ShapeError where the operands do not fit the operation of
// a backend. Backends call it first, so all of them refuse the same mistakes in the
// same words. It allocates nothing.
func Check(o Op, a *Args, b Backend) {
	if o == NoOp || o >= numOps {
		panic(shapeErr(o.String(), "no such operation"))
	}
	for i := range a.Out {
		distinct(ops[o].name, &a.Out[i])
	}
	ops[o].check(a, ops[o].name)
	if (o == KVAppend || o == Attention) && a.Layout.facts.paged {
		checkPages(a, ops[o].name, b)
	}
}
