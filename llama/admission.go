package llama

import (
	"context"
	"fmt"
	"slices"

	"github.com/herd-ml/herd/backend"
)

// admission is a call that asks for pages under a memory limit. It begins once the pool can
// promise it all pages that it may come to hold, and then finds each when it needs it:
// nothing is swapped, and no call fails half-way. Until then it waits, and gives up what
// its session holds, so that no two wait for each other; whole pages stay idle in the pool
// and are found again while there is room. What sessions hold that no call runs on is a
// cache, which gives way.
//
// Of those that wait the highest priority is admitted first, then who came first; every
// turnEvery-th time it is who came first of all. Nobody passes the first, who may need more.
type admission struct {
	list     *pageList
	pages    int   // that the call may hold
	partial  *page // that it goes on writing to, or nil
	priority int
	wake     chan struct{} // told to look again
}

// limited reports whether there is a memory limit; without one nothing is promised.
func (p *pagePool) limited() bool { return p.m.opts.MemoryLimit > 0 }

// capacity is how many pages the memory limit has room for, beside the copies of matrices
// that are still to be made.
func (p *pagePool) capacity() int {
	est := &p.m.estimate
	free := p.m.opts.MemoryLimit - est.Weights - p.other - est.Scratch - max(0, est.Snapshots-p.m.snapshots.bytes.Load())
	return int(max(0, free) / p.m.b.PageBytes(p.kv))
}

// room is how many pages are neither owned nor promised.
func (p *pagePool) room() int { return p.capacity() - (len(p.all) - p.count) - p.promised }

// owe promises a list so many pages more.
func (p *pagePool) owe(l *pageList, n int) {
	l.owed += n
	p.promised += n
}

// hold keeps the pages of a list in place until rest is called.
func (p *pagePool) hold(l *pageList) {
	if !p.limited() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.users++; l.users == 1 {
		p.resting = slices.DeleteFunc(p.resting, func(o *pageList) bool { return o == l })
	}
}

// rest ends what hold began: pages may be taken from a list that nobody holds.
func (p *pagePool) rest(l *pageList) {
	if !p.limited() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.users--; l.users == 0 && l.held > 0 && !p.closed {
		p.resting = append(p.resting, l)
	}
	p.next()
}

// dismiss takes back what was promised to a list.
func (p *pagePool) dismiss(l *pageList) {
	if !p.limited() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owe(l, -l.owed)
	l.admitted = false
	p.next()
}

// reclaim takes the pages of the list that rests longest.
func (p *pagePool) reclaim() bool {
	if len(p.resting) == 0 {
		return false
	}
	l := p.resting[0]
	p.resting = slices.Delete(p.resting, 0, 1)
	for _, pg := range slices.Backward(l.pages) {
		p.disown(pg)
	}
	l.pages, l.held = l.pages[:0], 0
	return true
}

// first is who is admitted next.
func (p *pagePool) first() *admission {
	best := p.waiting[0]
	for _, a := range p.waiting[1:] {
		if p.admitted%turnEvery != turnEvery-1 && a.priority > best.priority { // they are in the order of arrival
			best = a
		}
	}
	return best
}

// next has the first of those that wait look again.
func (p *pagePool) next() {
	if len(p.waiting) > 0 {
		select {
		case p.first().wake <- struct{}{}:
		default:
		}
	}
}

// admit promises the pages of a call. Where it reports false the call has to wait until
// it is told to look again.
func (p *pagePool) admit(a *admission) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false, ErrClosed
	}
	if most := p.capacity(); a.pages > most {
		p.refused++
		return false, fmt.Errorf("llama: %d pages of %d positions are needed at most, the memory limit has room for %d: ask for fewer tokens or a shorter context: %w",
			a.pages, backend.PageLen, most, ErrMemory)
	}
	l := a.list
	more := max(0, a.pages-l.held) - l.owed
	if a.partial != nil && a.partial.refs > 1 {
		more++ // for a copy
	}
	if more > 0 {
		if !slices.Contains(p.waiting, a) {
			p.waiting = append(p.waiting, a)
		}
		fits := p.first() == a
		for fits && p.room() < more {
			fits = p.reclaim()
		}
		if !fits {
			return false, nil
		}
		p.owe(l, more)
	}
	if a.partial != nil && a.partial.refs == 1 {
		p.forget(a.partial) // so that nobody finds it, and a copy becomes necessary
	}
	l.admitted = true
	p.admitted++
	p.remove(a)
	return true, nil
}

// remove takes out a call that waits no longer.
func (p *pagePool) remove(a *admission) {
	p.waiting = slices.DeleteFunc(p.waiting, func(o *admission) bool { return o == a })
	p.next()
}

// giveUp is remove for a call that was not admitted.
func (p *pagePool) giveUp(a *admission) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(a)
}

// admit waits until the pool can promise the pages of so many positions. The session holds
// what the call goes on from; it holds nothing where the call had to wait.
func (s *Session) admit(ctx context.Context, positions int) error {
	p := s.m.pages
	if !p.limited() {
		return nil
	}
	a := &admission{list: s.pageList, pages: ceilDiv(positions, backend.PageLen), priority: s.request.priority, wake: make(chan struct{}, 1)}
	if i := len(s.ids) / backend.PageLen; len(s.ids)%backend.PageLen > 0 {
		a.partial = s.pages[i]
	}
	for {
		admitted, err := p.admit(a)
		if err != nil {
			p.giveUp(a)
		}
		if admitted || err != nil {
			return err
		}
		a.partial = nil
		p.dismiss(s.pageList)
		s.truncate(0)
		if err := await(ctx, a.wake); err != nil {
			p.giveUp(a)
			return err
		}
	}
}
