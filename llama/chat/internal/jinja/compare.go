package jinja

import (
	"cmp"
	"math"
	"math/big"
	"strings"
)

// equal is Python's ==.
func (in *interp) equal(a, b Value) bool {
	in.step(1)
	in.into()
	defer in.outOf()
	switch x := a.(type) {
	case Str:
		y, ok := b.(Str)
		if ok && len(x.s) == len(y.s) {
			in.step(len(x.s) / 64)
		}
		return ok && x.s == y.s
	case none:
		_, ok := b.(none)
		return ok
	case undefined:
		_, ok := b.(undefined)
		return ok
	case *list:
		y, ok := b.(*list)
		if x == y {
			return true
		}
		if !ok || x.kind != y.kind || x.kind == "generator" || len(x.items) != len(y.items) {
			return false
		}
		for i := range x.items {
			if !in.equal(x.items[i], y.items[i]) {
				return false
			}
		}
		return true
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false
		}
		for i, k := range x.keys {
			if v, ok := y.get(k); !ok || !in.equal(x.values[i], v) {
				return false
			}
		}
		return true
	case bool, int64, float64, *big.Int:
		c, ok := compareNumbers(a, b)
		return ok && c == 0
	}
	return a == b
}

// compareNumbers orders two numbers; ok is false for other values and NaN.
func compareNumbers(a, b Value) (c int, ok bool) {
	x, okx := bigInt(a)
	y, oky := bigInt(b)
	if okx && oky {
		return x.Cmp(y), true
	}
	f, okx := number(a)
	g, oky := number(b)
	switch {
	case !okx || !oky || math.IsNaN(f) || math.IsNaN(g):
		return 0, false
	case f < g:
		return -1, true
	case f > g:
		return 1, true
	}
	return 0, true
}

// compare orders two values as Python's < does.
func (in *interp) compare(op string, a, b Value) int {
	in.step(1)
	in.into()
	defer in.outOf()
	for _, v := range []Value{a, b} {
		in.defined(v)
	}
	if x, ok := a.(Str); ok {
		if y, ok := b.(Str); ok {
			in.step(min(len(x.s), len(y.s)) / 64)
			return strings.Compare(x.s, y.s)
		}
	}
	if x, ok := a.(*list); ok {
		if y, ok := b.(*list); ok && x.kind == y.kind {
			for i := range min(len(x.items), len(y.items)) {
				if !in.equal(x.items[i], y.items[i]) {
					return in.compare(op, x.items[i], y.items[i])
				}
			}
			return cmp.Compare(len(x.items), len(y.items))
		}
	}
	if _, ok := number(a); ok {
		if _, ok := number(b); ok {
			if c, ok := compareNumbers(a, b); ok {
				return c
			}
			return 2 // NaN: nothing holds
		}
	}
	fail(typeError, "'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
	return 0
}
