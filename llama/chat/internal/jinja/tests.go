package jinja

import (
	"math/big"
	"unicode"
)

// testFunc is a test: v is NAME, with arguments.
type testFunc func(in *interp, v Value, a args) bool

// kindTest makes a test of a property of one value.
func kindTest(f func(v Value) bool) testFunc {
	return func(in *interp, v Value, a args) bool {
		in.bind("test", a)
		return f(v)
	}
}

// compareTest makes a test of a comparison.
func compareTest(op string) testFunc {
	return func(in *interp, v Value, a args) bool { return in.holds(op, v, in.bind("test", a, "b").need(0)) }
}

// testTable has the tests of jinja2.
func testTable() map[string]testFunc {
	modulo := func(rest int64) testFunc {
		return func(in *interp, v Value, a args) bool {
			return in.equal(in.binary("%", v, int64(2)), rest)
		}
	}
	t := map[string]testFunc{
		"odd": modulo(1), "even": modulo(0),
		"divisibleby": func(in *interp, v Value, a args) bool {
			return in.equal(in.binary("%", v, in.bind("divisibleby", a, "num").need(0)), int64(0))
		},
		"defined":   kindTest(func(v Value) bool { _, ok := v.(undefined); return !ok }),
		"undefined": kindTest(func(v Value) bool { _, ok := v.(undefined); return ok }),
		"none":      kindTest(func(v Value) bool { _, ok := v.(none); return ok }),
		"boolean":   kindTest(func(v Value) bool { _, ok := v.(bool); return ok }),
		"true":      kindTest(func(v Value) bool { return v == true }),
		"false":     kindTest(func(v Value) bool { return v == false }),
		"integer": kindTest(func(v Value) bool {
			_, small := v.(int64)
			_, large := v.(*big.Int)
			return small || large
		}),
		"float":   kindTest(func(v Value) bool { _, ok := v.(float64); return ok }),
		"number":  kindTest(func(v Value) bool { _, ok := number(v); return ok }),
		"string":  kindTest(func(v Value) bool { _, ok := v.(Str); return ok }),
		"mapping": kindTest(func(v Value) bool { _, ok := v.(*Dict); return ok }),
		"sequence": kindTest(func(v Value) bool {
			switch v := v.(type) {
			case Str, *Dict, undefined:
				return true
			case *list:
				return v.sequence()
			}
			return false
		}),
		"iterable": kindTest(func(v Value) bool {
			switch v.(type) {
			case Str, *Dict, undefined, *list, *loop:
				return true
			}
			return false
		}),
		"callable": kindTest(func(v Value) bool {
			switch v.(type) {
			case *function, undefined:
				return true
			case *loop:
				return true
			}
			return false
		}),
		"sameas":  func(in *interp, v Value, a args) bool { return same(v, in.bind("sameas", a, "other").need(0)) },
		"escaped": kindTest(func(v Value) bool { s, ok := v.(Str); return ok && s.safe }),
		"lower":   caseTest(unicode.IsLower, unicode.IsUpper),
		"upper":   caseTest(unicode.IsUpper, unicode.IsLower),
		"in":      compareTest("in"),
		"filter":  func(in *interp, v Value, a args) bool { s, ok := v.(Str); return ok && in.t.filters[s.s] != nil },
		"test":    func(in *interp, v Value, a args) bool { s, ok := v.(Str); return ok && in.t.tests[s.s] != nil },
	}
	for op, names := range map[string][]string{
		"==": {"==", "eq", "equalto"}, "!=": {"!=", "ne"}, ">": {">", "gt", "greaterthan"}, ">=": {">=", "ge"},
		"<": {"<", "lt", "lessthan"}, "<=": {"<=", "le"},
	} {
		for _, name := range names {
			t[name] = compareTest(op)
		}
	}
	return t
}

// same is Python's is, as far as values here have an identity.
func same(a, b Value) bool {
	switch x := a.(type) {
	case Str:
		y, ok := b.(Str)
		return ok && x.s == y.s
	case *list, *Dict, *function, *namespace, bool, int64, none, float64:
		return a == b
	}
	return false
}

// caseTest is str.islower or str.isupper: some letter of a case and none of the
// other.
func caseTest(is, not func(rune) bool) testFunc {
	return func(in *interp, v Value, a args) bool {
		return cased(in.str(v).s, is, not)
	}
}

func cased(s string, is, not func(rune) bool) bool {
	found := false
	for _, r := range s {
		if not(r) || unicode.IsTitle(r) {
			return false
		}
		found = found || is(r)
	}
	return found
}
