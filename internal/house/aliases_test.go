package house

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// TestAliases: an exported name for a type of an internal package is documented where
// users look, as documentation tools do not show them what is inside: each exported
// field and method is named in its comment.
func TestAliases(t *testing.T) {
	types := map[string]*ast.StructType{} // by folder and name
	methods := map[string][]string{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if spec, ok := spec.(*ast.TypeSpec); ok {
						types[s.dir+"."+spec.Name.Name], _ = spec.Type.(*ast.StructType)
					}
				}
			case *ast.FuncDecl:
				if d.Recv == nil || !d.Name.IsExported() || slices.Contains(wellKnown, d.Name.Name) {
					continue
				}
				recv := d.Recv.List[0].Type
				if p, ok := recv.(*ast.StarExpr); ok {
					recv = p.X
				}
				if id, ok := recv.(*ast.Ident); ok {
					methods[s.dir+"."+id.Name] = append(methods[s.dir+"."+id.Name], d.Name.Name)
				}
			}
		}
	}
	found := 0
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		for _, d := range s.file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				spec, ok := spec.(*ast.TypeSpec)
				if !ok || !spec.Assign.IsValid() || !spec.Name.IsExported() {
					continue
				}
				target := aliased(s, spec)
				if target == "" {
					continue
				}
				found++
				words := strings.FieldsFunc(either(spec.Doc, g.Doc).Text(), func(r rune) bool { return !unicode.IsLetter(r) })
				names := methods[target]
				if st := types[target]; st != nil {
					for _, f := range st.Fields.List {
						for _, n := range f.Names {
							names = append(names, n.Name)
						}
					}
				}
				for _, n := range names {
					if ast.IsExported(n) && !slices.Contains(words, n) {
						t.Errorf("%s: the comment of %s does not say what %s is", s.at(spec), spec.Name.Name, n)
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("no alias of an internal type found")
	}
}

// aliased returns the folder and name of the internal type that an alias is of, or "".
func aliased(s source, spec *ast.TypeSpec) string {
	sel, ok := spec.Type.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		dir, ours := strings.CutPrefix(p, module+"/")
		if id, ok := sel.X.(*ast.Ident); ok && ours && path.Base(p) == id.Name && strings.Contains("/"+dir, "/internal/") {
			return dir + "." + sel.Sel.Name
		}
	}
	return ""
}
