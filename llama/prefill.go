package llama

import (
	"context"
	"fmt"
	"time"

	"github.com/herd-ml/herd/backend"
)

// publish names the pages that have become whole, for others to find.
func (s *Session) publish() {
	for i := len(s.names); (i+1)*backend.PageLen <= len(s.ids) && !s.private; i++ {
		s.names = append(s.names, s.name(i, s.ids))
		s.m.pages.publish(s.pages[i], s.names[i])
	}
}

// name returns the name of page i of ids, where s.names has those of the pages before.
func (s *Session) name(i int, ids []int32) pageName {
	var before pageName
	if i > 0 {
		before = s.names[i-1]
	} else {
		before = firstName(s.version, s.request.segment.Adapters)
	}
	return before.next(pageOf(ids, i))
}

// pageOf is the ids of page i.
func pageOf(ids []int32, i int) []int32 { return ids[i*backend.PageLen : (i+1)*backend.PageLen] }

// keep makes the session hold as much of the start of ids as it does already, but for the
// last position, whose logits are wanted.
func (s *Session) keep(ids []int32) {
	if v := s.m.version.Load(); s.version != v {
		s.truncate(0)
		s.version = v
	}
	n := 0
	for n < len(ids)-1 && n < len(s.ids) && ids[n] == s.ids[n] {
		n++
	}
	s.truncate(n)
}

// find goes on with whole pages of other sessions after the positions held, which are the
// start of ids.
func (s *Session) find(ids []int32) {
	for i := len(s.ids) / backend.PageLen; (i+1)*backend.PageLen < len(ids) && !s.private && s.share(i, ids); i++ {
	}
}

// share makes page i of ids, which is whole, one of the session's, which holds the pages
// before, where another session has computed it.
func (s *Session) share(i int, ids []int32) bool {
	name := s.name(i, ids)
	p := s.m.pages.find(s.pageList, name)
	if p == nil {
		return false
	}
	s.truncate(i * backend.PageLen)
	s.pages, s.bufs, s.names = append(s.pages, p), append(s.bufs, p.buf), append(s.names, name)
	s.ids = append(s.ids, pageOf(ids, i)...)
	return true
}

// prefill makes the session hold exactly ids. What w wants of the last of them is computed.
func (s *Session) prefill(ctx context.Context, ids []int32, w wish) error {
	if len(ids) == 0 {
		return fmt.Errorf("llama: an empty prompt: there is nothing to continue")
	}
	if err := s.m.checkIDs(ids); err != nil {
		return err
	}
	if len(ids) > s.limit {
		return fmt.Errorf("%w: the prompt has %d tokens, the session %d positions", ErrContextFull, len(ids), s.limit)
	}
	start := time.Now()
	s.keep(ids)
	err := s.admit(ctx, min(max(len(ids), s.most), s.limit))
	reused, computed := len(s.ids), 0
	for err == nil && len(s.ids) < len(ids) {
		before := len(s.ids)
		s.find(ids)
		reused, before = reused+len(s.ids)-before, len(s.ids)
		end := min(before+s.m.opts.batchRows(), len(ids))
		names := s.ahead(ids, end)
		if again, there := s.m.pages.announce(names); again {
			err = await(ctx, there)
			continue
		}
		err = s.compute(ctx, ids, end, w)
		s.m.pages.withdraw(names)
		computed += len(s.ids) - before
	}
	s.usage.ReusedTokens += reused
	s.usage.PrefillTokens += computed
	s.usage.PrefillTime += time.Since(start)
	s.m.pages.asked(reused, reused+computed)
	return err
}

// await waits for another call, where there is one.
func await(ctx context.Context, there <-chan struct{}) error {
	if there == nil {
		return nil
	}
	select {
	case <-there:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

// ahead names the whole pages that computing ids up to an end will give, and that find
// would take.
func (s *Session) ahead(ids []int32, end int) (names []pageName) {
	for i := len(s.ids) / backend.PageLen; (i+1)*backend.PageLen <= min(end, len(ids)-1) && !s.private; i++ {
		if len(names) == 0 {
			names = append(names, s.name(i, ids))
		} else {
			names = append(names, names[len(names)-1].next(pageOf(ids, i)))
		}
	}
	return names
}

// compute computes ids after those held, up to an end.
func (s *Session) compute(ctx context.Context, ids []int32, end int, w wish) error {
	if end < len(ids) {
		w = wish{}
	}
	return s.extend(ctx, ids[len(s.ids):end], w)
}
