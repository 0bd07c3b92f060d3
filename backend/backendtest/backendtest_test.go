package backendtest

import (
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

func TestRun(t *testing.T)       { Run(t, ref.New()) }
func TestGradients(t *testing.T) { Gradients(t, ref.New()) }

// The larger cases, those of other weight types left to fast backends.
func TestLargeCases(t *testing.T) {
	for _, c := range few(largeCases(ref.New())) {
		if c.op == backend.MatMul && c.weights[0].t != backend.Q4_K {
			continue
		}
		if _, err := check(ref.New(), c); err != nil {
			t.Errorf("%v %s: %v", c.op, c.name, err)
		}
	}
}

// Every operation is in the table, and every name only once.
func TestTable(t *testing.T) {
	n, names := map[backend.Op]int{}, map[string]bool{}
	for _, c := range table() {
		n[c.op]++
		name := c.op.String() + "/" + c.name
		if names[name] {
			t.Errorf("two cases %q", name)
		}
		names[name] = true
	}
	for _, op := range backend.Ops() {
		if n[op] == 0 {
			t.Errorf("no case of %v", op)
		}
		if tolerances[op] == nil {
			t.Errorf("no tolerance of %v", op)
		}
	}
}
