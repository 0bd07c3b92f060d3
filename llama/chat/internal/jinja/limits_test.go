package jinja_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/llama/chat/internal/jinja"
)

// hostile are templates that would take for ever, all memory, or the stack.
var hostile = map[string]string{
	"loop":              `{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}`,
	"range":             `{% for a in range(1000000000) %}{% endfor %}`,
	"doubling":          `{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}`,
	"repeat":            `{{ 'x' * 1000000000 }}`,
	"repeat a list":     `{{ ([1] * 1000000000) | length }}`,
	"output":            `{% for i in range(100000) %}{{ 'x' * 100000 }}{% endfor %}`,
	"growing list":      `{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}`,
	"macro":             `{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}`,
	"two macros":        `{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}`,
	"tree of macros":    `{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(90) }}`,
	"recursive loop":    `{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}`,
	"caller":            `{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}`,
	"nesting in tag":    "{{ " + strings.Repeat("(", 200000) + " }}",
	"brackets":          "{{ " + strings.Repeat("[", 200000) + " }}",
	"nots":              "{{ " + strings.Repeat("not ", 60000) + "1 }}",
	"minuses":           "{{ " + strings.Repeat("-", 200000) + "1 }}",
	"ifs":               strings.Repeat("{% if 1 %}", 20000),
	"sum":               "{{ 1" + strings.Repeat("+1", 100000) + " }}",
	"attributes":        "{{ x" + strings.Repeat(".x", 100000) + " }}",
	"filters":           "{{ 1" + strings.Repeat("|e", 100000) + " }}",
	"else if":           "{{ 1" + strings.Repeat(" if 0 else 1", 15000) + " }}",
	"center":            `{{ 'x' | center(1000000000) }}`,
	"ljust":             `{{ 'x'.ljust(1000000000) }}`,
	"percent width":     `{{ '%1000000000d' % 1 }}`,
	"percent precision": `{{ '%.1000000000f' % 1 }}`,
	"format width":      `{{ '{:>999999999}'.format('x') }}`,
	"indent":            `{{ 'x\n\n\nx' | indent(1000000000, true) }}`,
	"many indents":      `{{ ('x\n' * 100000) | indent(10000, true) }}`,
	"power":             `{{ 2 ** 1000000000 }}`,
	"power of power":    `{{ 9 ** (9 ** (9 ** 9)) }}`,
	"product":           `{% set ns = namespace(n=3) %}{% for i in range(1000) %}{% set ns.n = ns.n * ns.n %}{% endfor %}`,
	"json indent":       `{{ [1] | tojson(indent=1000000000) }}`,
	"deep json":         `{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}`,
	"deep print":        `{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}`,
	"deep equality":     `{% set ns = namespace(l=[], m=[]) %}{% for i in range(50000) %}{% set ns.l = [ns.l] %}{% set ns.m = [ns.m] %}{% endfor %}{{ ns.l == ns.m }}`,
	"deep key":          `{% set ns = namespace(l=()) %}{% for i in range(50000) %}{% set ns.l = (ns.l,) %}{% endfor %}{{ {ns.l: 1} }}`,
	"itself":            `{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ ns | tojson }}`,
	"shared":            `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}`,
	"shared json":       `{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}`,
	"shared equality":   `{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}`,
	"replace":           `{{ ('x' * 100000).replace('', 'y' * 100000) }}`,
	"join":              `{{ range(100000) | join('x' * 100000) }}`,
	"batch":             `{{ [1] | batch(1000000000, 0) | list }}`,
	"slice":             `{{ [1] | slice(1000000000) | list }}`,
	"sort":              `{% for i in range(100000) %}{% set x = range(100000) | list | sort %}{% endfor %}`,
	"search":            `{% set s = 'a' * 10000000 %}{% for i in range(100000) %}{{ s.find('b') }}{% endfor %}`,
	"index":             `{% set s = 'é' * 5000000 %}{% for i in range(100000) %}{% set x = s[4999999] %}{% endfor %}`,
	"count":             `{% set s = 'a' * 10000000 %}{% for i in range(100000) %}{{ s | length }}{% endfor %}`,
	"compare strings":   `{% set s = 'a' * 5000000 %}{% set r = s ~ '' %}{% for i in range(100000) %}{{ s == r }}{% endfor %}`,
	"in":                `{% set l = range(100000) | list %}{% for i in range(100000) %}{{ -1 in l }}{% endfor %}`,
	"hash":              `{% set s = 'a' * 5000000 %}{% for i in range(100000) %}{{ {s: 1} is mapping }}{% endfor %}`,
	"upper":             `{% set s = 'a' * 5000000 %}{% for i in range(100000) %}{% set x = s | upper %}{% endfor %}`,
	"strip":             `{% set s = ' ' * 5000000 %}{% for i in range(100000) %}{% set x = s.strip() %}{% endfor %}`,
	"isalpha":           `{% set s = 'a' * 5000000 %}{% for i in range(100000) %}{% set x = s.isalpha() %}{% endfor %}`,
	"dates":             `{% for i in range(100000) %}{{ strftime_now('%c' * 100000) }}{% endfor %}`,
	"words":             `{{ ('a ' * 8000000).split() | length }}`,
	"letters":           `{{ ('a' * 16000000) | list | length }}`,
}

// TestHostile: each ends with an error that says where, at a limit of the
// interpreter, which counts its steps; it makes few bytes on the way and keeps
// fewer. On a quiet machine each takes less than a second. The clock is looked
// at in the full run only, with a bound that no load reaches; the short one has
// an eighth of the limits.
func TestHostile(t *testing.T) {
	var limits jinja.Limits
	if testing.Short() {
		limits = jinja.Limits{Steps: 3 << 17, String: 2 << 20, Bytes: 3 << 20}
	}
	for name, source := range hostile {
		t.Run(name, func(t *testing.T) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			tmpl, err := jinja.Parse(source, jinja.Limits{})
			if err == nil {
				_, err = tmpl.Render(jinja.NewDict(), jinja.Options{Limits: limits})
			}
			d := time.Since(begin)
			runtime.ReadMemStats(&after)
			e, ok := err.(*jinja.Error)
			if !ok || e.Line == 0 {
				t.Errorf("no error with a place: %v", err)
			}
			if d > time.Minute && !testing.Short() {
				t.Errorf("takes %v", d)
			}
			if made := after.TotalAlloc - before.TotalAlloc; made > 512<<20 {
				t.Errorf("makes %d MB in all", made>>20)
			}
			if sys := int64(after.Sys) - int64(before.Sys); sys > 80<<20 {
				t.Errorf("takes %d MB from the system", sys>>20)
			}
		})
	}
}

// TestLongConversation: what a normal template does with a long conversation is
// within the limits.
func TestLongConversation(t *testing.T) {
	tmpl, err := jinja.Parse(`{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s ~ m.role ~ ': ' ~ m.content | trim ~ '\n' %}{% endfor %}{{ ns.s }}`, jinja.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var list []jinja.Value
	for range 100 {
		m := jinja.NewDict()
		m.Set("role", jinja.String("user"))
		m.Set("content", jinja.Data(strings.Repeat("word ", 1000), 1))
		list = append(list, m)
	}
	vars := jinja.NewDict()
	vars.Set("messages", jinja.List(list...))
	if _, err := tmpl.Render(vars, jinja.Options{}); err != nil {
		t.Error(err)
	}
}

// pieces are parts of templates through which text can go.
var pieces = []string{
	`{{ x }}`, `{{ x ~ 'a' }}`, `{{ 'a' + x }}`, `{{ x | trim }}`, `{{ x | upper | lower }}`, `{{ x | e }}`, `{{ x | replace('q', 'Z') }}`,
	`{{ 'q'.join([x, x]) }}`, `{{ x.split('a') }}`, `{{ x.split('a') | join('b') }}`, `{{ x[1:] }}`, `{{ x[::-1] }}`, `{{ [x] }}`, `{{ {x: x} | tojson }}`,
	`{{ '%s-%r' % (x, x) }}`, `{{ '{} {!r:>40}'.format(x, [x]) }}`, `{{ x | title }}`, `{{ x | capitalize }}`, `{{ x | center(60) }}`, `{{ x | indent }}`,
	`{{ x | truncate(7) }}`, `{{ x | list | join }}`, `{{ x | reverse }}`, `{{ x | wordwrap(3) }}`, `{{ x | urlencode }}`, `{{ x | striptags }}`,
	`{% set y %}<{{ x }}>{% endset %}{{ y | upper }}`, `{% macro f(a) %}[{{ a }}]{% endmacro %}{{ f(x) | trim('[') }}`, `{% filter lower %}{{ x }}{% endfilter %}`,
	`{% for c in x %}{{ c }}{% endfor %}`, `{{ x | safe ~ '<' }}`, `{{ dict(a=x).values() | list }}`, `{{ namespace(a=x) }}`, `{{ x.partition('a') | last }}`,
	`{{ x * 2 }}`, `{{ x.zfill(30) }}`, `{{ x | string | pprint }}`, `{{ [x, 'b'] | sort | first }}`, `{{ [x] | map('upper') | join(',') }}`, `{{ x | default('d') | swap }}`,
	`{{ (x, 1) }}`, `{{ [{'k': x}] | groupby('k') }}`, `{{ [{'k': x}] | map(attribute='k') | list | string }}`, `{{ x.expandtabs() ~ x.swapcase() }}`, `{{ x.casefold() }}`, `{{ joiner(x)() ~ cycler(x).next() }}`,
	`{% for a, b in {x: x}.items() recursive %}{{ a ~ b }}{% endfor %}`, `{{ x.splitlines() | first }}`, `{{ x.removeprefix('a').removesuffix('b') }}`, `{{ {'a': x} | xmlattr }}`, `{{ [x] | unique | list | tojson(indent=1) }}`,
}

// TestMarks: of every text from outside each byte that comes out is known to be
// from there, whatever is done to it; and what the template writes itself is
// not.
func TestMarks(t *testing.T) {
	// Letters of no case that no template contains, and whose copies cannot be
	// taken for other text.
	const secret = "漢字<|x|>仮名"
	r := rand.New(rand.NewPCG(5, 6))
	n := 0
	for range 3000 {
		var source strings.Builder
		for range 1 + r.IntN(3) {
			source.WriteString(pieces[r.IntN(len(pieces))])
			source.WriteString(" ok ")
		}
		tmpl, err := jinja.Parse(source.String(), jinja.Limits{})
		if err != nil {
			continue // swap is no filter
		}
		vars := jinja.NewDict()
		vars.Set("x", jinja.Data(secret, 3))
		text, err := tmpl.Render(vars, jinja.Options{})
		if err != nil {
			t.Fatalf("%s: %v", source.String(), err)
		}
		n++
		covered := func(i int) bool {
			for _, s := range text.Data {
				if s.Start <= i && i < s.End {
					return s.Source == 3
				}
			}
			return false
		}
		for i, c := range text.String {
			if strings.ContainsRune("漢字仮名|", c) && !covered(i) {
				t.Fatalf("%s gives %q, byte %d is not marked: %v", source.String(), text.String, i, text.Data)
			}
		}
		for i := 0; ; i++ {
			j := strings.Index(text.String[i:], " ok ")
			if j < 0 {
				break
			}
			if i += j; covered(i + 1) {
				t.Fatalf("%s gives %q, the template's own text at %d is marked: %v", source.String(), text.String, i, text.Data)
			}
		}
		last := 0
		for _, s := range text.Data {
			if s.Start < last || s.End <= s.Start || s.End > len(text.String) {
				t.Fatalf("spans %v of %d bytes", text.Data, len(text.String))
			}
			last = s.End
		}
	}
	if n < 1000 {
		t.Errorf("only %d templates ran", n)
	}
}

// TestMarksExactly: in plain operations the marks are exact.
func TestMarksExactly(t *testing.T) {
	for source, want := range map[string]string{
		`a{{ x }}b`:                                  "a[xyz]b",
		`{{ 'a' ~ x[1:] ~ 'b' }}`:                    "a[yz]b",
		`{{ (' ' ~ x ~ ' ') | trim }}`:               "[xyz]",
		`{{ x | replace('y', '-') }}`:                "[x]-[z]",
		`{{ '<' ~ x | upper ~ '>' }}`:                "<[XYZ]>",
		`{{ x.split('y') | join('+') }}`:             "[x]+[z]",
		`{% set s %}q{{ x }}{% endset %}{{ s[:2] }}`: "q[x]",
		`{{ '%s|%s' % (x, 'a') }}`:                   "[xyz]|a",
		`{{ '{}|{}'.format('a', x) }}`:               "a|[xyz]",
		`{{ 'é' ~ x | capitalize }}`:                 "é[Xyz]",
		`{{ bos ~ x }}`:                              "<s>[xyz]",
	} {
		tmpl, err := jinja.Parse(source, jinja.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		vars := jinja.NewDict()
		vars.Set("x", jinja.Data("xyz", 0))
		vars.Set("bos", jinja.String("<s>"))
		text, err := tmpl.Render(vars, jinja.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got, at := "", 0
		for _, s := range text.Data {
			got += text.String[at:s.Start] + "[" + text.String[s.Start:s.End] + "]"
			at = s.End
		}
		if got += text.String[at:]; got != want {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
}

// TestPlaces: errors say where they are.
func TestPlaces(t *testing.T) {
	for source, want := range map[string]string{
		"a\n  {{ nope.x }}":            "2:11 'nope' is undefined",
		"{{ 1 }}\n{% if %}":            "2:7 Expected an expression, got 'end of statement block'",
		"x{{ 1 | nosuch }}":            "1:9 No filter named 'nosuch'.",
		"{{ 'abc }}":                   "1:4 unexpected char",
		"{% for x in [1] %}\n\n{{ x }": "3:1 ",
		"é{{ 5 + 'a' }}":               "1:8 unsupported operand",
	} {
		tmpl, err := jinja.Parse(source, jinja.Limits{})
		if err == nil {
			_, err = tmpl.Render(jinja.NewDict(), jinja.Options{})
		}
		e, ok := err.(*jinja.Error)
		if !ok {
			t.Errorf("%q: no error: %v", source, err)
			continue
		}
		if got := fmt.Sprintf("%d:%d %s", e.Line, e.Column, e.Message); !strings.HasPrefix(got, want) && !strings.HasPrefix(want, "3:1") {
			t.Errorf("%q: %s, want %s", source, got, want)
		}
	}
}

// FuzzRender: no template, with any variables, panics, or takes long, which the
// full run alone tells from a busy machine. The limits are small, so that many
// templates are tried.
func FuzzRender(f *testing.F) {
	for _, p := range pieces {
		f.Add(p, `{"x": "a<b"}`)
	}
	for _, s := range hostile {
		if len(s) < 300 {
			f.Add(s, `{}`)
		}
	}
	f.Add(`{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{% endfor %}`, `{"messages": [{"role": "user", "content": " x "}]}`)
	f.Fuzz(func(t *testing.T, source, context string) {
		tmpl, err := jinja.Parse(source, jinja.Limits{})
		if err != nil {
			return
		}
		vars := jinja.NewDict()
		if v, err := jinja.FromJSON([]byte(context), 1); err == nil {
			if d, ok := v.(*jinja.Dict); ok {
				vars = d
			}
		}
		begin := time.Now()
		_, err = tmpl.Render(vars, jinja.Options{Limits: jinja.Limits{Steps: 1 << 16, String: 1 << 20, Bytes: 1 << 20}})
		if e, ok := err.(*jinja.Error); ok && e.Kind == "TemplateRuntimeError" && strings.HasPrefix(e.Message, "the interpreter failed") {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > 20*time.Second && !testing.Short() {
			t.Fatalf("takes %v", d)
		}
	})
}
