package backendtest

import (
	"errors"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// table makes all cases, in the order of the operations.
func table() []*testCase {
	cs := slices.Concat(
		matMulCases(), embeddingCases(),
		rmsNormCases(), ropeTableCases(), ropeCases(), kvAppendCases(), attentionCases(),
		binaryCases(backend.SwiGLU, normals, gates), binaryCases(backend.Add, normals, allEdges),
		binaryCases(backend.Mul, normals, allEdges), gatherCases(), copyCases(),
	)
	slices.SortStableFunc(cs, func(a, b *testCase) int { return int(a.op) - int(b.op) })
	return cs
}

// Run checks b against the oracle, one subtest an operation. An operation that
// b does not support is skipped with the error that b gives; so is a case whose
// weight type b cannot pack.
func Run(t *testing.T, b backend.Backend) {
	byOp := map[backend.Op][]*testCase{}
	for _, c := range table() {
		byOp[c.op] = append(byOp[c.op], c)
	}
	for _, op := range backend.Ops() {
		if byOp[op] == nil {
			continue
		}
		t.Run(op.String(), func(t *testing.T) {
			if err := b.Supports(op); err != nil {
				t.Skip(err)
			}
			runCases(t, b, byOp[op])
		})
	}
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
