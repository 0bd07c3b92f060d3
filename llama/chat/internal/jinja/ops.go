package jinja

import (
	"math"
	"math/big"
)

// unary is - or +.
func (in *interp) unary(op string, v Value) Value {
	in.defined(v)
	if f, ok := v.(float64); ok {
		if op == "neg" {
			return -f
		}
		return f
	}
	b, ok := bigInt(v)
	if !ok {
		fail(typeError, "bad operand type for unary %s: '%s'", map[string]string{"neg": "-", "pos": "+"}[op], typeName(v))
	}
	if op == "neg" {
		return fromBig(new(big.Int).Neg(b))
	}
	return fromBig(b)
}

// binary is an arithmetic operator.
func (in *interp) binary(op string, a, b Value) Value {
	in.defined(a)
	in.defined(b)
	if v, ok := in.sequences(op, a, b); ok {
		return v
	}
	x, okx := bigInt(a)
	y, oky := bigInt(b)
	if okx && oky {
		return in.integers(op, x, y)
	}
	f, okx := number(a)
	g, oky := number(b)
	if !okx || !oky {
		in.mismatch(op, a, b)
	}
	return floats(op, f, g)
}

func (in *interp) mismatch(op string, a, b Value) {
	if op == "**" {
		op = "** or pow()"
	}
	_, isText := a.(Str)
	l, isList := a.(*list)
	switch {
	case op == "+" && isText:
		fail(typeError, "can only concatenate str (not \"%s\") to str", typeName(b))
	case op == "+" && isList && (l.kind == "list" || l.kind == "tuple"):
		fail(typeError, "can only concatenate %s (not \"%s\") to %s", l.kind, typeName(b), l.kind)
	}
	fail(typeError, "unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
}

// sequences are the operators of strings and lists.
func (in *interp) sequences(op string, a, b Value) (Value, bool) {
	x, xText := a.(Str)
	y, yText := b.(Str)
	p, pList := a.(*list)
	q, qList := b.(*list)
	switch {
	case op == "+" && xText && yText:
		if x.safe != y.safe {
			if x.safe {
				y = in.escape(y)
			} else {
				x = in.escape(x)
			}
		}
		in.made(len(x.s) + len(y.s))
		out := concat(x, y)
		out.safe = x.safe || y.safe
		return out, true
	case op == "+" && pList && qList && p.kind == q.kind && (p.kind == "list" || p.kind == "tuple"):
		in.listed(len(p.items) + len(q.items))
		return &list{items: append(append([]Value{}, p.items...), q.items...), kind: p.kind}, true
	case op == "%" && xText:
		return in.percent(x, b), true
	case op == "*" && (xText || pList):
		if n, ok := integer(b); ok {
			return in.repeat(a, n), true
		}
	case op == "*" && (yText || qList):
		if n, ok := integer(a); ok {
			return in.repeat(b, n), true
		}
	}
	return nil, false
}

// repeat is a sequence n times.
func (in *interp) repeat(v Value, n int64) Value {
	n = max(n, 0)
	if text, ok := v.(Str); ok {
		if len(text.s) > 0 && n > int64(in.limits.String/len(text.s)) {
			in.tooLong()
		}
		in.made(len(text.s) * int(n))
		var b builder
		for range n {
			if text.s == "" {
				break
			}
			b.add(text)
		}
		out := b.str()
		out.safe = text.safe
		return out
	}
	l := v.(*list)
	if l.kind != "list" && l.kind != "tuple" {
		fail(typeError, "unsupported operand type(s) for *: '%s' and 'int'", l.kind)
	}
	if len(l.items) > 0 && n > int64(in.limits.String/len(l.items)) {
		in.tooLong()
	}
	in.listed(len(l.items) * int(n))
	var items []Value
	for range n {
		if len(l.items) == 0 {
			break
		}
		items = append(items, l.items...)
	}
	return &list{items: items, kind: l.kind}
}

// integers are the operators of ints.
func (in *interp) integers(op string, x, y *big.Int) Value {
	z := new(big.Int)
	switch op {
	case "+":
		return fromBig(z.Add(x, y))
	case "-":
		return fromBig(z.Sub(x, y))
	case "*":
		return fromBig(z.Mul(x, y))
	case "/":
		if y.Sign() == 0 {
			fail(zeroDivision, "division by zero")
		}
		f, _ := new(big.Rat).SetFrac(x, y).Float64()
		return f
	case "//", "%":
		if y.Sign() == 0 {
			fail(zeroDivision, "integer division or modulo by zero")
		}
		m := new(big.Int)
		z.QuoRem(x, y, m)
		if m.Sign() != 0 && m.Sign() != y.Sign() { // Python rounds down
			z.Sub(z, big.NewInt(1))
			m.Add(m, y)
		}
		if op == "%" {
			return fromBig(m)
		}
		return fromBig(z)
	}
	if y.Sign() < 0 {
		f, _ := new(big.Float).SetInt(x).Float64()
		g, _ := new(big.Float).SetInt(y).Float64()
		return floats(op, f, g)
	}
	if x.BitLen() > 1 && (!y.IsInt64() || y.Int64() > 1<<12/int64(x.BitLen()-1)) {
		fail(limitError, "an integer of more than %d bits", 1<<12)
	}
	return fromBig(z.Exp(x, y, nil))
}

// floats are the operators of floats.
func floats(op string, f, g float64) Value {
	switch op {
	case "+":
		return f + g
	case "-":
		return f - g
	case "*":
		return f * g
	case "**":
		if f == 0 && g < 0 {
			fail(zeroDivision, "0.0 cannot be raised to a negative power")
		}
		return math.Pow(f, g)
	}
	if g == 0 {
		fail(zeroDivision, "%s", map[string]string{"/": "float division by zero", "//": "float floor division by zero", "%": "float modulo"}[op])
	}
	if op == "/" {
		return f / g
	}
	m := math.Mod(f, g)
	if m != 0 && (m < 0) != (g < 0) {
		m += g
	}
	if op == "%" {
		return m
	}
	return math.Floor((f-m)/g + 0.5)
}
