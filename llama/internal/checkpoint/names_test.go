package checkpoint

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docTable returns the rows of the table in doc.go whose first heading is given.
func docTable(t *testing.T, first string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "//\t"+first+" ")
	if !found {
		t.Fatalf("no table %s", first)
	}
	columns := regexp.MustCompile(`\s{2,}`)
	for line := range strings.Lines(rest[strings.Index(rest, "\n")+1:]) {
		cells, row := strings.CutPrefix(strings.TrimSpace(line), "//\t")
		if !row {
			return rows
		}
		rows = append(rows, columns.Split(cells, -1))
	}
	return rows
}

// all is a configuration that has every parameter.
var all = Config{Layers: 4, Dim: 12, Heads: 6, KVHeads: 3, HeadDim: 4, HiddenDim: 20, Vocab: 7,
	AttentionBias: true, AttentionOutputBias: true, MLPBias: true}

// TestNames holds the names of parameters in both other formats to the table of the
// documentation; no two are the same.
func TestNames(t *testing.T) {
	rows := docTable(t, "Hugging Face")
	seen := []map[string]bool{{}, {}}
	for _, p := range Parameters(all) {
		layer, _, _ := LayerName(p.Name)
		dot := strings.LastIndexByte(p.Name, '.')
		stem, kind := p.Name[:dot], p.Name[dot:]
		inLayer := func(s string) string { return strings.ReplaceAll(s, ".N.", fmt.Sprintf(".%d.", layer)) }
		row := slices.IndexFunc(rows, func(r []string) bool { return inLayer(r[0]) == stem })
		if row < 0 {
			t.Errorf("%s is not in the table", p.Name)
			continue
		}
		for column, table := range []*nameTable{&ggufNames, &metaNames} {
			got, ok := table.name(p.Name)
			want := inLayer(rows[row][column+1]) + kind
			switch has := table == &ggufNames || kind == ".weight"; {
			case ok != has:
				t.Errorf("%s has a name in format %d: %v, want %v", p.Name, column, ok, has)
			case ok && got != want:
				t.Errorf("%s is %s in format %d, the table says %s", p.Name, got, column, want)
			case ok && seen[column][got]:
				t.Errorf("%s is there twice in format %d", got, column)
			}
			seen[column][got] = true
		}
	}
}

// TestConfigTable: the table of the documentation has each field of Config.
func TestConfigTable(t *testing.T) {
	var fields, listed []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		fields = append(fields, f.Name)
	}
	for _, r := range docTable(t, "Config") {
		if listed = append(listed, r[0]); len(r) != 4 {
			t.Errorf("%v: %d columns", r, len(r))
		}
	}
	if !slices.Equal(listed, fields) {
		t.Errorf("the table has %v, Config %v", listed, fields)
	}
}

// TestRowOrder: row i + j*hd/2 of a head of Hugging Face is row 2i+j of the others.
func TestRowOrder(t *testing.T) {
	const hd = 6
	for head := range 3 {
		for i := range hd / 2 {
			for j := range 2 {
				ours, theirs := head*hd+i+j*hd/2, head*hd+2*i+j
				if got := interleaved(ours, hd); got != theirs {
					t.Errorf("row %d is row %d of a file, want %d", ours, got, theirs)
				}
				if got := halved(theirs, hd); got != ours {
					t.Errorf("row %d of a file is row %d, want %d", theirs, got, ours)
				}
			}
		}
	}
}
