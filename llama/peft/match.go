package peft

import (
	"fmt"
	"math"
	"regexp"
	"strings"
)

// matcher answers what a configuration says about layers.
type matcher struct {
	c       *Config
	targets map[string]bool // names
	pattern *regexp.Regexp  // of whole names, or nil
	ranks   []override
	alphas  []override
}

type override struct {
	name    string         // one without special characters but dots
	pattern *regexp.Regexp // or this
	value   float64
}

// newMatcher compiles the patterns. Python's are RE2's but for backreferences and
// looking around, which are refused, and so is counted repetition, which can
// make a short pattern huge.
func newMatcher(c *Config) (*matcher, error) {
	m := &matcher{c: c, targets: map[string]bool{}}
	for _, t := range c.Targets {
		m.targets[t] = true
	}
	var err error
	if c.TargetPattern != "" && !strings.EqualFold(c.TargetPattern, allLinear) {
		if m.pattern, err = compile("target_modules", "^(?:", c.TargetPattern, ")$"); err != nil {
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

func compile(key, before, pattern, after string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("%s has a pattern of %d bytes, want at most %d", key, len(pattern), maxPattern)
	}
	if strings.Contains(pattern, "{") {
		return nil, fmt.Errorf("%s has the pattern %q: counted repetition is not supported", key, pattern)
	}
	r, err := regexp.Compile(before + pattern + after)
	if err != nil {
		return nil, fmt.Errorf("%s has the pattern %q, which is not supported: %w", key, pattern, err)
	}
	return r, nil
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
		r, err := compile(key, `^(?:.*\.)?(?:`, o.Pattern, ")$")
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
		return m.pattern.MatchString(name)
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

// lookup is the value of the first override that matches, or other.
func lookup(list []override, name string, other float64) float64 {
	for _, o := range list {
		if o.pattern == nil && o.matches(name) || o.pattern != nil && o.pattern.MatchString(name) {
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

func (m *matcher) rank(name string) int { return int(lookup(m.ranks, name, float64(m.c.Rank))) }

func (m *matcher) scale(name string) float64 {
	r, alpha := float64(m.rank(name)), lookup(m.alphas, name, m.c.Alpha)
	if m.c.RSLoRA {
		return alpha / math.Sqrt(r)
	}
	return alpha / r
}

// Layer says whether the layer of a name has an adapter by target_modules, of
// which rank, and the factor of its B A.
func (c Config) Layer(name string) (target bool, rank int, scale float64) {
	m, err := newMatcher(&c)
	if err != nil {
		return false, 0, 0
	}
	return m.target(name), m.rank(name), m.scale(name)
}
