package llama

import (
	"context"
	"fmt"
	"math"
)

// PerplexityOptions are the settings of Perplexity. The zero value works.
type PerplexityOptions struct {
	// Context is the length of a chunk; 0 is 512.
	Context int
	// Chunks bounds the chunks scored; 0 is all.
	Chunks int
	// Progress, where set, is told after each chunk.
	Progress func(done, total int, sofar Perplexity)
}

// Perplexity is how well a model predicts a text.
type Perplexity struct {
	PPL    float64 `json:"ppl"`    // exp(NLL)
	NLL    float64 `json:"nll"`    // mean negative log-likelihood, in nats
	Tokens int     `json:"tokens"` // scored
	Chunks int     `json:"chunks"`
}

// Perplexity scores a text given as ids, without BOS. As llama.cpp defines it:
// consecutive chunks of Context tokens, each on its own, its first token
// replaced by BOS where the model adds one; of each the tokens after the
// middle are scored (positions Context/2 to Context-2 predict their
// successors). A rest shorter than a chunk is left out.
func (m *Model) Perplexity(ctx context.Context, ids []int32, o PerplexityOptions) (Perplexity, error) {
	c, err := m.chunks(ids, o)
	if err != nil {
		return Perplexity{}, err
	}
	s, err := m.NewSession(SessionOptions{Context: c.size})
	if err != nil {
		return Perplexity{}, err
	}
	defer s.Close()
	var p Perplexity
	sum := 0.0
	for i := range c.n {
		logprobs, err := s.Logprobs(ctx, c.at(i), c.scored())
		if err != nil {
			return Perplexity{}, err
		}
		for _, l := range logprobs {
			sum += float64(l)
		}
		p = perplexity(sum, p.Tokens+len(logprobs), i+1)
		if o.Progress != nil {
			o.Progress(i+1, c.n, p)
		}
	}
	return p, nil
}

// perplexity is that of tokens whose log-probabilities have a sum.
func perplexity(sum float64, tokens, chunks int) Perplexity {
	nll := -sum / float64(tokens)
	return Perplexity{PPL: math.Exp(nll), NLL: nll, Tokens: tokens, Chunks: chunks}
}

// chunks are a text as llama.cpp cuts it: parts of the same size, each on its own, of which
// the first token is BOS where the model adds one.
type chunks struct {
	ids     []int32 // of the whole text
	size, n int
	bos     int32 // or -1
	chunk   []int32
}

// chunks checks the settings, and cuts a text.
func (m *Model) chunks(ids []int32, o PerplexityOptions) (*chunks, error) {
	if m.life.Err() != nil {
		return nil, ErrClosed
	}
	if o.Context == 0 {
		o.Context = 512
	}
	if o.Context < 4 || o.Chunks < 0 {
		return nil, fmt.Errorf("llama: Context is %d, want 4 or more, Chunks %d, want 0 or more", o.Context, o.Chunks)
	}
	n := len(ids) / o.Context
	if n == 0 {
		return nil, fmt.Errorf("llama: the text has %d tokens, less than one chunk of %d", len(ids), o.Context)
	}
	if o.Chunks > 0 {
		n = min(n, o.Chunks)
	}
	c := &chunks{ids: ids[:n*o.Context], size: o.Context, n: n, bos: -1, chunk: make([]int32, o.Context)}
	if m.tok != nil && m.tok.AddsBOS() {
		if bos, ok := m.tok.BOS(); ok {
			c.bos = bos
		}
	}
	return c, nil
}

// at is chunk i. It is valid until the next call.
func (c *chunks) at(i int) []int32 {
	copy(c.chunk, c.ids[i*c.size:])
	if c.bos >= 0 {
		c.chunk[0] = c.bos
	}
	return c.chunk
}

// scored is the first position whose token counts, in the second half.
func (c *chunks) scored() int { return c.size/2 + 1 }

// Pooling says how the hidden states of a text become one vector.
type Pooling uint8

const (
	// PoolMean is the mean over all tokens.
	PoolMean Pooling = iota
	// PoolLast is the last token's state.
	PoolLast
)

// EmbedOptions are the settings of Embed. The zero value is the mean, of
// length 1.
type EmbedOptions struct {
	Pooling Pooling
	// Raw leaves out the scaling to Euclidean length 1.
	Raw bool
}

// Embed returns a vector [D] of a text: the hidden states after the last norm,
// pooled. The session forgets what it held.
func (s *Session) Embed(ctx context.Context, text string, o EmbedOptions) ([]float32, error) {
	ids, err := s.m.Encode(text)
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("llama: Embed of an empty text")
	}
	call, leave, err := s.enterEmpty(ctx, ids)
	if err != nil {
		return nil, err
	}
	defer leave()
	dim := s.m.config.Dim
	sum := make([]float64, dim)
	n := 0
	err = s.states(call, ids, func(from int, h []float32) error {
		for at := 0; at < len(h); at += dim {
			if o.Pooling == PoolLast && from+at/dim < len(ids)-1 {
				continue
			}
			n++
			for i, x := range h[at : at+dim] {
				sum[i] += float64(x)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	scale := 1 / float64(n)
	if !o.Raw {
		square := 0.0
		for _, x := range sum {
			square += x * x
		}
		if scale = 0; square > 0 {
			scale = 1 / math.Sqrt(square)
		}
	}
	out := make([]float32, len(sum))
	for i, x := range sum {
		out[i] = float32(x * scale)
	}
	return out, nil
}
