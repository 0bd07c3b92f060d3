package backendtest

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
)

// checkScratch checks that operations take no more of the arena than Scratch says, nor much
// less.
func checkScratch(b backend.Backend, cs []*testCase) error {
	for _, c := range cs {
		if b.Supports(c.op) != nil {
			continue
		}
		said, took, err := c.scratch(b, false)
		if err != nil {
			return err
		}
		_, fits, err := c.scratch(b, true)
		if err != nil {
			return err
		}
		if fits > said || said > took*3/2+1<<16 {
			return fmt.Errorf("contract: %v %s takes %d bytes of the arena, %d where there is room, Scratch says %d", c.op, c.name, took, fits, said)
		}
	}
	return nil
}

// scratch is what a backend says of a case, and what the case takes: with room beforehand,
// so that there are no gaps in what the arena grew by, at least what was said.
func (c *testCase) scratch(b backend.Backend, room bool) (said, took int64, err error) {
	p, err := c.place(b)
	if err != nil {
		return 0, 0, err
	}
	defer p.free()
	e, err := b.NewExec()
	if err != nil {
		return 0, 0, err
	}
	defer e.Close()
	said = b.Scratch(c.op, &p.args)
	err = within(e, func() {
		if room {
			mark := e.Mark()
			e.Alloc(backend.I8, backend.Dims(int(said)))
			e.Release(mark)
		}
		p.run(e)
	})
	return said, e.Scratch(), err
}
