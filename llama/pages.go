package llama

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
)

// page holds the keys and values of backend.PageLen positions in all layers.
// Sessions share pages: one with more than one owner is not written to.
type page struct {
	buf  backend.Buffer
	refs atomic.Int32
}

// pagePool hands out pages and takes them back.
type pagePool struct {
	m    *Model
	kv   backend.KV
	mu   sync.Mutex
	idle []*page
	all  []*page
}

// get returns a page with one owner. It fails at the memory limit.
func (p *pagePool) get() (*page, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		pg := p.idle[n-1]
		p.idle = p.idle[:n-1]
		pg.refs.Store(1)
		return pg, nil
	}
	size := p.kv.PageBytes()
	if limit := p.m.opts.MemoryLimit; limit > 0 {
		used := p.m.estimate.Weights + p.m.estimate.Scratch + int64(len(p.all))*size
		if used+size > limit {
			return nil, fmt.Errorf("llama: %d bytes are in use, a page of keys and values needs %d, the limit is %d: %w", used, size, limit, ErrMemory)
		}
	}
	buf, err := p.m.b.Alloc(size)
	if err != nil {
		return nil, err
	}
	pg := &page{buf: buf}
	p.all = append(p.all, pg)
	pg.refs.Store(1)
	return pg, nil
}

// put gives up one ownership.
func (p *pagePool) put(pg *page) {
	if pg.refs.Add(-1) > 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all != nil { // else the model is closed
		p.idle = append(p.idle, pg)
	}
}

// free returns the memory of all pages, once no call runs.
func (p *pagePool) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pg := range p.all {
		pg.buf.Free()
	}
	p.all, p.idle = nil, nil
}
