package llama

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
)

// limit is how many positions a model that is opened with options can run, and what bounds
// them; 0 is any number.
func (o Options) limit(c Config) (positions int, why string) {
	if c.SlidingWindow > 0 {
		return c.SlidingWindow, fmt.Sprintf("attention sees the last %d positions only: take a context of at most as many", c.SlidingWindow)
	}
	if s := c.RopeScaling; s.Type == "longrope" && o.context(c, 0) <= s.OriginalContext {
		return s.OriginalContext, fmt.Sprintf("longrope has other factors beyond %d positions: open the model with a larger Options.Context", s.OriginalContext)
	}
	return 0, ""
}

// checkContext refuses contexts that the model cannot run exactly.
func (o Options) checkContext(c Config, positions int) error {
	if limit, why := o.limit(c); limit > 0 && positions > limit {
		return fmt.Errorf("llama: a context of %d positions is %w: %s", positions, ErrUnsupported, why)
	}
	return nil
}

// checkLayout is checkContext of the positions of a step.
func (m *Model) checkLayout(l *backend.Layout) error {
	if limit, _ := m.opts.limit(m.config); limit == 0 {
		return nil
	}
	last := int32(-1)
	for _, p := range l.Pos {
		last = max(last, p)
	}
	return m.opts.checkContext(m.config, int(last)+1)
}
