package config

import (
	"reflect"
	"strings"
	"testing"
)

type inner struct {
	Rate  float64  `yaml:"rate" help:"how fast"`
	Names []string `yaml:"names"`
}

type outer struct {
	Name  string `yaml:"name"`
	Steps int    `yaml:"steps" help:"how long"`
	Inner inner  `yaml:"inner" help:"the inside"`
	Skip  int    `yaml:"-"`
}

func TestDecode(t *testing.T) {
	v := outer{Name: "kept", Inner: inner{Rate: 2, Names: []string{"a"}}}
	if err := Decode([]byte("steps: 7\ninner:\n  names: [b, c]\n"), "f.yaml", &v); err != nil {
		t.Fatal(err)
	}
	if err := Decode([]byte("\xef\xbb\xbfsteps: 7.0\r\nname: kept\r\n"), "f.yaml", &v); err != nil {
		t.Fatal(err)
	}
	if want := (outer{Name: "kept", Steps: 7, Inner: inner{Rate: 2, Names: []string{"b", "c"}}}); !reflect.DeepEqual(v, want) {
		t.Errorf("%+v, want %+v", v, want)
	}
	for text, says := range map[string]string{
		"":                               "empty",
		"stepz: 1":                       "stepz",
		"inner: {rat: 1}":                `line 1: unknown key "inner.rat"`,
		"steps: many":                    `f.yaml: line 1: steps is "many", want a whole number`,
		"\n steps: 1.5":                  `f.yaml: line 2: steps is "1.5", want a whole number`,
		"steps: 99999999999999999999":    `line 1: steps is "99999999999999999999", want a whole number`,
		"inner:\n  names: 5":             `line 2: inner.names is "5", want a list`,
		"inner: {names: [a], rate: [b]}": `line 1: inner.rate is "[b]", want a number`,
		"inner: {names: [[a]]}":          `line 1: inner.names is "[[a]]", want a list`,
		"inner:\n  rate: 1\n  rat: 2":    `line 3: unknown key "inner.rat"`,
		"hello":                          `line 1: want keys with values`,
		"- a":                            `line 1: want keys with values`,
		"inner:\n- a":                    `inner is "- a", want keys with values`,
		"steps: 1\nsteps: 2":             `line 2: not YAML: mapping key "steps" already defined`,
		"skip: 1":                        "skip",
		"inner: 3":                       `line 1: inner is "3", want keys with values`,
		"[1":                             "f.yaml: line 1: not YAML: ",
		strings.Repeat("#", 2e6):         "too many",
	} {
		v := outer{}
		if err := Decode([]byte(text), "f.yaml", &v); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "Go ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.20q: %v does not say %q", text, err, says)
		}
	}
}

func TestSet(t *testing.T) {
	v := outer{Inner: inner{Names: []string{"a", "b"}}}
	for path, value := range map[string]string{"inner.rate": "1e-3", "inner.names": "[x]", "name": "", "steps": "3"} {
		if err := Set(&v, path, value); err != nil {
			t.Fatal(err)
		}
	}
	if want := (outer{Steps: 3, Inner: inner{Rate: 1e-3, Names: []string{"x"}}}); !reflect.DeepEqual(v, want) {
		t.Errorf("%+v, want %+v", v, want)
	}
	if err := Set(&v, "inner.names", "a b,c"); err != nil || !reflect.DeepEqual(v.Inner.Names, []string{"a b", "c"}) {
		t.Errorf("%q: %v", v.Inner.Names, err)
	}
	for _, bad := range [][2]string{{"nope", "1"}, {"inner.nope", "1"}, {"steps.more", "1"}, {"steps", "x"}, {"steps", "1.5"}, {"inner", "{a: 1}"}, {"Skip", "1"}} {
		if err := Set(&v, bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), bad[0]) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestPrint: what is printed is read as the same.
func TestPrint(t *testing.T) {
	v := outer{Name: "x: y\n\n", Steps: 2, Inner: inner{Rate: 0.5, Names: []string{"a b", "c"}}}
	var out strings.Builder
	if err := Print(&out, &v); err != nil {
		t.Fatal(err)
	}
	var back outer
	if err := Decode([]byte(out.String()), "printed", &back); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !reflect.DeepEqual(back, v) || !strings.Contains(out.String(), "# how fast") || len(Keys(&v)) != 4 {
		t.Errorf("%+v, want %+v:\n%s", back, v, out.String())
	}
}
