package backendtest

import (
	"bytes"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// wanted is what the elements of one output must be.
type wanted struct {
	name  string
	o     *operand
	want  []float64
	bound func(i int) float64 // largest error of element i; nil is exact
	loose bool
}

// oracle computes the answer of a case with package ref.
func (c *testCase) oracle() ([]wanted, error) {
	p, err := c.place(oracle)
	if err != nil {
		return nil, err
	}
	defer p.free()
	x, a := ref.Load(&p.args), ref.Load(&p.args)
	x.Eval(c.op)
	bounds := tolerances[c.op](c, x, a)
	x.Store()
	var outs []wanted
	for i, o := range c.out {
		if o == nil {
			continue
		}
		w := wanted{name: fmt.Sprintf("Out[%d]", i), o: o, want: x.Out[i], loose: c.loose}
		if bounds != nil {
			w.bound = func(e int) float64 { return bounds(i, e) }
		} else {
			w.want = read(p.view(o)) // rounded to the output's type
		}
		outs = append(outs, w)
	}
	if c.op == backend.KVAppend {
		for i, o := range c.pages {
			mem, err := c.readPage(oracle, p.bufs[o])
			if err != nil {
				return nil, err
			}
			v := o.view
			v.Buf = mem
			outs = append(outs, wanted{name: fmt.Sprintf("page %d", i), o: o, want: read(v)})
		}
	}
	return outs, nil
}

// compare checks all memory after an operation: outputs against the answer,
// every other byte against what it was. worst is the largest error as a
// fraction of its bound.
func (c *testCase) compare(outs []wanted, after map[*operand]host) (worst float64, err error) {
	rest := map[*operand]host{}
	for o, mem := range after {
		rest[o] = bytes.Clone(mem)
	}
	for _, w := range outs {
		v := w.o.view
		v.Buf = after[w.o]
		for i, got := range read(v) {
			used, ok := w.accept(i, got)
			if !ok {
				return used, fmt.Errorf("%s[%d] of %v is %v, want %v: the error is %.3g of what is allowed",
					w.name, i, v.Shape, got, w.want[i], used)
			}
			worst = max(worst, used)
		}
		size := v.Type.BlockBytes()
		for _, at := range positions(&v) {
			copy(rest[w.o][at*size:][:size], w.o.bytes()[at*size:])
		}
	}
	for i, o := range c.operands() {
		before := o.bytes()
		if !bytes.Equal(before, rest[o]) {
			at := 0
			for before[at] == rest[o][at] {
				at++
			}
			return worst, fmt.Errorf("operand %d (%v %v): byte %d, which is no output, was changed", i, o.view.Type, o.view.Shape, at)
		}
	}
	return worst, nil
}

// accept reports whether got may stand for element i, and the error as a
// fraction of the bound. The answer is first rounded to the output's type
// where it overflows: NaN must be NaN and infinity the same infinity.
func (w *wanted) accept(i int, got float64) (used float64, ok bool) {
	want := w.want[i]
	if w.loose && (math.IsNaN(want) || math.IsInf(want, 0)) {
		return 0, math.IsNaN(got) || math.IsInf(got, 0)
	}
	if math.IsNaN(want) || math.IsNaN(got) {
		return 0, math.IsNaN(want) && math.IsNaN(got)
	}
	if w.bound == nil {
		return 0, want == got && math.Signbit(want) == math.Signbit(got)
	}
	if want := float64(float32(want)); math.IsInf(want, 0) || math.IsInf(got, 0) {
		return 0, want == got
	}
	used = math.Abs(got-want) / (w.bound(i) + floor)
	return used, used <= 1
}

// positions are the places in the buffer of the elements of v.
func positions(v *backend.View) []int {
	list := []int{v.Off}
	for axis := range v.Shape.Rank {
		next := make([]int, 0, len(list)*v.Shape.Dim[axis])
		for _, at := range list {
			for i := range v.Shape.Dim[axis] {
				next = append(next, at+i*v.Stride[axis])
			}
		}
		list = next
	}
	return list
}

// check runs a case on b and compares it with the oracle.
func check(b backend.Backend, c *testCase) (worst float64, err error) {
	after, err := c.run(b)
	if err != nil {
		return 0, err
	}
	outs, err := c.answer()
	if err != nil {
		return 0, err
	}
	return c.compare(outs, after)
}
