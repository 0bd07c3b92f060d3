package llama

import (
	"context"
	"fmt"
	"slices"

	"github.com/herd-ml/herd/llama/quantize"
)

// SaveBase is Perplexity that also writes what the model thinks of the text to a file, for
// Divergence: the log-probabilities of the whole vocabulary at each position scored, of
// four bytes each.
func (m *Model) SaveBase(ctx context.Context, ids []int32, path string, o PerplexityOptions) (Perplexity, error) {
	c, err := m.chunks(ids, o)
	if err != nil {
		return Perplexity{}, err
	}
	var p Perplexity
	err = quantize.WriteBase(path, c.base(m.config.Vocab), func(write func([]float32) error) (err error) {
		p, err = m.distributions(ctx, c, o, func(logprobs []float32, _ int32) error { return write(logprobs) })
		return err
	})
	return p, err
}

// Divergence compares what the model thinks of a text with what another did, which
// SaveBase has written. Both must be run with the same text and settings.
func (m *Model) Divergence(ctx context.Context, ids []int32, path string, o PerplexityOptions) (quantize.Divergence, error) {
	c, err := m.chunks(ids, o)
	if err != nil {
		return quantize.Divergence{}, err
	}
	r, err := quantize.OpenBase(path)
	if err != nil {
		return quantize.Divergence{}, err
	}
	defer r.Close()
	if err := r.CheckText(c.base(m.config.Vocab)); err != nil {
		return quantize.Divergence{}, fmt.Errorf("%s: %w", path, err)
	}
	var sum quantize.Comparison
	base := make([]float32, r.Vocab)
	_, err = m.distributions(ctx, c, o, func(logprobs []float32, token int32) error {
		if err := r.Next(base); err != nil {
			return err
		}
		sum.Add(base, logprobs, token)
		return nil
	})
	if err != nil {
		return quantize.Divergence{}, err
	}
	return sum.Result(c.n), nil
}

// base says of what the distributions of the chunks are.
func (c *chunks) base(vocab int) quantize.Base {
	b := quantize.Base{Vocab: vocab, Size: c.size}
	for i := range c.n {
		b.IDs = append(b.IDs, c.at(i)...)
	}
	return b
}

// distributions calls visit with the log-probabilities [V] of what comes at each position
// scored, and with the token that does.
func (m *Model) distributions(ctx context.Context, c *chunks, o PerplexityOptions, visit func(logprobs []float32, token int32) error) (Perplexity, error) {
	s, err := m.NewSession(SessionOptions{Context: c.size})
	if err != nil {
		return Perplexity{}, err
	}
	defer s.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var p Perplexity
	logprobs, sum := make([]float32, m.config.Vocab), 0.0
	for i := range c.n {
		chunk := c.at(i)
		var failed error
		err := s.Score(ctx, chunk, func(pos int, logits []float32) {
			if pos+1 < c.scored() || pos+1 == len(chunk) || failed != nil {
				return
			}
			if at := slices.IndexFunc(logits, func(x float32) bool { return x-x != 0 }); at >= 0 {
				failed = fmt.Errorf("llama: the logit of token %d at position %d of chunk %d is %v", at, pos, i, logits[at])
			} else {
				quantize.LogSoftmax(logprobs, logits)
				sum += float64(logprobs[chunk[pos+1]])
				failed = visit(logprobs, chunk[pos+1])
			}
			if failed != nil {
				stop(failed)
			}
		})
		if failed != nil {
			err = failed
		}
		if err != nil {
			return Perplexity{}, err
		}
		p = perplexity(sum, p.Tokens+len(chunk)-c.scored(), i+1)
		if o.Progress != nil {
			o.Progress(i+1, c.n, p)
		}
	}
	return p, nil
}
