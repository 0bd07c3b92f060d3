package jinja

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"sort"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/herd-ml/herd/internal/jsontext"
)

// maxJSON bounds the nesting of JSON.
const maxJSON = 200

// FromJSON reads a value as Python's json.loads does. Its strings, keys too,
// are Data of source.
func FromJSON(b []byte, source int) (Value, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := readJSON(d, source, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err == nil {
		return nil, fmt.Errorf("more than one JSON value, at byte %d", d.InputOffset())
	}
	return v, nil
}

func readJSON(d *json.Decoder, source, depth int) (Value, error) {
	if depth > maxJSON {
		return nil, fmt.Errorf("JSON nested deeper than %d, at byte %d", maxJSON, d.InputOffset())
	}
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON at byte %d: %w", d.InputOffset(), jsontext.Explain(err))
	}
	switch t := t.(type) {
	case nil:
		return none{}, nil
	case bool:
		return t, nil
	case string:
		return Data(t, source), nil
	case json.Number:
		return jsonNumber(string(t)), nil
	case json.Delim:
		if t == '[' {
			l := &list{kind: "list"}
			for d.More() {
				v, err := readJSON(d, source, depth+1)
				if err != nil {
					return nil, err
				}
				l.items = append(l.items, v)
			}
			_, err := d.Token()
			return l, err
		}
		o := NewDict()
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, fmt.Errorf("JSON at byte %d: %w", d.InputOffset(), jsontext.Explain(err))
			}
			v, err := readJSON(d, source, depth+1)
			if err != nil {
				return nil, err
			}
			o.set(Data(key.(string), source), v)
		}
		_, err := d.Token()
		return o, err
	}
	return nil, fmt.Errorf("JSON at byte %d: unexpected %v", d.InputOffset(), t)
}

// jsonNumber tells ints and floats apart as Python does.
func jsonNumber(s string) Value {
	if strings.ContainsAny(s, ".eE") {
		f, _ := strconv.ParseFloat(s, 64) // out of range is infinite
		return f
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return i
	}
	if len(s) > 1200 { // more digits than an integer may have here
		f, _ := strconv.ParseFloat(s, 64)
		return f
	}
	i, _ := new(big.Int).SetString(s, 10)
	return i
}

// ToJSON writes a value as json.dumps with ensure_ascii=False does: on one line
// for an indent below 0.
func ToJSON(v Value, indent int) (s string, err error) {
	defer func() {
		if e, ok := recover().(*Error); ok {
			s, err = "", e
		} else if e != nil {
			panic(e)
		}
	}()
	w := jsonWriter{in: &interp{limits: Limits{Steps: math.MaxInt, String: math.MaxInt, Bytes: math.MaxInt}}, item: ", ", key: ": "}
	if indent >= 0 {
		w.item, w.pretty, w.indent = ",", true, strings.Repeat(" ", min(indent, maxIndent))
	}
	w.write(v, 0)
	return w.b.String(), nil
}

// maxIndent bounds the indent of JSON.
const maxIndent = 1 << 8

// jsonWriter is json.dumps.
type jsonWriter struct {
	in        *interp
	b         strings.Builder
	item, key string // separators
	indent    string
	pretty    bool // each item on its own line
	ascii     bool
	sort      bool
}

func (w *jsonWriter) line(depth int) {
	if w.pretty {
		w.b.WriteByte('\n')
		for range depth {
			w.b.WriteString(w.indent)
		}
	}
}

func (w *jsonWriter) write(v Value, depth int) {
	w.in.step(1)
	w.in.into()
	defer w.in.outOf()
	if w.b.Len() > w.in.limits.String {
		w.in.tooLong()
	}
	switch v := v.(type) {
	case none:
		w.b.WriteString("null")
	case bool:
		w.b.WriteString(strconv.FormatBool(v))
	case float64:
		w.b.WriteString(jsonFloat(v))
	case int64, *big.Int:
		w.b.WriteString(scalar(v))
	case Str:
		w.text(v.s)
	case *list:
		if v.kind != "list" && v.kind != "tuple" {
			fail(typeError, "Object of type %s is not JSON serializable", v.kind)
		}
		if len(v.items) == 0 {
			w.b.WriteString("[]")
			return
		}
		for i, item := range v.items {
			w.b.WriteString(map[bool]string{true: "[", false: w.item}[i == 0])
			w.line(depth + 1)
			w.write(item, depth+1)
		}
		w.line(depth)
		w.b.WriteByte(']')
	case *Dict:
		w.dict(v, depth)
	default:
		fail(typeError, "Object of type %s is not JSON serializable", typeName(v))
	}
}

func (w *jsonWriter) dict(d *Dict, depth int) {
	if len(d.keys) == 0 {
		w.b.WriteString("{}")
		return
	}
	order := make([]int, len(d.keys))
	for i := range order {
		order[i] = i
	}
	if w.sort {
		sort.SliceStable(order, func(i, j int) bool { return w.in.compare("<", d.keys[order[i]], d.keys[order[j]]) < 0 })
	}
	for n, i := range order {
		w.b.WriteString(map[bool]string{true: "{", false: w.item}[n == 0])
		w.line(depth + 1)
		switch k := d.keys[i].(type) {
		case Str:
			w.text(k.s)
		case none:
			w.text("null")
		case bool:
			w.text(strconv.FormatBool(k))
		case float64:
			w.text(jsonFloat(k))
		case int64, *big.Int:
			w.text(scalar(k))
		default:
			fail(typeError, "keys must be str, int, float, bool or None, not %s", typeName(k))
		}
		w.b.WriteString(w.key)
		w.write(d.values[i], depth+1)
	}
	w.line(depth)
	w.b.WriteByte('}')
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return pyFloat(f)
}

func (w *jsonWriter) text(s string) {
	w.in.made(len(s) + 2)
	w.b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.b.WriteByte('\\')
			w.b.WriteRune(r)
		case r == '\n':
			w.b.WriteString(`\n`)
		case r == '\r':
			w.b.WriteString(`\r`)
		case r == '\t':
			w.b.WriteString(`\t`)
		case r == '\b':
			w.b.WriteString(`\b`)
		case r == '\f':
			w.b.WriteString(`\f`)
		case r < 0x20 || w.ascii && r >= 0x7f && r < 0x10000:
			fmt.Fprintf(&w.b, `\u%04x`, r)
		case w.ascii && r >= 0x10000:
			a, b := utf16.EncodeRune(r)
			fmt.Fprintf(&w.b, `\u%04x\u%04x`, a, b)
		default:
			w.b.WriteRune(r)
		}
	}
	w.b.WriteByte('"')
}

func filterToJSON(in *interp, v Value, a args) Value {
	b := in.bind("tojson", a, "ensure_ascii", "indent", "separators", "sort_keys")
	w := jsonWriter{in: in, item: ", ", key: ": ", ascii: truth(b.or(0, false)), sort: truth(b.or(3, false))}
	switch x := b.or(1, none{}).(type) {
	case none:
	case Str:
		w.indent, w.pretty, w.item = x.s, true, ","
	default:
		n := b.int(1, 0)
		if n > maxIndent {
			fail(limitError, "an indent of %d, at most %d are allowed", n, maxIndent)
		}
		w.indent, w.pretty, w.item = strings.Repeat(" ", int(max(n, 0))), true, ","
	}
	if s, isNone := b.or(2, none{}).(none); !isNone || s != (none{}) {
		pair := in.iterate(b.v[2])
		if len(pair) != 2 {
			fail(valueError, "not enough values to unpack (expected 2, got %d)", len(pair))
		}
		w.item, w.key = in.str(pair[0]).s, in.str(pair[1]).s
	}
	w.write(v, 0)
	in.made(w.b.Len())
	source, from := in.sourceOf(v)
	return marked(w.b.String(), source, from)
}
