package llama

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/herd-ml/herd/backend"
)

// page holds the keys and values of backend.PageLen positions in all layers. Sessions
// share pages. What is in a page changes only while it has one owner and no name.
type page struct {
	buf  backend.Buffer
	refs int      // owners
	name pageName // of what it holds, or zero
	// Neighbours among the idle pages, the longest idle first.
	before, after *page
}

// pageName names what a whole page holds: it is a hash of the token ids up to its end, of
// the version of the weights and of the adapters that the rows had. Pages of one name hold
// the same bits, whoever computed them.
type pageName [sha256.Size]byte

// firstName is what the name of a sequence's first page follows. A set of adapters is that
// of backend.Segment: nil is all that the model has.
func firstName(version uint64, adapters []int) pageName {
	b := binary.LittleEndian.AppendUint64(nil, version)
	if adapters != nil {
		b = append(b, 1)
		for _, set := range slices.Compact(slices.Sorted(slices.Values(adapters))) {
			b = binary.LittleEndian.AppendUint64(b, uint64(set))
		}
	}
	return sha256.Sum256(b)
}

// next is the name of the page that holds ids after what n names.
func (n pageName) next(ids []int32) pageName {
	var b [sha256.Size + 4*backend.PageLen]byte
	copy(b[:], n[:])
	for i, id := range ids {
		binary.LittleEndian.PutUint32(b[sha256.Size+4*i:], uint32(id))
	}
	return sha256.Sum256(b[:])
}

// pageList is the pages that a session owns, which outlive it where nobody closes it.
type pageList struct {
	pool  *pagePool
	pages []*page

	// What follows is the pool's, and of use where there is a memory limit.
	held     int  // pages
	users    int  // while there are any, no pages are taken
	admitted bool // a call runs that was promised pages,
	owed     int  // so many more of them
}

// drop gives the pages back.
func (l *pageList) drop() {
	l.pool.hold(l)
	l.pool.m.log().Warn("llama: a session was dropped without Close", "pages", len(l.pages))
	for _, p := range slices.Backward(l.pages) {
		l.pool.put(l, p)
	}
}

// pagePool hands out pages and takes them back. Pages that no session owns keep what they
// hold while there is room for them, so that a later prompt that begins alike finds it.
type pagePool struct {
	m    *Model
	kv   backend.KV
	most int // idle pages: those of one full session

	mu     sync.Mutex
	closed bool
	other  int64 // bytes beside pages that were taken since the model was loaded
	all    map[*page]bool
	named  map[pageName]*page // owned ones and idle ones
	// Pages that calls compute just now. Who waits for one waits for the channel, which is
	// closed once one of them is there, or will not come.
	awaited map[pageName]chan struct{}
	prompts struct{ tokens, reused int64 }
	// What follows is of use where there is a memory limit.
	promised int
	resting  []*pageList  // held by sessions that no call runs on, the longest first
	waiting  []*admission // in the order of arrival
	admitted int64
	refused  int64

	idle  page // between its after and its before are the idle pages, in a ring
	count int  // of idle pages
}

func newPagePool(m *Model, kv backend.KV) *pagePool {
	p := &pagePool{m: m, kv: kv, all: map[*page]bool{}, named: map[pageName]*page{}, awaited: map[pageName]chan struct{}{}}
	p.most = int(max(1, m.estimate.Session/max(1, m.b.PageBytes(kv))))
	p.idle.before, p.idle.after = &p.idle, &p.idle
	return p
}

// get returns a page with one owner, a list, and no name. It fails at the memory limit where
// none was promised.
func (p *pagePool) get(l *pageList) (*page, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	size := p.m.b.PageBytes(p.kv)
	for p.limited() && l.owed == 0 && p.room() < 1 {
		if !p.reclaim() {
			return nil, fmt.Errorf("llama: the %d pages that the memory limit has room for are in use or promised: %w", p.capacity(), ErrMemory)
		}
	}
	full := p.over(size, 0)
	pg := p.idle.after
	if p.count > 0 && (pg.name == pageName{} || full != nil || len(p.all) >= p.most) {
		p.take(pg)
		p.forget(pg)
	} else {
		if full != nil {
			return nil, full
		}
		buf, err := p.m.b.Alloc(size)
		if err != nil {
			return nil, err
		}
		pg = &page{buf: buf, refs: 1}
		p.all[pg] = true
	}
	p.gain(l)
	return pg, nil
}

// gain counts a page that a list has become an owner of.
func (p *pagePool) gain(l *pageList) {
	l.held++
	if l.owed > 0 {
		p.owe(l, -1)
	}
}

// over says that n more bytes, beside promised pages, go beyond the memory limit, or is nil.
func (p *pagePool) over(n int64, promised int) error {
	used := p.m.estimate.Weights + p.other + p.m.estimate.Scratch + int64(len(p.all)+promised)*p.m.b.PageBytes(p.kv)
	if limit := p.m.opts.MemoryLimit; limit > 0 && used+n > limit {
		return fmt.Errorf("llama: %d bytes are in use, %d more are needed, the limit is %d: %w", used, n, limit, ErrMemory)
	}
	return nil
}

// reserve counts n bytes that are no page's against the memory limit. Idle pages make
// room for them.
func (p *pagePool) reserve(n int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.over(n, p.promised) != nil && p.count > 0 {
		p.evict()
	}
	if err := p.over(n, p.promised); err != nil {
		return err
	}
	p.other += n
	return nil
}

// release gives back what reserve counted.
func (p *pagePool) release(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.other -= n
	p.next()
}

// reserved is what reserve has counted.
func (p *pagePool) reserved() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.other
}

// find returns the page of a name, with a list as one owner more, or nil.
func (p *pagePool) find(l *pageList, n pageName) *page {
	p.mu.Lock()
	defer p.mu.Unlock()
	pg := p.named[n]
	switch {
	case pg == nil:
		return nil
	case pg.refs == 0 && p.limited() && l.owed == 0:
		return nil // it would be one more than promised
	case pg.refs == 0:
		p.take(pg)
	default:
		pg.refs++
	}
	p.gain(l)
	p.next() // where it is another's too, it takes no room
	return pg
}

// share makes a list one more owner.
func (p *pagePool) share(l *pageList, pg *page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pg.refs++
	l.held++
}

// publish names a page whose positions are all computed.
func (p *pagePool) publish(pg *page, n pageName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.named[n] == nil && pg.name == (pageName{}) {
		pg.name, p.named[n] = n, pg
	}
	p.arrived(n)
}

// announce says that pages are about to be computed, the first of which follows what the
// caller holds. It does not where that one has come meanwhile, or where another call
// computes it, for which there is then a channel to wait for: the caller looks again.
func (p *pagePool) announce(names []pageName) (again bool, there <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(names) == 0 {
		return false, nil
	}
	if p.named[names[0]] != nil {
		return true, nil
	}
	if came, announced := p.awaited[names[0]]; announced {
		if came == nil {
			came = make(chan struct{})
			p.awaited[names[0]] = came
		}
		return true, came
	}
	for _, n := range names {
		if _, announced := p.awaited[n]; !announced {
			p.awaited[n] = nil // until somebody waits
		}
	}
	return false, nil
}

// withdraw ends what announce began, for the pages that have not come.
func (p *pagePool) withdraw(names []pageName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range names {
		p.arrived(n)
	}
}

// arrived tells those who wait for a page to look again.
func (p *pagePool) arrived(n pageName) {
	if there := p.awaited[n]; there != nil {
		close(there)
	}
	delete(p.awaited, n)
}

// asked counts the tokens of a prompt, and those of them that were there.
func (p *pagePool) asked(reused, tokens int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prompts.reused += int64(reused)
	p.prompts.tokens += int64(tokens)
}

// own reports whether a page's one owner may write to it, and takes its name away.
func (p *pagePool) own(pg *page) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pg.refs > 1 {
		return false
	}
	p.forget(pg)
	return true
}

// swap gives each of two lists the pages of the other.
func (p *pagePool) swap(a, b *pageList) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.pages, b.pages = b.pages, a.pages
	a.held, b.held = b.held, a.held
}

// put gives up the ownership of a list. Where a call runs, the page that is free then stays
// promised to it.
func (p *pagePool) put(l *pageList, pg *page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.held--
	if l.admitted && pg.refs == 1 {
		p.owe(l, 1)
	}
	p.disown(pg)
}

// disown takes an owner away from a page, which is idle without.
func (p *pagePool) disown(pg *page) {
	if pg.refs--; pg.refs > 0 || p.closed {
		return
	}
	at := &p.idle // the last to be taken
	if pg.name == (pageName{}) {
		at = p.idle.after // the first
	}
	pg.before, pg.after = at.before, at
	pg.before.after, pg.after.before = pg, pg
	if p.count++; p.count > p.most {
		p.evict()
	}
	p.next()
}

// evict frees the longest idle page.
func (p *pagePool) evict() {
	old := p.idle.after
	p.take(old)
	p.forget(old)
	delete(p.all, old)
	old.buf.Free()
}

// take makes an idle page an owned one.
func (p *pagePool) take(pg *page) {
	pg.before.after, pg.after.before = pg.after, pg.before
	pg.before, pg.after, pg.refs = nil, nil, 1
	p.count--
}

// forget takes a page's name away.
func (p *pagePool) forget(pg *page) {
	if pg.name != (pageName{}) {
		delete(p.named, pg.name)
		pg.name = pageName{}
	}
}

// stats fills in what the pool knows.
func (p *pagePool) stats(s *Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.PageBytes = p.m.b.PageBytes(p.kv)
	s.PagesUsed, s.PagesIdle = len(p.all)-p.count, p.count
	if p.closed {
		s.PagesUsed, s.PagesIdle = 0, 0
	}
	if p.limited() {
		s.PagesLimit = p.capacity()
	}
	s.Waiting, s.Admitted, s.Refused = len(p.waiting), p.admitted, p.refused
	s.PromptTokens, s.ReusedTokens = p.prompts.tokens, p.prompts.reused
}

// free returns the memory of all pages, once no call runs.
func (p *pagePool) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pg := range p.all {
		pg.buf.Free()
	}
	p.closed = true
	clear(p.all)
	clear(p.named)
}
