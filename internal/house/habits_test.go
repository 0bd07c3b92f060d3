package house

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// never lists what a library does not touch: the environment, the host
// program's output and its life. A nil list is the whole package.
var never = map[string][]string{
	"os":      {"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Exit", "Stdin", "Stdout", "Stderr", "Args", "Chdir"},
	"fmt":     {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	"syscall": {"Getenv", "Setenv", "Environ", "Exit"},
	"log":     nil,
	"flag":    nil,
	"expvar":  nil,
}

// library says whether a folder is part of what a consumer imports. The harness
// in bench is a program.
func library(dir string) bool {
	_, test := find(forTests, dir)
	return dir != "." && !test && dir != "bench" && !below(dir, "cmd") && !below(dir, "examples")
}

func TestLibrariesKeepToThemselves(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || !library(s.dir) {
			continue
		}
		names := map[string]string{} // the file's name for a package to its path
		for _, i := range s.file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if members, ok := never[path]; ok {
				if members == nil {
					t.Errorf("%s: a library does not import %s", s.at(i), path)
				}
				names[path] = path
				if i.Name != nil {
					names[i.Name.Name] = path
				}
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && slices.Contains(never[names[x.Name]], n.Sel.Name) {
					t.Errorf("%s: a library does not use %s.%s", s.at(n), x.Name, n.Sel.Name)
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "print" || f.Name == "println") {
					t.Errorf("%s: a library does not print", s.at(n))
				}
			}
			return true
		})
	}
}

// TestNoInit: importing a package costs nothing.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: no package has an init function", s.at(f))
			}
		}
	}
}

// wellKnown are methods whose interface says what they do.
var wellKnown = []string{"Error", "String", "Unwrap", "Is", "As", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText"}

// TestDocumented wants one package comment for each package and a comment on
// every exported declaration.
func TestDocumented(t *testing.T) {
	comments := map[string]int{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		comments[s.dir] += 0
		if s.file.Doc.Text() != "" {
			comments[s.dir]++
		}
		for _, d := range s.file.Decls {
			undocumented(d, func(n *ast.Ident) { t.Errorf("%s: %s has no comment", s.at(n), n.Name) })
		}
	}
	for dir, n := range comments {
		if n != 1 {
			t.Errorf("%s: %d package comments, want 1", dir, n)
		}
	}
}

// undocumented reports exported names of a declaration without a comment. One
// comment serves a group.
func undocumented(d ast.Decl, report func(*ast.Ident)) {
	check := func(doc *ast.CommentGroup, name *ast.Ident) {
		if name.IsExported() && strings.TrimSpace(doc.Text()) == "" {
			report(name)
		}
	}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || exportedReceiver(d.Recv.List[0].Type) && !slices.Contains(wellKnown, d.Name.Name) {
			check(d.Doc, d.Name)
		}
	case *ast.GenDecl:
		if d.Tok == token.IMPORT {
			return
		}
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				check(either(spec.Doc, d.Doc, spec.Comment), spec.Name)
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					check(either(spec.Doc, d.Doc, spec.Comment), name)
				}
			}
		}
	}
}

func either(groups ...*ast.CommentGroup) *ast.CommentGroup {
	for _, g := range groups {
		if g.Text() != "" {
			return g
		}
	}
	return nil
}

// exportedReceiver looks through *T and T[P] at the name of T.
func exportedReceiver(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.StarExpr:
		return exportedReceiver(e.X)
	case *ast.IndexExpr:
		return exportedReceiver(e.X)
	case *ast.IndexListExpr:
		return exportedReceiver(e.X)
	case *ast.Ident:
		return e.IsExported()
	}
	return false
}
