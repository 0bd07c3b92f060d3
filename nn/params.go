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
	w := walker{seen: map[*tensor.Param]bool{}}
	w.walk(reflect.ValueOf(model), "")
	return w.list
}

var paramType = reflect.TypeFor[*tensor.Param]()

type walker struct {
	list []Named
	seen map[*tensor.Param]bool
}

func (w *walker) walk(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		if v.Type() == paramType {
			p := (*tensor.Param)(v.UnsafePointer()) // of an unexported field too
			if !w.seen[p] {
				w.seen[p] = true
				w.list = append(w.list, Named{name, p})
			}
			return
		}
		w.walk(v.Elem(), name)
	case reflect.Slice:
		for i := range v.Len() {
			w.walk(v.Index(i), join(name, strconv.Itoa(i)))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if tag, ok := v.Type().Field(i).Tag.Lookup("name"); ok {
				w.walk(v.Field(i), join(name, tag))
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
