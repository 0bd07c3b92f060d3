// Package config reads the settings of a command from YAML into a plain struct: unknown
// keys are errors, every key can be set alone by its dotted path, and all of them can be
// printed with what they mean. Fields have the tags `yaml:"name"` and `help:"meaning"`.
package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/herd-ml/herd/internal/vfs"
)

// MaxSize bounds a file of settings, in bytes.
const MaxSize = 1 << 20

// Decode reads YAML into the struct that v points to. Keys that are not there keep
// their value. name is for messages.
func Decode(data []byte, name string, v any) error {
	if len(data) > MaxSize {
		return fmt.Errorf("%s: %d bytes are too many for settings", name, len(data))
	}
	data = vfs.Lines(data)
	if strings.TrimSpace(string(data)) == "" {
		return fmt.Errorf("%s: is empty", name)
	}
	if err := yaml.UnmarshalWithOptions(data, v, yaml.Strict(), yaml.DisallowUnknownField()); err != nil {
		return fmt.Errorf("%s: %w", name, explain(err, data, v))
	}
	if err := checkWhole(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Set sets the key of a dotted path, "optimizer.lr", to a value written as in YAML; a
// list of texts may also be one or more of them with commas between.
func Set(v any, path, value string) error {
	field, err := find(reflect.ValueOf(v).Elem(), path)
	if err != nil {
		return err
	}
	if field.Kind() == reflect.String && !strings.HasPrefix(value, `"`) { // as it is: YAML would take parts for comments
		field.SetString(value)
		return nil
	}
	if field.Type() == reflect.TypeFor[[]string]() && !strings.HasPrefix(strings.TrimSpace(value), "[") {
		var list []string
		if value != "" {
			list = strings.Split(value, ",")
		}
		field.Set(reflect.ValueOf(list))
		return nil
	}
	fresh := reflect.New(field.Type()) // a list is replaced, not added to
	if err := yaml.UnmarshalWithOptions([]byte(value), fresh.Interface(), yaml.Strict(), yaml.DisallowUnknownField()); err != nil || fraction(field.Type(), value) {
		return fmt.Errorf("%s is %s, want %s", path, short(value), describe(field.Type()))
	}
	field.Set(fresh.Elem())
	return nil
}

const wholeNumber = "a whole number"

// describe says what a field of a type takes.
func describe(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint64:
		return wholeNumber
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "keys with values"
	}
	return "a text"
}

// find is the field of a dotted path.
func find(v reflect.Value, path string) (reflect.Value, error) {
	rest := path
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, ".")
		if v.Kind() != reflect.Struct {
			return v, fmt.Errorf("unknown key %q", path)
		}
		found := false
		for i := range v.NumField() {
			if name := key(v.Type().Field(i)); name == part {
				v, found = v.Field(i), true
				break
			}
		}
		if !found {
			return v, fmt.Errorf("unknown key %q", path)
		}
	}
	return v, nil
}

// key is the name of a field in YAML, empty where it has none.
func key(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if name == "-" || !f.IsExported() {
		return ""
	}
	return name
}

// A Key is one setting.
type Key struct {
	Path  string // dotted
	Value string // as in YAML
	Kind  string // what it takes: text, number, list, or bool
	Help  string
}

// kinds are the names of what describe describes, as short as a flag's help wants them.
var kinds = map[string]string{wholeNumber: "number", "a number": "number", "true or false": "bool", "a list": "list", "a text": "text"}

// Keys lists every setting of a struct with its present value.
func Keys(v any) []Key {
	var list []Key
	walk(reflect.Indirect(reflect.ValueOf(v)), "", 0, func(depth int, k Key, group bool) {
		if !group {
			list = append(list, k)
		}
	})
	return list
}

// Print writes every setting of a struct as YAML, with its meaning.
func Print(w io.Writer, v any) error {
	var out strings.Builder
	walk(reflect.Indirect(reflect.ValueOf(v)), "", 0, func(depth int, k Key, group bool) {
		name := k.Path[strings.LastIndexByte(k.Path, '.')+1:]
		line := strings.Repeat("  ", depth) + name + ":"
		if !group {
			line += " " + k.Value
		}
		if k.Help != "" {
			line = fmt.Sprintf("%-36s # %s", line, k.Help)
		}
		if group && depth == 0 {
			out.WriteByte('\n')
		}
		out.WriteString(line + "\n")
	})
	_, err := io.WriteString(w, strings.TrimPrefix(out.String(), "\n"))
	return err
}

func walk(v reflect.Value, prefix string, depth int, visit func(depth int, k Key, group bool)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := key(f)
		if name == "" {
			continue
		}
		k, field := Key{Path: prefix + name, Kind: kinds[describe(f.Type)], Help: f.Tag.Get("help")}, v.Field(i)
		_, text := field.Interface().(encoding.TextMarshaler)
		if field.Kind() == reflect.Struct && !text {
			visit(depth, k, true)
			walk(field, k.Path+".", depth+1, visit)
			continue
		}
		k.Value = value(field)
		visit(depth, k, false)
	}
}

// value writes a field on one line.
func value(v reflect.Value) string {
	if v.Kind() == reflect.Slice && v.Len() == 0 {
		return "[]"
	}
	b, err := yaml.MarshalWithOptions(v.Interface(), yaml.Flow(true))
	if s, ok := v.Interface().(string); ok && strings.Contains(s, "\n") {
		b, err = json.Marshal(s) // which YAML reads too
	}
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}
