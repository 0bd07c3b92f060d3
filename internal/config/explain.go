package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// explain says what is wrong in a file of settings by line and key, for people who need
// not know what holds the settings here.
func explain(err error, data []byte, v any) error {
	var e yaml.Error
	if !errors.As(err, &e) || e.GetToken() == nil {
		return err
	}
	at := e.GetToken()
	line := fmt.Sprintf("line %d: ", at.Position.Line)
	path, value := "", ""
	each(data, func(p string, n *ast.MappingValueNode) {
		if tok := n.Value.GetToken(); len(p) > len(path) && at.Position.Offset >= tok.Position.Offset && within(n.Value, at.Position.Offset) {
			path, value = p, strings.TrimSpace(n.Value.String())
		}
	})
	var (
		unknown *yaml.UnknownFieldError
		syntax  *yaml.SyntaxError
	)
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%sunknown key %q", line, strings.TrimPrefix(path+"."+at.Value, "."))
	case errors.As(err, &syntax):
		return fmt.Errorf("%snot YAML: %s", line, e.GetMessage())
	case path == "":
		return fmt.Errorf("%swant keys with values, as %q", line, "steps: 100")
	}
	want := "a value of another kind"
	if field, err := find(reflect.ValueOf(v).Elem(), path); err == nil {
		want = describe(field.Type())
	}
	return fmt.Errorf("%s%s is %s, want %s", line, path, short(value), want)
}

// within says whether a place in the file lies in a node.
func within(n ast.Node, offset int) bool {
	last := 0
	ast.Walk(visitor(func(n ast.Node) {
		if t := n.GetToken(); t != nil {
			last = max(last, t.Position.Offset+len(t.Value))
		}
	}), n)
	return offset <= last
}

type visitor func(ast.Node)

// Visit implements ast.Visitor.
func (v visitor) Visit(n ast.Node) ast.Visitor {
	v(n)
	return v
}

// each visits the keys of a file of settings with their dotted paths. Of a text that is
// no YAML it visits none.
func each(data []byte, visit func(path string, n *ast.MappingValueNode)) {
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return
	}
	var walk func(prefix string, n ast.Node)
	walk = func(prefix string, n ast.Node) {
		switch n := n.(type) {
		case *ast.MappingNode:
			for _, m := range n.Values {
				walk(prefix, m)
			}
		case *ast.MappingValueNode:
			path := prefix + n.Key.GetToken().Value
			visit(path, n)
			walk(path+".", n.Value)
		}
	}
	for _, doc := range file.Docs {
		walk("", doc.Body)
	}
}

// checkWhole refuses fractions where whole numbers are wanted: the YAML library would
// cut them off.
func checkWhole(data []byte, v any) (err error) {
	each(data, func(path string, n *ast.MappingValueNode) {
		field, wrong := find(reflect.ValueOf(v).Elem(), path)
		if wrong != nil || err != nil || !fraction(field.Type(), n.Value.String()) {
			return
		}
		err = fmt.Errorf("line %d: %s is %s, want %s", n.Value.GetToken().Position.Line, path, short(n.Value.String()), describe(field.Type()))
	})
	return err
}

// fraction says whether a text is a number that a field of whole numbers cannot hold.
func fraction(t reflect.Type, text string) bool {
	if describe(t) != wholeNumber {
		return false
	}
	x, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return err == nil && x != math.Trunc(x)
}

// short is a value for a message.
func short(s string) string {
	const most = 60
	s = strings.ReplaceAll(s, "\n", " ")
	if len(s) > most {
		return strconv.Quote(s[:most] + "...")
	}
	return strconv.Quote(s)
}
