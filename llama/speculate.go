package llama

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Speculation guesses the tokens that come next, so that one step computes several. The
// last token and the guesses after it are rows of one step, which reads the weights once.
// The sampler then draws the next token from each row in turn. While it draws what was
// guessed, the row after it is already computed. The first wrong guess and those after it
// are forgotten.
//
// Speculation changes no token, no log-probability and no reason to finish. Each row has
// the bits of a step of its own, and each draw sees the logits, the sampler's state and the
// random numbers that it would see without guesses. Rejection sampling (Leviathan et al.
// 2023, https://arxiv.org/abs/2211.17192) keeps only the distribution; it needs the
// probability of each guess and a sampler whose state can be taken back. Both accept a guess
// that is not drawn, as those of Lookup and Model are, with the probability that the model
// gives it.
//
// The number of guesses adapts to the share that was right and to the times of steps with
// one row and with several. Where guessing is slower, it stops but for a trial now and then.
// The zero value guesses nothing. The sources are asked in the order of the fields until one
// has guesses.
type Speculation struct {
	// Drafter is the caller's own way of guessing.
	Drafter Drafter
	// Lookup guesses what followed the last tokens where they were before, in the prompt
	// or in what was generated: for texts that repeat parts of their prompt.
	Lookup bool
	// Model, smaller and of the same vocabulary, guesses what it finds most likely. Each
	// generation has a session of it. The caller closes it, after the generation.
	Model *Model
	// Max is the most tokens guessed at a time, up to 64; 0 is 16.
	Max int

	now func() time.Time // nil is time.Now
}

// A Drafter guesses what comes next in a text.
type Drafter interface {
	// Draft appends up to n tokens that may follow ids to dst: those that the model sees,
	// the last token generated among them. It may be asked after every token or more
	// rarely, and does not keep ids. An error ends the generation.
	Draft(ctx context.Context, dst, ids []int32, n int) ([]int32, error)
}

const (
	defaultGuesses = 16
	maxGuesses     = 64
)

// on reports whether anything is guessed.
func (o *Speculation) on() bool { return o.Drafter != nil || o.Lookup || o.Model != nil }

func (o *Speculation) validate() error {
	if o.Max < 0 || o.Max > maxGuesses {
		return fmt.Errorf("llama: Speculation.Max is %d, want 0 to %d", o.Max, maxGuesses)
	}
	return nil
}

// speculation is what a generation knows of guesses.
type speculation struct {
	caller  Drafter // or nil, as the next two
	lookup  *lookup
	model   *modelDrafter
	max     int
	pace    pace
	text    []int32 // what the model sees, the last token too
	guesses []int32 // that are computed beyond the end of the session
	from    int     // the source of them
	right   int     // of them, that were generated since
}

// newSpeculation prepares guessing what follows ids in a session.
func newSpeculation(o Speculation, s *Session, ids []int32) (*speculation, error) {
	p := &speculation{caller: o.Drafter, max: o.Max, text: slices.Clone(ids)}
	if p.max == 0 {
		p.max = defaultGuesses
	}
	p.max = min(p.max, s.limit, s.m.opts.batchRows()-1) // a step with them is one
	p.pace = newPace(p.max)
	if o.Lookup {
		p.lookup = &lookup{}
	}
	var err error
	if o.Model != nil {
		p.model, err = newModelDrafter(s, o.Model)
	}
	return p, err
}

// restart makes ids what the model sees.
func (p *speculation) restart(ids []int32) {
	p.text = append(p.text[:0], ids...)
	p.pace.restart()
	if p.lookup != nil {
		p.lookup.reset()
	}
}

// endGuessing ends what newSpeculation began: the session holds what it says to hold.
func (g *generation) endGuessing() {
	if d := g.guess.model; d != nil {
		d.s.Close()
	}
	if g.s.outlived { // the step that goes on does it
		return
	}
	_ = g.s.locked(func() error { // a closed session holds nothing
		g.s.truncate(len(g.s.ids))
		return nil
	})
}

// feedGuessed is feed for a generation with guesses: a token that was guessed is computed
// already, and another is fed with new guesses. Guessing runs with the session unlocked, as
// it may be the caller's.
func (g *generation) feedGuessed(ctx context.Context, id int32) error {
	p, right := g.guess, false
	p.text = append(p.text, id)
	err := g.s.locked(func() (err error) {
		right, err = g.take(ctx, id)
		return err
	})
	if right || err != nil {
		return err
	}
	start := g.now()
	if err := g.draft(ctx); err != nil {
		return err
	}
	drafted := g.now()
	return g.s.locked(func() error {
		g.s.usage.DecodeTime += drafted.Sub(start)
		if err := g.feed(ctx, id, p.guesses); err != nil {
			return err
		}
		if len(p.text) <= g.s.limit { // no shift
			p.pace.step(p.from, len(p.guesses), drafted.Sub(start), g.now().Sub(drafted))
		}
		return nil
	})
}

// take makes a token part of the session, if it is the next guess. If not, what is left of
// the guesses is forgotten.
func (g *generation) take(ctx context.Context, id int32) (right bool, err error) {
	p, s := g.guess, g.s
	if p.right == len(p.guesses) || p.guesses[p.right] != id {
		p.pace.judge(p.from, p.right, len(p.guesses))
		p.guesses, p.right = p.guesses[:0], 0
		s.truncate(len(s.ids))
		return false, nil
	}
	switch { // what a step would find
	case s.m.life.Err() != nil:
		return false, ErrClosed
	case s.version != s.m.version.Load():
		return false, ErrStale
	case ctx.Err() != nil:
		return false, ended(ctx)
	}
	s.ids = append(s.ids, id)
	p.right++
	g.row++
	s.usage.DecodeTokens++
	s.usage.AcceptedTokens++
	return true, nil
}

// draft makes guesses of what follows the text.
func (g *generation) draft(ctx context.Context) (err error) {
	p := g.guess
	room := g.s.limit - len(p.text)
	if g.o.MaxTokens > 0 {
		room = min(room, g.o.MaxTokens-g.count-1) // the last token is not fed back
	}
	if room <= 0 {
		return nil
	}
	if p.caller != nil {
		err = p.ask(ctx, ofCaller, room)
	}
	if p.lookup != nil && len(p.guesses) == 0 && err == nil {
		if alike := p.lookup.look(p.text); alike > 0 {
			err = p.ask(ctx, ofLookup+kind(alike), room)
		}
	}
	if p.model != nil && len(p.guesses) == 0 && err == nil {
		err = p.ask(ctx, ofModel, room)
	}
	if err != nil {
		return err
	}
	for i, id := range p.guesses {
		if vocab := g.s.m.config.Vocab; id < 0 || int(id) >= vocab {
			p.guesses = p.guesses[:0]
			return fmt.Errorf("llama: guess %d of what follows %d tokens is the token %d, outside the vocabulary of %d", i, len(p.text), id, vocab)
		}
	}
	return nil
}

// ask asks one source for guesses, for which there is room.
func (p *speculation) ask(ctx context.Context, from, room int) (err error) {
	n := min(p.pace.length(from), room)
	if n == 0 {
		return nil
	}
	p.from = from
	switch from {
	case ofCaller:
		p.guesses, err = p.caller.Draft(ctx, p.guesses, p.text, n)
	case ofModel:
		p.guesses, err = p.model.draft(ctx, p.guesses, p.text, n)
	default:
		p.guesses = p.lookup.guess(p.guesses, p.text, n)
	}
	p.guesses = p.guesses[:min(n, len(p.guesses))]
	return err
}
