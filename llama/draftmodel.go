package llama

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/herd-ml/herd/llama/sample"
)

// modelDrafter guesses what a model finds most likely.
type modelDrafter struct {
	s      *Session
	greedy *sample.Sampler
	last   [1]int32
}

// newModelDrafter prepares drafting for a session of another model with the same
// vocabulary, in as many of its positions as the draft model has.
func newModelDrafter(s *Session, draft *Model) (*modelDrafter, error) {
	if err := sameVocabulary(s.m, draft); err != nil {
		return nil, err
	}
	positions := s.limit
	if most, _ := draft.opts.limit(draft.config); most > 0 {
		positions = min(positions, most)
	}
	own, err := draft.NewSession(SessionOptions{Context: positions})
	if err != nil {
		return nil, fmt.Errorf("llama: the draft model: %w", err)
	}
	greedy, err := sample.New(sample.Params{})
	return &modelDrafter{s: own, greedy: greedy}, err
}

// draft appends n guesses of what follows ids, as a Drafter does. A text beyond the draft
// model's positions has none.
func (d *modelDrafter) draft(ctx context.Context, dst, ids []int32, n int) ([]int32, error) {
	n = min(n, d.s.limit-len(ids)+1) // the last guess is not fed back
	if n <= 0 {
		return dst, nil
	}
	dst, err := d.likeliest(ctx, dst, ids, n)
	if end := ended(ctx); err != nil && end != nil {
		return dst, end
	}
	if err != nil {
		return dst, fmt.Errorf("llama: the draft model: %w", err)
	}
	return dst, nil
}

func (d *modelDrafter) likeliest(ctx context.Context, dst, ids []int32, n int) ([]int32, error) {
	call, leave, err := d.s.claim(ctx)
	if err != nil {
		return dst, err
	}
	defer leave()
	d.s.most = len(ids) + n
	err = d.s.prefill(call, ids, d.s.next())
	for err == nil {
		var id int32
		if id, err = d.greedy.Sample(d.s.logits); errors.Is(err, sample.ErrNoCandidate) {
			return dst, nil
		}
		dst = append(dst, id)
		if n--; n == 0 || err != nil {
			break
		}
		d.last[0] = id
		err = d.s.extend(call, d.last[:], d.s.next())
	}
	return dst, err
}

// sameVocabulary refuses a draft model whose tokens are others. Models without a tokenizer
// are taken by the number of their tokens.
func sameVocabulary(m, draft *Model) error {
	const other = "llama: the draft model has another vocabulary"
	if a, b := m.config.Vocab, draft.config.Vocab; a != b {
		return fmt.Errorf("%s: %d tokens, want %d", other, b, a)
	}
	if m.tok == nil || draft.tok == nil || m.vocab() == draft.vocab() {
		return nil
	}
	if a, b := m.tok.VocabSize(), draft.tok.VocabSize(); a != b {
		return fmt.Errorf("%s: its tokenizer has %d tokens, want %d", other, b, a)
	}
	differ, first := 0, int32(0)
	for id := range int32(m.tok.VocabSize()) {
		if !bytes.Equal(m.tok.TokenBytes(id), draft.tok.TokenBytes(id)) {
			if differ++; differ == 1 {
				first = id
			}
		}
	}
	return fmt.Errorf("%s: %d tokens differ, the first is %d, %q in the place of %q", other, differ, first,
		draft.tok.TokenBytes(first), m.tok.TokenBytes(first))
}

// hashVocabulary is a hash of the bytes of all tokens.
func (m *Model) hashVocabulary() (sum [sha256.Size]byte) {
	h, length := sha256.New(), make([]byte, 0, 8)
	for id := range int32(m.tok.VocabSize()) {
		b := m.tok.TokenBytes(id)
		h.Write(binary.LittleEndian.AppendUint64(length, uint64(len(b))))
		h.Write(b)
	}
	h.Sum(sum[:0])
	return sum
}
