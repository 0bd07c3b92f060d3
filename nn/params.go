package nn

import (
	"reflect"
	"strconv"

	"github.com/herd-ml/herd/tensor"
)

// Named is a parameter and its dotted name, "layers.0.mlp.up_proj.weight".
type Named struct {
	Name  string
	Param *tensor.Param
}

// Params lists the parameters of a layer, or of a struct of layers, in the
// order of the fields. Names are made of the `name` tags and of indices into
// slices; fields without a tag are not looked at. A parameter that is shared
// (tied embeddings) appears once, under its first name.
func Params(model any) []Named {
	var list []Named
	seen := map[*tensor.Param]bool{}
	walk(reflect.ValueOf(model), "", paramType, func(v reflect.Value, name string) {
		p := (*tensor.Param)(v.UnsafePointer()) // of an unexported field too
		if !seen[p] {
			seen[p] = true
			list = append(list, Named{name, p})
		}
	})
	return list
}

// NamedLinear is a linear layer and its dotted name, "layers.0.mlp.up_proj".
type NamedLinear struct {
	Name   string
	Linear *Linear
}

// Linears lists the linear layers of a struct of layers, as Params does: those
// that adapters go on.
func Linears(model any) []NamedLinear {
	var list []NamedLinear
	walk(reflect.ValueOf(model), "", linearType, func(v reflect.Value, name string) {
		list = append(list, NamedLinear{name, (*Linear)(v.UnsafePointer())})
	})
	return list
}

var (
	paramType  = reflect.TypeFor[*tensor.Param]()
	linearType = reflect.TypeFor[*Linear]()
)

// walk finds pointers of one type in tagged fields, and does not look into them.
func walk(v reflect.Value, name string, t reflect.Type, found func(v reflect.Value, name string)) {
	switch v.Kind() {
	case reflect.Pointer:
		switch {
		case v.IsNil():
		case v.Type() == t:
			found(v, name)
		default:
			walk(v.Elem(), name, t, found)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), join(name, strconv.Itoa(i)), t, found)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if tag, ok := v.Type().Field(i).Tag.Lookup("name"); ok {
				walk(v.Field(i), join(name, tag), t, found)
			}
		}
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "." + b
}
