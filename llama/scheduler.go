package llama

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// scheduler joins the rows of calls that run at once in one forward step. A call that is
// alone runs its steps itself. Once others wait, serve runs them, on a goroutine that lasts
// until nobody waits.
//
// A step takes short requests first, whole: a token of each stream, or a draft. Prompts
// fill the rest, up to rows in all, but no more than mixed rows beside streams, so that a
// long prompt does not stall them. Among requests of one kind a higher priority goes first,
// then who came first; a prompt keeps its place for as many rows as a step has. One step in
// turnEvery begins with the request that came first of all, so that none starves.
type scheduler struct {
	m     *Model
	rows  int // most of a step
	mixed int // most of prompts in a step beside streams

	mu      sync.Mutex
	busy    bool       // a step runs, or serve does
	alone   *request   // of the step that runs, where its call runs it
	queue   []*request // in the order of who goes first
	tickets uint64     // given out
	waiting int        // calls that wait for the running step
	counts  Stats      // of calls and steps

	// away counts the calls of the last step that have not come back yet: they draw their
	// next token. Their requests have the epoch of that step.
	away   int
	epoch  uint64
	gather bool          // serve waits for them
	back   chan struct{} // tells it that they are here
	timer  *time.Timer   // of its patience
	last   time.Duration // of a step

	ctx context.Context // of steps that serve runs; it ends when all calls of one have
	end context.CancelCauseFunc

	batch   func(ctx context.Context) error // made once
	forward func() error
}

const (
	// shortRows is the most rows of a request that a step takes whole: a token and as many
	// guesses as there are if the caller does not say.
	shortRows = 1 + defaultGuesses
	// turnEvery is the share of the steps that begin with who waits longest.
	turnEvery = 8
	// A step waits for the calls of the step before a patience-th of its time, and no
	// longer than mostPatience.
	patience     = 4
	mostPatience = 25 * time.Millisecond
)

func newScheduler(m *Model) *scheduler {
	q := &scheduler{m: m, rows: m.opts.batchRows(), back: make(chan struct{}, 1), timer: time.NewTimer(0)}
	q.mixed = m.opts.mixedRows()
	q.batch, q.forward = q.runBatch, m.forward
	return q
}

// place says where a request is.
type place uint8

const (
	idle    place = iota // with its call
	queued               // in the queue
	running              // in the step that runs
)

// do has a step compute the rows of r, or the first of them: r.rows says how many, r.err
// why none. Where it reports false, the call's context has ended and the step goes on for
// others: the session is the step's, too, until Session.unlock has been called for both.
func (q *scheduler) do(r *request) bool {
	if r.err = ended(r.ctx); r.err != nil {
		return true
	}
	q.mu.Lock()
	if q.arrive(r); !q.busy {
		q.busy, q.alone = true, r
		q.mu.Unlock()
		q.step(r.ctx)
		return true
	}
	q.enqueue(r)
	q.mu.Unlock()
	select {
	case <-r.done:
		return true
	case <-r.ctx.Done():
		return q.abandon(r)
	}
}

// arrive gives a request its place in the order, and notes that its call is back.
func (q *scheduler) arrive(r *request) {
	q.returned(r)
	if r.quantum <= 0 || len(r.ids) <= shortRows {
		q.tickets++
		r.ticket, r.quantum = q.tickets, q.rows
	}
}

// returned notes that a call that was away is back, or has ended.
func (q *scheduler) returned(r *request) {
	if r.epoch != q.epoch || r.epoch == 0 {
		return
	}
	r.epoch = 0
	if q.away--; q.away == 0 && q.gather {
		q.gather = false
		q.back <- struct{}{}
	}
}

// enter notes the begin of a call.
func (q *scheduler) enter() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counts.Calls++
}

// leave notes the end of a call.
func (q *scheduler) leave(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counts.Calls--
	q.returned(r)
	r.quantum = 0
}

func (q *scheduler) enqueue(r *request) {
	r.place = queued
	at, _ := slices.BinarySearchFunc(q.queue, r, func(a, b *request) int {
		if a.priority > b.priority || a.priority == b.priority && a.ticket < b.ticket {
			return -1
		}
		return 1
	})
	q.queue = slices.Insert(q.queue, at, r)
}

// abandon takes out a request whose call has ended. It reports false where the step that
// runs has it: the step stops if nobody else waits for it.
func (q *scheduler) abandon(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch r.place {
	case queued:
		q.queue = slices.DeleteFunc(q.queue, func(o *request) bool { return o == r })
		r.place, r.err = idle, ended(r.ctx)
	case running:
		r.gone = true
		r.session.users.Store(2)
		if q.waiting--; q.waiting == 0 {
			q.end(context.Canceled)
		}
		return false
	default: // the step is over
		<-r.done
	}
	return true
}

// serve runs steps while requests wait.
func (q *scheduler) serve() {
	for q.wait() {
		q.mu.Lock()
		if q.ctx == nil || q.ctx.Err() != nil {
			q.ctx, q.end = context.WithCancelCause(q.m.life)
		}
		ctx := q.ctx
		q.mu.Unlock()
		q.step(ctx)
	}
}

// wait waits a little for the calls of the last step, so that they are together in the
// next one too. It reports whether there is something to do; else serve is over.
func (q *scheduler) wait() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gather = q.away > 0 && (len(q.queue) > 0 || q.counts.LastSize > 1); q.gather {
		q.timer.Reset(min(q.last/patience, mostPatience))
		q.mu.Unlock()
		select {
		case <-q.back:
		case <-q.timer.C:
		}
		q.mu.Lock()
		if !q.gather { // the last of them came, perhaps after the timer
			select {
			case <-q.back:
			default:
			}
		}
		q.gather = false
	}
	if len(q.queue) > 0 {
		return true
	}
	q.busy = false
	return false
}

// step runs one step, and hands out what came of it.
func (q *scheduler) step(ctx context.Context) {
	start := time.Now()
	err := q.m.step(ctx, q.batch)
	q.mu.Lock()
	defer q.mu.Unlock()
	b := &q.m.batch
	switch {
	case len(b.requests) > 0:
		q.last = time.Since(start)
		q.counts.step(b)
	case q.alone != nil: // whose context ended before its turn
		b.requests = append(b.requests, q.alone)
	case err != nil: // the model is closed
		b.requests, q.queue = append(b.requests, q.queue...), q.queue[:0]
	}
	q.epoch++
	q.away = 0
	for _, r := range b.requests {
		q.finish(r, err)
	}
	b.reset()
	if q.alone != nil {
		q.alone = nil
		if q.busy = len(q.queue) > 0; q.busy {
			go q.serve()
		}
	}
}

// finish gives a request back to its call.
func (q *scheduler) finish(r *request, err error) {
	r.place = idle
	if r.gone {
		r.session.unlock()
		return
	}
	if r.err = err; err != nil {
		r.rows = 0
		if r.ctx.Err() != nil {
			r.err = ended(r.ctx)
		}
	} else {
		r.epoch = q.epoch
		r.quantum -= r.rows
		q.away++
	}
	if r != q.alone {
		r.done <- struct{}{}
	}
}

// stats is what the scheduler knows.
func (q *scheduler) stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.counts
	s.Queued = len(q.queue)
	return s
}

// step counts a forward step.
func (s *Stats) step(b *batch) {
	s.LastSize, s.LastRows = len(b.requests), len(b.ids)
	s.Steps++
	s.Joined += int64(s.LastSize)
	s.Rows += int64(s.LastRows)
}

// runBatch is a step whose turn it is.
func (q *scheduler) runBatch(ctx context.Context) error {
	b := &q.m.batch
	q.mu.Lock()
	q.pick(b)
	q.mu.Unlock()
	if len(b.requests) == 0 {
		return nil // all calls that waited have ended
	}
	b.layout.FillLogits()
	return q.m.cx.Step(ctx, &b.layout, q.m.pages.kv, q.forward)
}

// pick puts requests of the queue into the batch.
func (q *scheduler) pick(b *batch) {
	prompts := q.rows
	if r := q.alone; r != nil {
		if q.away > 0 && !r.short() {
			prompts = q.mixed
		}
		b.take(r, min(len(r.ids), prompts))
		return
	}
	if q.away > 0 || slices.ContainsFunc(q.queue, (*request).short) {
		prompts = q.mixed
	}
	take := func(r *request) {
		n := min(len(r.ids), q.rows-len(b.ids))
		if r.short() && n < len(r.ids) {
			return
		}
		if !r.short() {
			n = min(n, prompts)
			prompts -= n
		}
		if n > 0 {
			b.take(r, n)
		}
	}
	if q.counts.Steps%turnEvery == turnEvery-1 && len(q.queue) > 0 {
		take(slices.MinFunc(q.queue, func(a, b *request) int { return cmp.Compare(a.ticket, b.ticket) }))
	}
	for _, short := range [2]bool{true, false} {
		for _, r := range q.queue {
			if r.place == queued && r.short() == short {
				take(r)
			}
		}
	}
	q.queue = slices.DeleteFunc(q.queue, func(r *request) bool { return r.place == running })
	q.waiting = len(b.requests)
}
