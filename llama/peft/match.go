package peft

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/dlclark/regexp2"

	"github.com/herd-ml/herd/internal/vfs"
)

// matcher answers what a configuration says about layers.
type matcher struct {
	c       *Config
	targets map[string]bool // names
	pattern *pattern        // of whole names, or nil
	ranks   []override
	alphas  []override
	left    time.Duration // for matches that backtrack
	err     error         // of the first that took too long
}

type override struct {
	name    string   // one without special characters but dots
	pattern *pattern // or this
	value   float64
}

// newMatcher compiles the patterns.
func newMatcher(c *Config) (*matcher, error) {
	m := &matcher{c: c, targets: map[string]bool{}, left: slowLimit}
	for _, t := range c.Targets {
		m.targets[t] = true
	}
	var err error
	if c.TargetPattern != "" && !strings.EqualFold(c.TargetPattern, allLinear) {
		if m.pattern, err = compile("target_modules", "", c.TargetPattern); err != nil {
			return nil, err
		}
	}
	if m.ranks, err = overrides("rank_pattern", c.Ranks); err != nil {
		return nil, err
	}
	m.alphas, err = overrides("alpha_pattern", c.Alphas)
	return m, err
}

// allLinear is PEFT's shorthand for every linear layer but the output.
const allLinear = "all-linear"

// A pattern is a regular expression for whole names. Go's own package matches it where it
// can: in time linear in the name. Expressions that look around, refer back, or count
// repetitions, which can make a short expression huge, go to a package that backtracks; it
// stops when it has taken too long.
type pattern struct {
	linear *regexp.Regexp
	slow   *regexp2.Regexp
	text   string
}

// slowLimit is how long all such matches of an adapter may take together: names have some
// 40 bytes, and a model a thousand.
const slowLimit = time.Second

func compile(key, before, text string) (*pattern, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("%s has a pattern of %d bytes, want at most %d", key, len(text), maxPattern)
	}
	whole := `\A` + before + "(?:" + text + `)\z`
	if !strings.Contains(text, "{") {
		if r, err := regexp.Compile(whole); err == nil {
			return &pattern{linear: r, text: text}, nil
		}
	}
	r, err := regexp2.Compile(whole, regexp2.RE2) // also Python's (?P<name>)
	if err != nil {
		return nil, fmt.Errorf("%s has the pattern %q, which is not supported: %w", key, vfs.Clip(text), err)
	}
	return &pattern{slow: r, text: text}, nil
}

// match reports whether a name matches, of which time is taken off what is left.
func (p *pattern) match(name string, left *time.Duration) (bool, error) {
	if p.linear != nil {
		return p.linear.MatchString(name), nil
	}
	start := time.Now()
	p.slow.MatchTimeout = max(*left, time.Millisecond)
	ok, err := p.slow.MatchString(name)
	if *left -= time.Since(start); err != nil || *left <= 0 {
		return false, fmt.Errorf("the pattern %q takes too long on %q", vfs.Clip(p.text), vfs.Clip(name))
	}
	return ok, nil
}

func overrides(key string, list []Override) ([]override, error) {
	var out []override
	patterns := 0
	for _, o := range list {
		if !strings.ContainsAny(o.Pattern, `\+*?()|[]{}^$`) {
			out = append(out, override{name: o.Pattern, value: o.Value})
			continue
		}
		if patterns++; patterns > maxPatterns {
			return nil, fmt.Errorf("%s has more than %d regular expressions", key, maxPatterns)
		}
		r, err := compile(key, `(?:.*\.)?`, o.Pattern)
		if err != nil {
			return nil, err
		}
		out = append(out, override{pattern: r, value: o.Value})
	}
	return out, nil
}

// target reports whether a layer may have an adapter.
func (m *matcher) target(name string) bool {
	switch {
	case m.pattern != nil:
		return m.match(m.pattern, name)
	case m.c.TargetPattern != "":
		return name != "lm_head"
	case m.c.Targets == nil:
		return true
	}
	for {
		if m.targets[name] {
			return true
		}
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return false
		}
		name = rest
	}
}

// match is pattern.match; after an error nothing matches.
func (m *matcher) match(p *pattern, name string) bool {
	if m.err != nil {
		return false
	}
	ok, err := p.match(name, &m.left)
	m.err = err
	return ok
}

// lookup is the value of the first override that matches, or other.
func (m *matcher) lookup(list []override, name string, other float64) float64 {
	for _, o := range list {
		if o.pattern == nil && o.matches(name) || o.pattern != nil && m.match(o.pattern, name) {
			return o.value
		}
	}
	return other
}

// matches compares a name, whose dots are any characters, with the end of
// another after a dot.
func (o *override) matches(name string) bool {
	from := len(name) - len(o.name)
	if from < 0 || from > 0 && name[from-1] != '.' {
		return false
	}
	for i := len(o.name) - 1; i >= 0; i-- {
		if o.name[i] != '.' && o.name[i] != name[from+i] {
			return false
		}
	}
	return true
}

func (m *matcher) rank(name string) int { return int(m.lookup(m.ranks, name, float64(m.c.Rank))) }

func (m *matcher) scale(name string) float64 {
	r, alpha := float64(m.rank(name)), m.lookup(m.alphas, name, m.c.Alpha)
	if m.c.RSLoRA {
		return alpha / math.Sqrt(r)
	}
	return alpha / r
}

// Layer says whether target_modules gives the layer of a name an adapter, of which rank
// that is, and by which factor its B A counts. A pattern that takes too long matches nothing;
// Validate cannot know.
func (c Config) Layer(name string) (target bool, rank int, scale float64) {
	m, err := newMatcher(&c)
	if err != nil {
		return false, 0, 0
	}
	return m.target(name), m.rank(name), m.scale(name)
}

// ends reports whether a name is another, or its end after a dot.
func ends(name, end string) bool {
	return name == end || strings.HasSuffix(name, "."+end)
}

// saves reports whether modules_to_save names a module or one that it is in.
func (c *Config) saves(module string) bool {
	for _, s := range c.ModulesToSave {
		if ends(module, s) || strings.Contains("."+module+".", "."+s+".") {
			return true
		}
	}
	return false
}

// tokens are the rows that come with the adapter of a module's matrix.
func (c *Config) tokens(module string) []int32 {
	for name, ids := range c.Tokens {
		if name == "" && ends(module, "embed_tokens") || name != "" && ends(module, name) {
			return ids
		}
	}
	return nil
}
