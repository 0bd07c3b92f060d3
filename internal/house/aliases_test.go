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
	members := exportedMembers(sources(t))
	found := 0
	for _, s := range sources(t) {
		eachType(s, func(spec *ast.TypeSpec, doc *ast.CommentGroup) {
			target := aliased(s, spec)
			if target == "" || s.test() || !spec.Name.IsExported() {
				return
			}
			found++
			words := strings.FieldsFunc(doc.Text(), func(r rune) bool { return !unicode.IsLetter(r) })
			for _, name := range members[target] {
				if !slices.Contains(words, name) {
					t.Errorf("%s: the comment of %s does not say what %s is", s.at(spec), spec.Name.Name, name)
				}
			}
		})
	}
	if found == 0 {
		t.Error("no alias of an internal type found")
	}
}

// eachType visits the types that a file declares, with their comments.
func eachType(s source, visit func(*ast.TypeSpec, *ast.CommentGroup)) {
	for _, d := range s.file.Decls {
		if g, ok := d.(*ast.GenDecl); ok {
			for _, spec := range g.Specs {
				if spec, ok := spec.(*ast.TypeSpec); ok {
					visit(spec, either(spec.Doc, g.Doc))
				}
			}
		}
	}
}

// exportedMembers lists the exported fields and methods of types, by folder and name,
// less the methods that need no comment.
func exportedMembers(all []source) map[string][]string {
	members := map[string][]string{}
	add := func(s source, typ string, names ...*ast.Ident) {
		for _, n := range names {
			if n.IsExported() && !slices.Contains(wellKnown, n.Name) {
				members[s.dir+"."+typ] = append(members[s.dir+"."+typ], n.Name)
			}
		}
	}
	for _, s := range all {
		eachType(s, func(spec *ast.TypeSpec, _ *ast.CommentGroup) {
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					add(s, spec.Name.Name, f.Names...)
				}
			}
		})
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil {
				recv := f.Recv.List[0].Type
				if p, ok := recv.(*ast.StarExpr); ok {
					recv = p.X
				}
				if id, ok := recv.(*ast.Ident); ok {
					add(s, id.Name, f.Name)
				}
			}
		}
	}
	return members
}

// aliased returns the folder and name of the internal type that an alias is of, or "" for
// other types.
func aliased(s source, spec *ast.TypeSpec) string {
	sel, ok := spec.Type.(*ast.SelectorExpr)
	if !ok || !spec.Assign.IsValid() {
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
