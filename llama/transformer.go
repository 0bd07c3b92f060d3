package llama

import (
	"fmt"

	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// transformer is the whole network. Its parameter names are Hugging Face's.
//
//	h = x + Attention(RMSNorm(x))
//	x = h + FeedForward(RMSNorm(h))     for each layer, then
//	logits = Output(RMSNorm(x))
//
// (https://arxiv.org/abs/2407.21783, section 3.2.)
type transformer struct {
	Embed  *nn.Embedding `name:"model.embed_tokens"`
	Layers []*layer      `name:"model.layers"`
	Norm   *nn.RMSNorm   `name:"model.norm"`
	Output *nn.Linear    `name:"lm_head"` // shares Embed's matrix when tied
	RoPE   *nn.RoPE

	factors factors
}

// factors multiply what they are named after; 1 is none.
type factors struct {
	embedding, residual, logits float32
	scores                      float32 // 0 is 1/sqrt(head size)
}

// factorsOf are those of a configuration, where 0 is none.
func factorsOf(c Config) factors {
	f := factors{embedding: 1, residual: 1, logits: 1, scores: float32(c.AttentionScale)}
	if c.EmbeddingScale != 0 {
		f.embedding = float32(c.EmbeddingScale)
	}
	if c.ResidualScale != 0 {
		f.residual = float32(c.ResidualScale)
	}
	if c.LogitsScale != 0 {
		f.logits = float32(1 / c.LogitsScale)
	}
	return f
}

type layer struct {
	AttnNorm  *nn.RMSNorm     `name:"input_layernorm"`
	Attention *nn.Attention   `name:"self_attn"`
	FFNNorm   *nn.RMSNorm     `name:"post_attention_layernorm"`
	FFN       *nn.FeedForward `name:"mlp"`
}

// newTransformer returns the network of a valid configuration without numbers.
func newTransformer(c Config) *transformer {
	t := &transformer{
		Embed: nn.NewEmbedding(c.Vocab, c.Dim),
		Norm:  nn.NewRMSNorm(c.Dim, float32(c.NormEps)),
		RoPE:  nn.NewRoPE(c.HeadDim),

		factors: factorsOf(c),
	}
	t.RoPE.Factor = checkpoint.RopeFactor(c)
	t.Output = &nn.Linear{Weight: t.Embed.Weight}
	if !c.TiedEmbeddings {
		t.Output = nn.NewLinear(c.Dim, c.Vocab, false)
	}
	// Nothing comes after the logits that could absorb a rounding: two tokens that
	// are nearly as likely would change places.
	t.Output.Weight.Round16 = true
	for range c.Layers {
		t.Layers = append(t.Layers, &layer{
			AttnNorm:  nn.NewRMSNorm(c.Dim, float32(c.NormEps)),
			Attention: nn.NewAttention(c.Dim, c.Heads, c.KVHeads, c.HeadDim, c.AttentionBias, c.AttentionOutputBias),
			FFNNorm:   nn.NewRMSNorm(c.Dim, float32(c.NormEps)),
			FFN:       nn.NewFeedForward(c.Dim, c.HiddenDim, c.MLPBias),
		})
		// Every later position sees the errors of keys; in a small model they cost near
		// ties, and its keys are a thirtieth of the multiplications.
		t.Layers[len(t.Layers)-1].Attention.WK.Weight.Round16 = c.Dim <= smallDim
	}
	return t
}

// smallDim is the width of models up to some 400 million weights.
const smallDim = 1024

// feedRows are the rows that go through a feed-forward layer at once: what lies between
// its products is the widest of a step.
const feedRows = 256

// embed returns the embeddings of ids [R, D], but for rows at, in ascending order, whose
// embeddings are given [len(at), D].
func (t *transformer) embed(c *tensor.Context, ids []int32, given *tensor.Tensor, at []int32) *tensor.Tensor {
	return times(c, t.lookup(c, ids, given, at), t.factors.embedding)
}

// times is x times a factor.
func times(c *tensor.Context, x *tensor.Tensor, factor float32) *tensor.Tensor {
	if factor == 1 {
		return x
	}
	return tensor.Scale(c, x, factor)
}

// scaled is what the output layer makes logits of, for normalised states.
func (t *transformer) scaled(c *tensor.Context, h *tensor.Tensor) *tensor.Tensor {
	return times(c, h, t.factors.logits)
}

func (t *transformer) lookup(c *tensor.Context, ids []int32, given *tensor.Tensor, at []int32) *tensor.Tensor {
	if len(at) == 0 {
		return t.Embed.Forward(c, c.IDs(ids))
	}
	// Of the table only what is wanted is looked up, so that ids that stand for nothing
	// have no gradient. Rows come after each other, and are then put in their places.
	var own []int32
	from := make([]int32, len(ids))
	next := 0
	for r, id := range ids {
		if next < len(at) && int(at[next]) == r {
			from[r] = int32(next)
			next++
			continue
		}
		from[r] = int32(len(at) + len(own))
		own = append(own, id)
	}
	if len(own) > 0 {
		given = tensor.Concat(c, 0, given, t.Embed.Forward(c, c.IDs(own)))
	}
	return tensor.Gather(c, given, from)
}

// LayerRange is layers [From, To) of a model. The zero value is all of them.
type LayerRange struct{ From, To int }

// of is the range in a model of n layers.
func (r LayerRange) of(n int) (from, to int) {
	if r == (LayerRange{}) {
		return 0, n
	}
	return r.From, r.To
}

// check refuses what is no range in a model of n layers.
func (r LayerRange) check(n int) error {
	if from, to := r.of(n); from < 0 || from >= to || to > n {
		return fmt.Errorf("llama: layers [%d, %d) of %d", from, to, n)
	}
	return nil
}

// hidden runs a range of layers on embeddings x [R, D], or on what the layers before have
// left. The result takes the place of x. After the last layer it is the normalised residual
// stream of the rows that the layout wants logits of, [len(Logits), D]; the context's rows
// are those then. recompute makes a tape keep nothing of a layer but its input.
func (t *transformer) hidden(c *tensor.Context, x *tensor.Tensor, layers LayerRange, recompute bool) *tensor.Tensor {
	rope := t.RoPE.Table(c, nil) // [R, hd]
	want := c.Layout().Logits
	if len(want) == x.Rows() {
		want = nil
	}
	from, to := layers.of(len(t.Layers))
	for i := from; i < to; i++ {
		l, rows := t.Layers[i], []int32(nil)
		if i == len(t.Layers)-1 {
			rows = want // nothing looks at the other rows any more
		}
		if recompute && c.Recording() {
			x = tensor.Checkpoint(c, x, func(x *tensor.Tensor) *tensor.Tensor { return l.forward(c, x, rope, i, rows, t.factors) })
		} else {
			x = l.forward(c, x, rope, i, rows, t.factors)
		}
	}
	if to < len(t.Layers) {
		return x
	}
	c.SetRows(tensor.Rows{List: want})
	return t.Norm.Forward(c, x)
}

// forward is layer i of rows, nil for all, of x [R, D].
func (l *layer) forward(c *tensor.Context, x, rope *tensor.Tensor, i int, rows []int32, f factors) *tensor.Tensor {
	c.SetRows(tensor.Rows{}) // the layer before may have had some of them last
	mark := c.Mark()
	h := l.AttnNorm.Forward(c, x)
	o := tensor.AttentionOptions{Layer: i, Scale: f.scores}
	if f.residual == 1 {
		x = l.Attention.AddTo(c, x, h, rope, o)
	} else {
		x = tensor.AddTo(c, x, tensor.Scale(c, l.Attention.Forward(c, h, rope, o), f.residual))
	}
	c.Drop(h)
	c.Release(mark)
	if rows != nil {
		x = tensor.Gather(c, x, rows)
		c.SetRows(tensor.Rows{List: rows})
		mark = c.Mark()
	}
	if c.Recording() { // backward wants all rows at once
		h := l.FFNNorm.Forward(c, x)
		x = l.feed(c, x, h, f)
		c.Drop(h)
		return x
	}
	for from := 0; from < x.Rows(); from += feedRows {
		part := tensor.SliceRows(c, x, from, min(feedRows, x.Rows()-from)) // AddTo writes to x
		c.SetRows(tensor.Rows{List: rows, From: from})
		if l.feed(c, part, l.FFNNorm.Forward(c, part), f) != part {
			panic("llama: what a layer adds is not in the residual stream")
		}
		c.Release(mark)
	}
	return x
}

// feed is x and what the feed-forward layer makes of h.
func (l *layer) feed(c *tensor.Context, x, h *tensor.Tensor, f factors) *tensor.Tensor {
	if f.residual == 1 {
		return l.FFN.AddTo(c, x, h)
	}
	return tensor.AddTo(c, x, tensor.Scale(c, l.FFN.Forward(c, h), f.residual))
}
