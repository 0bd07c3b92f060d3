package toolcall_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/herd-ml/herd/llama/chat/internal/toolcall"
)

// show writes a result on one line.
func show(visible string, calls []toolcall.Call, err error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", visible)
	for _, c := range calls {
		fmt.Fprintf(&b, " %s%s", c.Name, c.Arguments)
		if c.ID != "" {
			b.WriteString("#" + c.ID)
		}
	}
	var e *toolcall.Error
	if errors.As(err, &e) {
		fmt.Fprintf(&b, " ERR %d %q %s", e.Offset, e.Text, e.Reason)
	} else if err != nil {
		b.WriteString(" OTHER " + err.Error())
	}
	return b.String()
}

// cases are replies and what they hold. An error's reason is compared by its
// beginning.
var cases = []struct {
	name  string
	o     toolcall.Options
	reply string
	want  string
}{
	{"text", toolcall.Options{}, "Hello there.", `"Hello there."`},
	{"empty", toolcall.Options{}, "", `""`},
	{"json", toolcall.Options{}, `{"name": "f", "parameters": {"b": 1.50, "a": [1, {"c": null}]}}`, `"" f{"b": 1.50, "a": [1, {"c": null}]}`},
	{"json with arguments", toolcall.Options{}, "\n {\"name\": \"f\", \"arguments\": {}}\n", `"" f{}`},
	{"openai", toolcall.Options{}, `{"type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}, "id": "7"}`, `"" f{"a": 1}#7`},
	{"type first", toolcall.Options{}, `{"type": "function", "name": "f", "parameters": {"x": "}"}}`, `"" f{"x": "}"}`},
	{"function as name", toolcall.Options{}, `{"function": "f", "parameters": {}}`, `"" f{}`},
	{"several", toolcall.Options{}, `{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": 1}}`, `"" f{} g{"a": 1}`},
	{"lines", toolcall.Options{}, "{\"name\": \"f\", \"parameters\": {}}\n{\"name\": \"g\", \"parameters\": {}}\n", `"" f{} g{}`},
	{"array", toolcall.Options{}, `[{"name": "f", "parameters": {}}, {"name": "g", "arguments": {"q": "[{"}}]`, `"" f{} g{"q": "[{"}`},
	{"text after", toolcall.Options{}, `{"name": "f", "parameters": {}} That is it.`, `"That is it." f{}`},
	{"not offered", toolcall.Options{Names: []string{"g"}}, `{"name": "f", "parameters": {}}`, `"{\"name\": \"f\", \"parameters\": {}}"`},
	{"no parameters", toolcall.Options{Names: []string{"f"}}, `{"name": "f"}`, `"" f{}`},
	{"an answer in json", toolcall.Options{}, `{"city": "Paris"}`, `"{\"city\": \"Paris\"}"`},
	{"a name in json", toolcall.Options{}, `{"name": "Bob", "age": 3}`, `"{\"name\": \"Bob\", \"age\": 3}"`},
	{"a link", toolcall.Options{}, `[x](http://y) and [1] see`, `"[x](http://y) and [1] see"`},
	{"a comprehension", toolcall.Options{}, `[f(x) for x in y]`, `"[f(x) for x in y]"`},
	{"numbers", toolcall.Options{}, `[1, 2]`, `"[1, 2]"`},
	{"python", toolcall.Options{}, `[f(a=1, b="x\n", c=[1, {"k": None}], d=-2.5, e=True), g()]`, `"" f{"a": 1, "b": "x\n", "c": [1, {"k": null}], "d": -2.5, "e": true} g{}`},
	{"python literals", toolcall.Options{}, `[f(a='it\'s' "!", b=(1, 2), c=0x1F, d=1_000, e={1: 2, None: .5}, g="""a"b[""", h=12345678901234567890123)]`,
		`"" f{"a": "it's!", "b": [1, 2], "c": 31, "d": 1000, "e": {"1": 2, "null": 0.5}, "g": "a\"b[", "h": 12345678901234567890123}`},
	{"python offered", toolcall.Options{Names: []string{"get_x"}}, `[get_x(a="<b>")]`, `"" get_x{"a": "<b>"}`},
	{"python not offered", toolcall.Options{Names: []string{"g"}}, `[f(a=1)]`, `"[f(a=1)]"`},
	{"tag json", toolcall.Options{}, `<|python_tag|>{"name": "f", "parameters": {}}`, `"" f{}`},
	{"tag several", toolcall.Options{}, `<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}`, `"" f{} g{}`},
	{"tag builtin", toolcall.Options{Builtin: true}, `<|python_tag|>brave_search.call(query="llamas in \"Peru\"")`, `"" brave_search{"query": "llamas in \"Peru\""}`},
	{"tag code", toolcall.Options{Builtin: true}, "<|python_tag|>import os\nprint(os.name)", `"" code_interpreter{"code":"import os\nprint(os.name)"}`},
	{"tag code like a call", toolcall.Options{Builtin: true}, `<|python_tag|>print(end="x")`, `"" code_interpreter{"code":"print(end=\"x\")"}`},
	{"tag call", toolcall.Options{}, `<|python_tag|>f(a=1)`, `"" f{"a": 1}`},
	{"tag after text", toolcall.Options{}, `I look. <|python_tag|>f()`, `"I look. " f{}`},
	{"tag list", toolcall.Options{}, `<|python_tag|>[f(), g(a=1)]`, `"" f{} g{"a": 1}`},
	{"function", toolcall.Options{}, `Wait. <function=f>{"a": 1}</function><function=g>{}</function>`, `"Wait. " f{"a": 1} g{}`},
	{"function without end", toolcall.Options{}, `<function=f>{"a": 1}`, `"" f{"a": 1}`},
	{"hermes", toolcall.Options{}, "Sure.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>", `"Sure.\n" f{"a": 1} g{}`},
	{"hermes without end", toolcall.Options{}, `<tool_call>{"name": "f", "arguments": {}}`, `"" f{}`},
	{"hermes then text", toolcall.Options{}, `<tool_call>{"name": "f", "arguments": {}}</tool_call> done`, `"done" f{}`},
	{"mistral", toolcall.Options{}, `[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abc"}]`, `"" f{"a": 1}#abc`},
	{"mistral new", toolcall.Options{}, `[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}`, `"" f{"a": 1} g{}`},
	{"almost a wrapper", toolcall.Options{}, `a <tool_cal b [TOOL <function`, `"a <tool_cal b [TOOL <function"`},
	{"unknown in a wrapper", toolcall.Options{Names: []string{"g"}}, `<tool_call>{"name": "f", "arguments": {}}</tool_call>`, `"" f{}`},

	{"bad json", toolcall.Options{Names: []string{"f"}}, `{"name": "f", "parameters": {"a": }}`, `"{\"name\": \"f\", \"parameters\": {\"a\": }}" ERR 0 "{\"name\": \"f\", \"parameters\": {\"a\": }}" bad JSON`},
	{"cut json", toolcall.Options{}, `{"name": "f", "parameters": {"a": 1`, `"{\"name\": \"f\", \"parameters\": {\"a\": 1" ERR 0 "{\"name\": \"f\", \"parameters\": {\"a\": 1" it does not end`},
	{"second is bad", toolcall.Options{}, `{"name": "f", "parameters": {}}; {"name": "g", "parameters": 7}`, `"{\"name\": \"g\", \"parameters\": 7}" f{} ERR 33 "{\"name\": \"g\", \"parameters\": 7}" the arguments 7 are no object`},
	{"positional", toolcall.Options{Names: []string{"f"}}, `[f(1)]`, `"[f(1)]" ERR 0 "[f(1)]" want a name`},
	{"twice", toolcall.Options{Names: []string{"f"}}, `[f(a=1, a=2)]`, `"[f(a=1, a=2)]" ERR 0 "[f(a=1, a=2)]" the argument a is given twice`},
	{"name as value", toolcall.Options{Names: []string{"f"}}, `[f(a=b)]`, `"[f(a=b)]" ERR 0 "[f(a=b)]" b is no value`},
	{"infinite", toolcall.Options{Names: []string{"f"}}, `[f(a=1e999)]`, `"[f(a=1e999)]" ERR 0 "[f(a=1e999)]" 1e999 is no number`},
	{"bad builtin", toolcall.Options{Builtin: true}, `<|python_tag|>brave_search.call(query=`, `"<|python_tag|>brave_search.call(query=" ERR 0 "<|python_tag|>brave_search.call(query=" want a value`},
	{"tag and nothing", toolcall.Options{Builtin: true}, `x<|python_tag|>`, `"x<|python_tag|>" ERR 1 "<|python_tag|>" it is no call`},
	{"tag and text", toolcall.Options{}, `<|python_tag|>Hello you`, `"<|python_tag|>Hello you" ERR 0 "<|python_tag|>Hello you" want (`},
	{"bad wrapper", toolcall.Options{}, `a<tool_call>{"name": }</tool_call>b`, `"a<tool_call>{\"name\": }</tool_call>b" ERR 1 "<tool_call>{\"name\": }</tool_call>" bad JSON`},
	{"empty wrapper", toolcall.Options{}, `<tool_call>[]</tool_call>`, `"<tool_call>[]</tool_call>" ERR 0 "<tool_call>[]</tool_call>" it is no call`},
	{"no name", toolcall.Options{}, `<function=>{}</function>`, `"<function=>{}</function>" ERR 0 "<function=>{}</function>" the function has no name`},
	{"mistral bad", toolcall.Options{}, `[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{`, `"[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{" f{} ERR 0 "[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{" the arguments are no JSON object`},
}

func TestParse(t *testing.T) {
	for _, c := range cases {
		visible, calls, err := toolcall.Parse(c.reply, c.o)
		if got := show(visible, calls, err); got != c.want && !(err != nil && strings.HasPrefix(got, c.want)) {
			t.Errorf("%s: %s\n gives %s\n want  %s", c.name, c.reply, got, c.want)
		}
	}
}

// stream parses a reply in parts.
func stream(o toolcall.Options, parts []string) string {
	p := toolcall.New(o)
	var visible string
	var calls []toolcall.Call
	for _, part := range parts {
		v, c := p.Write(part)
		visible, calls = visible+v, append(calls, c...)
	}
	v, c, err := p.Close()
	return show(visible+v, append(calls, c...), err)
}

// TestStreaming: however a reply is cut, the result is that of the whole.
func TestStreaming(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range cases {
		whole := show(toolcall.Parse(c.reply, c.o))
		if got := stream(c.o, strings.Split(c.reply, "")); got != whole {
			t.Errorf("%s in characters: %s\n want %s", c.name, got, whole)
		}
		for range 30 {
			var parts []string
			for rest := c.reply; rest != ""; {
				n := min(1+r.IntN(9), len(rest))
				parts, rest = append(parts, rest[:n]), rest[n:]
			}
			if got := stream(c.o, parts); got != whole {
				t.Errorf("%s in %q: %s\n want %s", c.name, parts, got, whole)
			}
		}
	}
}

// TestEarly: text is shown at once, calls as soon as they are complete.
func TestEarly(t *testing.T) {
	p := toolcall.New(toolcall.Options{})
	if v, _ := p.Write("Hello <b"); v != "Hello <b" {
		t.Errorf("of text %q is shown", v)
	}
	if v, _ := p.Write(" <tool"); v != " " {
		t.Errorf("before a wrapper %q is shown", v)
	}
	if _, calls := p.Write(`_call>{"name": "f", "arguments": {}}</tool_call>`); len(calls) != 1 {
		t.Errorf("%d calls after the first wrapper", len(calls))
	}
	p = toolcall.New(toolcall.Options{})
	if _, calls := p.Write(`{"name": "f", "parameters": {}};`); len(calls) != 1 {
		t.Errorf("%d calls after the first object", len(calls))
	}
	p = toolcall.New(toolcall.Options{})
	if v, _ := p.Write(`{"c`); v != `{"c` {
		t.Errorf("of an object that is no call %q is shown", v)
	}
}

// TestHostile: long and deep replies cost work in proportion to their length.
// Work is bytes looked at and bytes of memory taken, so a copy of all that was
// read so far, for every part that is read, is found as well.
func TestHostile(t *testing.T) {
	for _, c := range []struct{ head, unit, end string }{
		{"", "[", ""}, {"", `{"name":`, ""}, {"", `[{"name":"f","parameters":{"a":`, ""}, {"", "<tool_call>", ""},
		{"", "<tool_call></tool_call>", ""}, {"", "[f(a=[", ""}, {"", `"""`, ""}, {"", "[TOOL_CALLS]", ""}, {"", " ", ""},
		{"", "<|python_tag|>", ""}, {"", "[f(a='''", ""}, {"", "<", ""}, {"x", "[", ""},
		{"", `{"name":"f","parameters":{}};`, ""}, {"<|python_tag|>", `{"name":"f","parameters":{}};`, ""},
		{"<|python_tag|>", "f(a=1);", ""}, {"[TOOL_CALLS]", "f[ARGS]{}[TOOL_CALLS]", ""},
		{"[f(a=", "'x' ", ")]"}, {"[f(a='", `\x41`, "')]"}, {"[f(a=[", "'x',", "])]"}, {"[f(a={", "'x':1,", "})]"},
		{"[", `{"name":"f","parameters":{}},`, `{"name":"f","parameters":{}}]`}, {`{"name":"f","parameters":{`, `"a":1,`, `"b":1}}`},
	} {
		for _, o := range []toolcall.Options{{}, {Builtin: true, Names: []string{"f"}}} {
			work := func(n int) (looked, taken int) {
				reply := c.head + strings.Repeat(c.unit, n/len(c.unit)) + c.end
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				p := toolcall.New(o)
				for rest := reply; rest != ""; {
					n := min(1000, len(rest))
					p.Write(rest[:n])
					rest = rest[n:]
				}
				p.Close()
				runtime.ReadMemStats(&after)
				return p.Looked(), int(after.TotalAlloc - before.TotalAlloc)
			}
			looked, taken := work(1 << 14)
			looked4, taken4 := work(1 << 16)
			if looked4 > 5*looked+1<<14 {
				t.Errorf("%q: %d bytes looked at, and %d in a reply four times as long", c.unit, looked, looked4)
			}
			if taken4 > 5*taken+1<<20 {
				t.Errorf("%q: %d bytes taken, and %d for a reply four times as long", c.unit, taken, taken4)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range cases {
		f.Add(c.reply, c.o.Builtin, strings.Join(c.o.Names, ","), uint64(len(c.reply)))
	}
	f.Fuzz(func(t *testing.T, reply string, builtin bool, names string, seed uint64) {
		o := toolcall.Options{Builtin: builtin}
		if names != "" {
			o.Names = strings.Split(names, ",")
		}
		visible, calls, err := toolcall.Parse(reply, o)
		for _, c := range calls {
			var object map[string]any
			if c.Name == "" || json.Unmarshal(c.Arguments, &object) != nil || object == nil {
				t.Fatalf("%q calls %+v", reply, c)
			}
		}
		whole := show(visible, calls, err)
		r := rand.New(rand.NewPCG(seed, 0))
		var parts []string
		for rest := reply; rest != ""; {
			n := min(1+r.IntN(7), len(rest))
			parts, rest = append(parts, rest[:n]), rest[n:]
		}
		if got := stream(o, parts); got != whole {
			t.Fatalf("%q gives %s, whole %s", parts, got, whole)
		}
	})
}
