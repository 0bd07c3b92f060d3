package llama

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Generate continues a prompt. The text of special tokens becomes those tokens,
// and BOS is added where the model does so.
//
// The sequence starts when it is ranged over and can be ranged over once. The
// last Token says why the generation ended; an error, errors.Is(err,
// context.Canceled) for one, is yielded once, last. Breaking out of the loop
// leaves the session usable, holding what was computed.
func (s *Session) Generate(ctx context.Context, prompt string, o GenerateOptions) iter.Seq2[Token, error] {
	return s.sequence(ctx, o, func() ([]int32, error) { return s.m.Encode(prompt) })
}

// GenerateIDs is Generate for a prompt of token ids, to which nothing is added.
func (s *Session) GenerateIDs(ctx context.Context, ids []int32, o GenerateOptions) iter.Seq2[Token, error] {
	return s.sequence(ctx, o, func() ([]int32, error) { return ids, nil })
}

// Encode returns the ids of a prompt as Generate takes it: special tokens
// parsed, BOS added where the model does so.
func (m *Model) Encode(prompt string) ([]int32, error) {
	if m.tok == nil {
		return nil, fmt.Errorf("llama: the model's files hold no tokenizer: prompts must be token ids: %w", ErrUnsupported)
	}
	return m.tok.Encode(prompt, tokenizer.EncodeOptions{AddBOS: true, Special: true})
}

// errTwice is yielded by a sequence that is ranged over again.
var errTwice = errors.New("llama: a generation can be ranged over once")

func (s *Session) sequence(ctx context.Context, o GenerateOptions, prompt func() ([]int32, error)) iter.Seq2[Token, error] {
	var started atomic.Bool
	return func(yield func(Token, error) bool) {
		if started.Swap(true) {
			yield(Token{}, errTwice)
			return
		}
		g := &generation{s: s, o: o, now: time.Now}
		if err := g.run(ctx, prompt, yield); err != nil {
			yield(Token{}, err)
		}
	}
}

// generation is one call of Generate.
type generation struct {
	s       *Session
	o       GenerateOptions
	sampler *sample.Sampler
	text    *textStream
	count   int // tokens generated
	keep    int // tokens of the prompt that stay when the context shifts

	ids    []int32   // of a step
	logits []float32 // [n, V] after each of them
	states []float32 // [n, D] that these are made of, where log-probabilities are wanted
	row    int       // that the next token is drawn from
	guess  *speculation
	now    func() time.Time
}

// run yields tokens until the generation ends; an error it returns is still to
// be yielded.
func (g *generation) run(ctx context.Context, prompt func() ([]int32, error), yield func(Token, error) bool) error {
	if err := g.o.Validate(); err != nil {
		return err
	}
	if g.s.m.tok == nil && len(g.o.Stop) > 0 {
		return fmt.Errorf("llama: stop texts need a tokenizer, which the model's files do not hold: %w", ErrUnsupported)
	}
	var err error
	if g.sampler, err = sample.New(g.o.Sampling, g.o.Steps...); err != nil {
		return err
	}
	call, leave, err := g.s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := ended(call); err != nil {
		return err
	}
	ids, err := prompt()
	if err != nil {
		return err
	}
	g.keep = g.kept(ids)
	g.text = newTextStream(g.s.m.tok, g.o.Stop)
	for _, id := range ids {
		g.sampler.Accept(id)
	}
	rows := 1
	g.logits = g.s.logits
	if o := g.o.Speculation; o.on() {
		if o.now != nil {
			g.now = o.now
		}
		if g.guess, err = newSpeculation(o, g.s, ids); err != nil {
			return err
		}
		defer g.endGuessing()
		rows += g.guess.max
		g.logits = make([]float32, rows*g.s.m.config.Vocab)
	}
	if g.o.Logprobs || g.o.TopLogprobs > 0 {
		g.states = make([]float32, rows*g.s.m.config.Dim)
	}
	err = g.s.locked(func() error {
		g.s.most = g.s.limit
		if most := g.o.MaxTokens; most > 0 && most < g.s.limit {
			g.s.most = min(len(ids)+most+rows, g.s.limit)
		}
		return g.s.prefill(call, ids, g.wish(1))
	})
	for err == nil {
		var t Token
		if t, err = g.next(call); err != nil {
			break
		}
		if !yield(t, nil) || t.Finish != NotFinished {
			return nil
		}
		if g.guess != nil {
			err = g.feedGuessed(call, t.ID)
		} else {
			err = g.s.locked(func() error { return g.feed(call, t.ID, nil) })
		}
	}
	return err
}

// wish is that for what may follow each of the last n rows.
func (g *generation) wish(n int) wish {
	vocab, dim := g.s.m.config.Vocab, g.s.m.config.Dim
	w := wish{Results: backend.Results{Kind: backend.ResultLogits, Last: n}, width: vocab, out: g.logits[:n*vocab]}
	if g.states != nil {
		w.states = g.states[:n*dim]
	}
	return w
}

// feed computes a generated token, after making room for it if need be, and guesses of
// those that follow it, for which there is room. The guesses lie beyond what the session
// says to hold.
func (g *generation) feed(ctx context.Context, id int32, guesses []int32) error {
	s, before := g.s, len(g.s.ids)
	g.row = 0
	if before == s.limit {
		return g.shift(ctx, id)
	}
	start := g.now()
	g.ids = append(append(g.ids[:0], id), guesses...)
	if err := s.extend(ctx, g.ids, g.wish(len(g.ids))); err != nil {
		s.cut(before)
		return err
	}
	s.ids = s.ids[:before+1]
	s.usage.DecodeTokens++
	s.usage.DraftedTokens += len(guesses)
	s.usage.DecodeTime += g.now().Sub(start)
	return nil
}

// shift computes a generated token after the context without the older half of what may be
// forgotten.
func (g *generation) shift(ctx context.Context, id int32) error {
	s := g.s
	keep := min(g.keep, len(s.ids)-1)
	from := keep + (len(s.ids)-keep+1)/2
	s.usage.Shifts++
	ids := append(slices.Concat(s.ids[:keep], s.ids[from:]), id)
	if g.guess != nil {
		g.guess.restart(ids)
	}
	return s.prefill(ctx, ids, g.wish(1))
}

// kept is the number of tokens that a context shift keeps of a prompt.
func (g *generation) kept(prompt []int32) int {
	keep := g.o.Keep
	if t := g.s.m.tok; t != nil && keep == 0 {
		if bos, ok := t.BOS(); ok && len(prompt) > 0 && prompt[0] == bos {
			keep = 1
		}
	}
	if keep < 0 || keep > len(prompt) {
		keep = len(prompt)
	}
	return keep
}

// next draws a token from a row of logits, which are this call's: the session is not
// locked while the caller's sampling steps run.
func (g *generation) next(ctx context.Context) (Token, error) {
	full := false
	err := g.s.locked(func() error {
		full = len(g.s.ids) == g.s.limit
		return nil
	})
	if err != nil {
		return Token{}, err
	}
	logits := rowOf(g.logits, g.row, g.s.m.config.Vocab)
	id, err := g.sampler.Sample(logits)
	if err != nil {
		return Token{}, fmt.Errorf("llama: after %d tokens: %w", g.count, err)
	}
	g.sampler.Accept(id)
	g.count++
	t := Token{ID: id}
	if g.states != nil {
		if err := g.logprobs(ctx, &t, logits); err != nil {
			return Token{}, err
		}
	}
	stopped := slices.Contains(g.o.StopTokens, id)
	if _, eos := slices.BinarySearch(g.s.m.stop, id); eos && !g.o.IgnoreEOS {
		stopped = true
	}
	found := false
	if !stopped {
		t.Text, found = g.text.write(id)
	}
	switch {
	case stopped || found:
		t.Finish = FinishStop
	case g.count == g.o.MaxTokens:
		t.Finish = FinishLength
	case full && !(g.o.ContextShift && g.s.limit > 1):
		t.Finish = FinishContext
	}
	if t.Finish != NotFinished && !found {
		rest, stop := g.text.flush()
		t.Text += rest
		if stop {
			t.Finish = FinishStop
		}
	}
	return t, nil
}

// rowOf is a row of a matrix of so many columns.
func rowOf(x []float32, i, cols int) []float32 { return x[i*cols:][:cols] }

// logprobs fills in the log-probabilities of a token that was drawn from logits.
func (g *generation) logprobs(ctx context.Context, t *Token, logits []float32) error {
	s := g.s
	t.Top = sample.TopLogprobs(nil, logits, g.o.TopLogprobs)
	if len(s.m.net.Output.Adapters) > 0 { // the operation knows the matrix alone, and so does training
		t.Logprob = float32(sample.Logprob(logits, t.ID))
		return nil
	}
	ids := []int32{t.ID}
	for _, a := range t.Top {
		ids = append(ids, a.ID)
	}
	return s.locked(func() error {
		out, err := s.m.logprobs(ctx, rowOf(g.states, g.row, s.m.config.Dim), ids)
		if err == nil && s.m.version.Load() != s.version {
			err = ErrStale
		}
		if err != nil {
			return err
		}
		t.Logprob = out[0]
		for i, l := range out[1:] {
			t.Top[i].Logprob = l
		}
		return nil
	})
}
