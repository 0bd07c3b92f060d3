package pth

import (
	"fmt"
	"math"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

// kind is an element type of storages.
type kind struct {
	name string // of torch's class, without the module
	size int64  // bytes of an element
	t    backend.DType
}

// kinds lists the storage classes; a type that is Invalid is listed, not read.
var kinds = []*kind{
	{"FloatStorage", 4, backend.F32}, {"HalfStorage", 2, backend.F16}, {"BFloat16Storage", 2, backend.BF16},
	{"CharStorage", 1, backend.I8}, {"IntStorage", 4, backend.I32},
	{"DoubleStorage", 8, backend.Invalid}, {"LongStorage", 8, backend.Invalid}, {"ShortStorage", 2, backend.Invalid},
	{"ByteStorage", 1, backend.Invalid}, {"BoolStorage", 1, backend.Invalid},
}

// The other names on the allow-list.
const (
	orderedDict      global = "collections OrderedDict"
	rebuildTensor    global = "torch._utils _rebuild_tensor_v2"
	rebuildParameter global = "torch._utils _rebuild_parameter"
	torchSize        global = "torch Size"
)

// storageKind returns the element type of a storage class.
func storageKind(g global) *kind {
	for _, k := range kinds {
		if string(g) == "torch "+k.name {
			return k
		}
	}
	return nil
}

// global pushes a name, given as two lines, if it is on the allow-list.
func (m *machine) global() error {
	var parts [2]string
	for i := range parts {
		n := strings.IndexByte(m.code[m.pos:], '\n')
		if n < 0 || n > 256 {
			return fmt.Errorf("name without an end")
		}
		parts[i] = m.code[m.pos : m.pos+n]
		m.pos += n + 1
	}
	g := global(parts[0] + " " + parts[1])
	switch g {
	case orderedDict, rebuildTensor, rebuildParameter, torchSize:
		return m.push(g)
	}
	if storageKind(g) == nil {
		return fmt.Errorf("the name %q is not allowed", parts[0]+"."+parts[1])
	}
	return m.push(g)
}

// persistent turns ('storage', class, key, location, numel) into a storage.
// The location, a device, says nothing about the data.
func (m *machine) persistent() error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	t, _ := v.(tuple)
	if len(t) != 5 || t[0] != "storage" {
		return fmt.Errorf("persistent id is not a storage of 5 fields")
	}
	class, _ := t[1].(global)
	k := storageKind(class)
	key, isKey := t[2].(string)
	_, isLocation := t[3].(string)
	numel, isInt := t[4].(int64)
	if k == nil || !isKey || !isLocation || !isInt || numel < 0 {
		return fmt.Errorf("persistent id has wrong fields: class %s, key %s, location %s, elements %s", typeName(t[1]), typeName(t[2]), typeName(t[3]), typeName(t[4]))
	}
	if key == "" || key == "." || key == ".." || strings.ContainsAny(key, "/\\:\x00") {
		return fmt.Errorf("storage key %q is not a plain name", vfs.Clip(key))
	}
	if numel > math.MaxInt64/k.size {
		return fmt.Errorf("storage %s of %d elements is too large", vfs.Clip(key), numel)
	}
	s := m.keys[key]
	if s == nil {
		s = &storage{key, k, numel}
		m.keys[key] = s
	}
	if s.kind != k || s.numel != numel {
		return fmt.Errorf("storage %s is both %d of %s and %d of %s", vfs.Clip(key), s.numel, s.kind.name, numel, k.name)
	}
	return m.push(s)
}

// reduce stands for the calls that build a state dict.
func (m *machine) reduce() error {
	v, err := m.popN(2)
	if err != nil {
		return err
	}
	f, isGlobal := v[0].(global)
	args, isTuple := v[1].(tuple)
	if !isGlobal || !isTuple {
		return fmt.Errorf("call of %s with %s", typeName(v[0]), typeName(v[1]))
	}
	switch {
	case f == orderedDict && len(args) == 0:
		return m.push(&dict{})
	case f == torchSize && len(args) == 1:
		if size, ok := args[0].(tuple); ok {
			return m.push(size)
		}
	case f == rebuildParameter && len(args) == 3:
		if t, ok := args[0].(*view); ok {
			return m.push(t)
		}
	case f == rebuildTensor && (len(args) == 6 || len(args) == 7):
		t, err := rebuild(args)
		if err != nil {
			return err
		}
		return m.push(t)
	}
	return fmt.Errorf("call of %s with %d arguments of the wrong kind", f, len(args))
}

// rebuild makes a tensor of (storage, offset, shape, strides, requires_grad,
// hooks[, metadata]). Metadata can say that the values are to be negated or
// conjugated, so it must be empty.
func rebuild(args tuple) (*view, error) {
	s, ok1 := args[0].(*storage)
	offset, ok2 := args[1].(int64)
	shape, ok3 := ints(args[2])
	strides, ok4 := ints(args[3])
	if !ok1 || !ok2 || !ok3 || !ok4 || len(shape) != len(strides) {
		return nil, fmt.Errorf("tensor of %s, offset %s, shape %s, strides %s", typeName(args[0]), typeName(args[1]), typeName(args[2]), typeName(args[3]))
	}
	if len(shape) > maxRank {
		return nil, fmt.Errorf("tensor of %d dimensions, the limit is %d", len(shape), maxRank)
	}
	if len(args) == 7 && args[6] != nil {
		if d, ok := args[6].(*dict); !ok || len(d.pairs) > 0 {
			return nil, fmt.Errorf("tensor with metadata is not supported")
		}
	}
	return &view{s, offset, shape, strides}, nil
}

// ints turns a tuple of numbers into a slice.
func ints(v any) ([]int64, bool) {
	t, ok := v.(tuple)
	if !ok {
		return nil, false
	}
	out := make([]int64, min(len(t), maxRank+1)) // a longer one is refused anyway
	for i := range out {
		if out[i], ok = t[i].(int64); !ok {
			return nil, false
		}
	}
	return out, true
}
