package backendtest

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
)

// Faults are ways to make an operation panic that only the tests of a backend have.
// Run has none.
type Faults struct {
	// Protect makes the memory of a buffer fault until undo is called.
	Protect func(b backend.Buffer) (undo func())
	// Exhaust leaves so many bytes of scratch memory, those of the step's arena and
	// of each worker, until undo is called.
	Exhaust func(e backend.Exec, bytes int64) (undo func())
}

// RunFaults checks that an operation that panics leaves nothing behind: every
// operation is made to panic in every way there is, at the checks, when it looks at its
// operands and when its workers do, and every other one must then be right, in the same
// step; the operation itself must be on another Exec. Run does this without f.
func RunFaults(t *testing.T, b backend.Backend, f Faults) {
	if err := checkPanics(b, f); errors.Is(err, backend.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Error(err)
	}
}

// spoilt is a case made to panic or to stop.
type spoilt struct {
	how    string
	c      *testCase
	change func(p *placed)                               // its operands
	fault  func(p *placed, e backend.Exec) (undo func()) // for the time it runs
	cancel bool                                          // its context ends while it runs
}

// spoilings are the ways to make the first case of an operation panic.
func spoilings(b backend.Backend, c *testCase, f Faults) (list []spoilt) {
	add := func(how string, change func(p *placed)) {
		list = append(list, spoilt{how: how, c: c, change: change})
	}
	freed := func() backend.Buffer {
		buf, err := b.Alloc(64)
		if err != nil {
			panic(err)
		}
		buf.Free()
		return buf
	}
	for i, o := range c.in {
		if o == nil {
			continue
		}
		add(fmt.Sprintf("In[%d] of another shape", i), func(p *placed) { p.args.In[i].Shape.Dim[0]++ })
		add(fmt.Sprintf("In[%d] freed", i), func(p *placed) { p.args.In[i].Buf = freed() })
		if o.view.Type == backend.I32 {
			d := *c
			d.in[i] = newOperand(backend.I32, dense, func(int) float64 { return 1 << 30 }, o.view.Shape.Dim[:o.view.Shape.Rank]...)
			list = append(list, spoilt{how: fmt.Sprintf("ids In[%d] out of range", i), c: &d})
		}
	}
	for i, o := range c.out {
		if o != nil {
			add(fmt.Sprintf("Out[%d] of another shape", i), func(p *placed) { p.args.Out[i].Shape.Dim[0]++ })
			add(fmt.Sprintf("Out[%d] freed", i), func(p *placed) { p.args.Out[i].Buf = freed() })
		}
	}
	for i := range c.weights {
		add(fmt.Sprintf("W[%d] that panics", i), func(p *placed) { p.args.W[i] = panicWeight{p.args.W[i]} })
		if c.weights[i].float == nil {
			add(fmt.Sprintf("W[%d] freed", i), func(p *placed) { p.args.W[i].Free() })
		}
	}
	if len(c.pages) > 0 {
		add("a page freed", func(p *placed) {
			for i := range p.args.Layout.Segments {
				pages := p.args.Layout.Segments[i].Pages
				pages[len(pages)-1] = freed()
			}
		})
	}
	if f.Protect != nil {
		for i, o := range c.operands() {
			if o.view.Shape.Elems() > 0 {
				list = append(list, spoilt{how: fmt.Sprintf("operand %d faults", i), c: c,
					fault: func(p *placed, _ backend.Exec) func() { return f.Protect(p.bufs[o]) }})
			}
		}
	}
	for bytes := int64(0); f.Exhaust != nil && bytes <= 1<<16; bytes = max(64, 4*bytes) {
		list = append(list, spoilt{how: fmt.Sprintf("%d bytes of scratch", bytes), c: c,
			fault: func(_ *placed, e backend.Exec) func() { return f.Exhaust(e, bytes) }})
	}
	return append(list, spoilt{how: "cancelled", c: c, cancel: true})
}

// panicWeight is a weight whose memory is gone.
type panicWeight struct{ backend.Weight }

func (panicWeight) Unpack([]byte, int, int)            { panic("a weight that is gone") }
func (panicWeight) Tile([]float32, int, int, int, int) { panic("a weight that is gone") }

// checkPanics spoils every operation and runs all after each.
func checkPanics(b backend.Backend, f Faults) error {
	clean := map[backend.Op]*testCase{}
	var ops []backend.Op
	for _, c := range table() {
		if clean[c.op] == nil && b.Supports(c.op) == nil && harmless(c) {
			clean[c.op] = c
			ops = append(ops, c.op)
		}
	}
	e, err := b.NewExec()
	if err != nil {
		return err
	}
	defer e.Close()
	next := 0
	for _, op := range ops {
		panics := 0
		for _, s := range spoilings(b, clean[op], f) {
			// All others after each; with -short some, which differ from one to the next.
			for i, other := range ops {
				if testing.Short() && other != op && (i+next)%9 != 0 {
					continue
				}
				n, err := s.then(b, e, clean[other])
				if err != nil {
					return fmt.Errorf("contract: %v %q after %v %q, %s: %w", other, clean[other].name, op, s.c.name, s.how, err)
				}
				panics += n
			}
			if _, err := check(b, clean[op]); err != nil {
				return fmt.Errorf("contract: %v on another Exec after %s: %w", op, s.how, err)
			}
			next++
		}
		if panics == 0 {
			return fmt.Errorf("contract: %v never panics", op)
		}
	}
	return nil
}

// harmless reports whether a case has rows, so that it can panic.
func harmless(c *testCase) bool {
	for _, o := range c.out {
		if o != nil && o.view.Shape.Elems() == 0 {
			return false
		}
	}
	return true
}

// then runs the spoilt case, and after it another, in the same step unless the first
// was cancelled. It returns the number of panics of the first.
func (s *spoilt) then(b backend.Backend, e backend.Exec, after *testCase) (panics int, err error) {
	bad, err := s.c.place(b)
	if err != nil {
		return 0, err
	}
	defer bad.free()
	good, err := after.place(b)
	if err != nil {
		return 0, err
	}
	defer good.free()
	clean := func() error {
		if fault := panicked(func() { good.run(e) }); fault != nil {
			return fmt.Errorf("panic: %v", fault)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = backend.Step(ctx, e, func() error {
		if s.cancel {
			stop := time.AfterFunc(20*time.Microsecond, cancel)
			defer stop.Stop()
		}
		panics = s.run(e, bad)
		if s.cancel {
			return nil
		}
		return clean()
	})
	if s.cancel { // it may have come too late
		panics++
		err = backend.Step(context.Background(), e, clean)
	}
	if err != nil {
		return panics, err
	}
	mem, err := good.download(b)
	if err != nil {
		return panics, err
	}
	outs, err := after.answer()
	if err != nil {
		return panics, err
	}
	_, err = after.compare(outs, mem)
	return panics, err
}

// run runs the spoilt case and reports whether it panicked, 1 or 0.
func (s *spoilt) run(e backend.Exec, p *placed) (panics int) {
	if s.change != nil {
		s.change(p)
	}
	if s.fault != nil {
		defer s.fault(p, e)()
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if panicked(func() { p.run(e) }) != nil {
		panics = 1
	}
	return panics
}
