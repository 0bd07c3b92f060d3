package house

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// elsewhere are names in comments that are spelled like Go's and are none:
// programs, formats, papers and names of other languages.
var elsewhere = strings.Fields(`
	APPNOTE.TXT ARCH_REQ_XCOMP_PERM AdamW AddedVocabulary AutoTokenizer BatchNorm CVTSS2SD DeepSeek E2M1 E5M2
	GiB KiB LoRA ModelProto NaNs NumPy PiSSA PyTorch SessionLog SessionStatus SmolLM2
	SplitDelimiterBehavior TensorBoard UE4M3 Wav2Vec2Conformer White_Space WordPiece XFEATURE_XTILEDATA
	io.WriterTo json.Marshaler layers.N rsLoRA zip.Reader ReadFrom
`)

var (
	// quoted finds what a comment has in backquotes or square brackets.
	quoted = regexp.MustCompile("`([^`\n]+)`|\\[([^\\]\n]+)\\]")
	// goName matches a name, or names with dots between them.
	goName = regexp.MustCompile(`^\*?[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*$`)
	// mention finds names in running text: with a capital inside, or dotted with
	// a capital behind the dot.
	mention = regexp.MustCompile(`\b[A-Za-z][A-Za-z0-9_]*(?:\.[A-Z][A-Za-z0-9_]*)+|\b[A-Za-z]+[a-z0-9_][A-Z][A-Za-z0-9_]*`)
	address = regexp.MustCompile(`https?://\S+`)
	shown   = regexp.MustCompile(`(?m)^\t.*$`) // code, with names of its own
)

// names are what comments may name.
type names struct {
	words   map[string]map[string]bool // by folder: identifiers, words of strings, names of files and packages
	members map[string]map[string]bool // what the code declares or uses of a package or a type, by name
	imports map[string][]string        // by folder: those of the module
}

func add(to map[string]map[string]bool, at, name string) {
	if to[at] == nil {
		to[at] = map[string]bool{}
	}
	to[at][name] = true
}

var word = regexp.MustCompile(`\w+`)

// collect takes the names of a file.
func (n *names) collect(s source) {
	pkg := strings.TrimSuffix(s.file.Name.Name, "_test")
	add(n.words, s.dir, pkg)
	add(n.words, s.dir, strings.TrimSuffix(path.Base(s.path), ".go"))
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		if dir, ok := strings.CutPrefix(p, module+"/"); ok {
			n.imports[s.dir] = append(n.imports[s.dir], dir)
		}
	}
	ast.Inspect(s.file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.Ident:
			add(n.words, s.dir, node.Name)
		case *ast.BasicLit:
			if node.Kind == token.STRING {
				for _, w := range word.FindAllString(node.Value, -1) {
					add(n.words, s.dir, w)
				}
			}
		case *ast.SelectorExpr:
			add(n.members, receiver(node.X), node.Sel.Name)
		case *ast.FuncDecl:
			add(n.members, pkg, node.Name.Name)
			if node.Recv != nil {
				add(n.members, receiver(node.Recv.List[0].Type), node.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range node.Names {
				add(n.members, pkg, name.Name)
			}
		case *ast.TypeSpec:
			add(n.members, pkg, node.Name.Name)
			ast.Inspect(node.Type, func(field ast.Node) bool {
				if f, ok := field.(*ast.Field); ok {
					for _, name := range f.Names {
						add(n.members, node.Name.Name, name.Name)
					}
					if len(f.Names) == 0 { // embedded: its members are this type's
						add(n.members, node.Name.Name, receiver(f.Type))
					}
				}
				return true
			})
		}
		return true
	})
}

// receiver is the name of a type, without its star and its parameters.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// has reports whether a folder, or a package that it imports, has a name. Of dotted
// names the last two parts count: a type and its method, a variable and its field,
// or a package and what it declares.
func (n *names) has(dir, name string) bool {
	parts := strings.Split(strings.TrimPrefix(name, "*"), ".")
	last := parts[len(parts)-1]
	if len(parts) > 1 && n.members[parts[len(parts)-2]] != nil {
		return n.members[parts[len(parts)-2]][last]
	}
	return n.words[dir][last] || slices.ContainsFunc(n.imports[dir], func(dir string) bool { return n.words[dir][last] })
}

// TestCommentsNameWhatIsThere wants every name that a comment has in backquotes,
// in brackets, or as a word with a capital inside, to be in the code.
func TestCommentsNameWhatIsThere(t *testing.T) {
	n := &names{map[string]map[string]bool{}, map[string]map[string]bool{}, map[string][]string{}}
	for _, s := range sources(t) {
		n.collect(s)
	}
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			text := shown.ReplaceAllString(address.ReplaceAllString(group.Text(), ""), "")
			if strings.HasPrefix(text, "Output:") {
				continue
			}
			var found []string
			for _, m := range quoted.FindAllStringSubmatch(text, -1) {
				if word := m[1] + m[2]; goName.MatchString(word) && (m[1] != "" || len(word) > 1 && token.IsExported(strings.TrimPrefix(word, "*"))) {
					found = append(found, word)
				}
			}
			for _, word := range append(found, mention.FindAllString(text, -1)...) {
				if !n.has(s.dir, word) && !slices.Contains(elsewhere, word) {
					t.Errorf("%s: there is no %s", s.at(group), word)
				}
			}
		}
	}
}

// TestCommentsBeginWithTheName wants a comment of a function that begins with a
// name to begin with that of the function: another one is what it was called once.
func TestCommentsBeginWithTheName(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Doc == nil {
				continue
			}
			first := strings.TrimRight(word.FindString(f.Doc.Text()), "s")
			if first == "" || first[0] < 'a' || first[0] > 'z' {
				continue // a sentence, or the name of an exported function
			}
			if first != strings.TrimRight(f.Name.Name, "s") {
				t.Errorf("%s: the comment of %s begins with %s", s.at(f), f.Name.Name, first)
			}
		}
	}
}

// TestDocumentsNameFilesThatAreThere looks up the Go files that CONTRIBUTING.md and
// README.md have in backquotes.
func TestDocumentsNameFilesThatAreThere(t *testing.T) {
	paths, err := files()
	if err != nil {
		t.Fatal(err)
	}
	place := regexp.MustCompile("`((?:[a-z0-9_]+/)*[a-z0-9_]+\\.go)`")
	for _, document := range []string{"CONTRIBUTING.md", "README.md"} {
		text, err := os.ReadFile(filepath.Join(root(), document))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range place.FindAllStringSubmatch(string(text), -1) {
			if !slices.ContainsFunc(paths, func(p string) bool { return strings.HasSuffix("/"+p, "/"+m[1]) }) {
				t.Errorf("%s names %s, which is not there", document, m[1])
			}
		}
	}
}
