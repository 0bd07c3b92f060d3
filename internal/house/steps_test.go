package house

import (
	"go/ast"
	"testing"
)

// TestStepsEnd: one function begins steps, and it ends them whatever happens in between.
// Tests of a backend's own line of steps may begin them by hand.
func TestStepsEnd(t *testing.T) {
	for _, s := range sources(t) {
		if s.path == "backend/step.go" || s.test() && below(s.dir, "backend") {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if f, ok := call.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Begin" {
					t.Errorf("%s: steps are begun by backend.Step and tensor.Context.Step only", s.at(n))
				}
			}
			return true
		})
	}
}
