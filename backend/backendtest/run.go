package backendtest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// table is all cases, in the order of the operations. They are made once and
// not changed, so that many backends can be checked.
var table = sync.OnceValue(func() []*testCase {
	cs := slices.Concat(
		matMulCases(), matMulBackwardCases(), fusedCases(), embeddingCases(), rowNormsCases(), logProbCases(), crossEntropyCases(), roundCases(), roundE4M3Cases(),
		ropeTableCases(), ropeCases(), kvAppendCases(), attentionCases(), attentionBackwardCases(), attentionRowsCases(), attentionPagesCases(),
		rmsNormCases(), layerNormCases(), unfoldCases(), elementwiseCases(), reduceCases(), batchMatMulCases(), gatherCases(), copyCases(), optimizerCases(),
	)
	slices.SortStableFunc(cs, func(a, b *testCase) int { return int(a.op) - int(b.op) })
	return cs
})

// cases are those of the table that a test takes: with -short few, so that the
// race detector is done in time.
func cases() []*testCase { return few(table()) }

// few are all of cs or, with -short, one in five.
func few(cs []*testCase) []*testCase {
	if !testing.Short() {
		return cs
	}
	var some []*testCase
	for i := 0; i < len(cs); i += 5 {
		some = append(some, cs[i])
	}
	return some
}

// Run checks b against the oracle, one subtest an operation, then the promises
// of the interface: packing, float weights, rows alone or in a batch, memory,
// steps, panics. What b does not support is skipped, by name, with the error b gives.
func Run(t *testing.T, b backend.Backend) {
	byOp := map[backend.Op][]*testCase{}
	for _, c := range cases() {
		byOp[c.op] = append(byOp[c.op], c)
	}
	for _, op := range backend.Ops() {
		t.Run(op.String(), func(t *testing.T) {
			if err := b.Supports(op); err != nil {
				t.Skip(err)
			}
			runCases(t, b, byOp[op])
		})
	}
	contract(t, b)
}

func contract(t *testing.T, b backend.Backend) {
	report := func(name string, f func() error) {
		t.Run(name, func(t *testing.T) {
			if err := f(); errors.Is(err, backend.ErrUnsupported) {
				t.Skip(err)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	for _, w := range weightTypes() {
		report("Pack/"+w.String(), func() error { return checkPack(b, w) })
	}
	report("Float", func() error { return checkFloat(b) })
	for _, c := range rowsAlone(b) {
		report("RowsAlone/"+c.op.String()+"/"+c.name, func() error { return checkRowsAlone(b, c) })
	}
	for _, kv := range []backend.DType{backend.F32, backend.F16} {
		report("Chunks/"+kv.String(), func() error { return checkChunks(b, kv) })
		report("Source/"+kv.String(), func() error { return checkSource(b, kv) })
	}
	report("PagesAsRows", func() error { return checkPagesAsRows(b) })
	report("Layout", func() error { return checkLayout(b) })
	report("Scratch", func() error { return checkScratch(b, cases()) })
	report("Memory", func() error { return checkMemory(b) })
	report("Steps", func() error { return checkSteps(b) })
	report("Panics", func() error { return checkPanics(b, Faults{}) })
}

// most is how many failures of one operation are reported.
const most = 10

func runCases(t *testing.T, b backend.Backend, cs []*testCase) {
	var worst float64
	var at string
	failed := 0
	for _, c := range cs {
		used, err := check(b, c)
		if errors.Is(err, backend.ErrUnsupported) {
			t.Logf("%s: skipped: %v", c.name, err)
			continue
		}
		if err != nil {
			if failed++; failed > most {
				t.Fatalf("more than %d of %d cases fail", most, len(cs))
			}
			t.Errorf("%s: %v", c.name, err)
		}
		if used > worst {
			worst, at = used, c.name
		}
	}
	t.Logf("%d cases; the largest error is %.2g of what is allowed, in %q", len(cs), worst, at)
}

// RunSame checks that two backends, of different numbers of workers for
// example, give the same bits for every case of the table and for larger ones.
func RunSame(t *testing.T, a, b backend.Backend) {
	for _, c := range slices.Concat(cases(), few(largeCases(a))) {
		if err := same(a, b, c); errors.Is(err, backend.ErrUnsupported) {
			t.Logf("%v %s: skipped: %v", c.op, c.name, err)
		} else if err != nil {
			t.Errorf("%v %s: %v", c.op, c.name, err)
		}
	}
}

// same compares the outputs of a case on two backends.
func same(a, b backend.Backend, c *testCase) error {
	x, err := c.run(a)
	if err != nil {
		return err
	}
	y, err := c.run(b)
	if err != nil {
		return err
	}
	for i, o := range c.operands() {
		v, w := o.view, o.view
		v.Buf, w.Buf = x[o], y[o]
		p, q := read(v), read(w)
		for j := range p {
			if math.Float64bits(p[j]) != math.Float64bits(q[j]) && (p[j] == p[j] || q[j] == q[j]) {
				return fmt.Errorf("operand %d, element %d: %v and %v", i, j, p[j], q[j])
			}
		}
	}
	return nil
}
