package house

import (
	"go/ast"
	"go/token"
	"slices"
	"testing"
)

// TestJSONIsExplained: errors of encoding/json speak of Go's types, so what is shown of
// them comes from internal/jsontext. Elsewhere json.Unmarshal only says whether a value
// is of a type; UnmarshalJSON methods hand their errors to a call that explains.
func TestJSONIsExplained(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || slices.ContainsFunc([]string{"bench", "examples", "internal/house", "internal/golden", "internal/jsontext"}, func(dir string) bool { return below(s.dir, dir) }) {
			continue
		}
		asked := map[ast.Node]bool{} // calls whose error is compared with nil, or dropped
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				return n.Name.Name != "UnmarshalJSON"
			case *ast.BinaryExpr:
				if n.Op == token.EQL || n.Op == token.NEQ {
					asked[n.X] = true
				}
			case *ast.AssignStmt:
				if id, ok := n.Lhs[0].(*ast.Ident); ok && id.Name == "_" {
					asked[n.Rhs[0]] = true
				}
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || f.Sel.Name != "Unmarshal" || asked[n] {
					return true
				}
				if id, ok := f.X.(*ast.Ident); ok && id.Name == "json" {
					t.Errorf("%s: the error of json.Unmarshal goes on: want jsontext.Unmarshal", s.at(n))
				}
			}
			return true
		})
	}
}
