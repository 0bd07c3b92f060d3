package kernel

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestFunctions wants all functions of all variants.
func TestFunctions(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		v := reflect.ValueOf(s.functions)
		for i := range v.NumField() {
			if v.Field(i).IsNil() {
				t.Errorf("no %s", v.Type().Field(i).Name)
			}
		}
	})
}

// calls runs every method of a Set for functions, once each.
func calls(s *Set) map[string]func() {
	const n = 96
	var x [8][]float32
	for i := range x {
		x[i] = make([]float32, 8*n)
		for j := range x[i] {
			x[i][j] = float32(j%7) - 3
		}
	}
	var h [3][]uint16
	for i := range h {
		h[i] = make([]uint16, 8*n)
	}
	a, b, c, d, e, f := x[0][:n], x[1][:n], x[2][:n], x[3][:n], x[4][:n], x[5][:n]
	codes, sums, mem := make([]int8, 2048), make([]int32, n/16), make([]byte, 1<<14)
	wide, squares, p := make([]float32, 2048), new([2]Sums), AdamW{root: 1, eps: 1}
	lanes16 := new([16]float32)
	return map[string]func(){
		"f32":            func() { s.F32(1, a, 16, b, 8, c, 16, 0, 1, 4, false) },
		"f16":            func() { s.F16(1, a, 16, b, 8, h[0], 16, 0, 1, 4, false) },
		"bf16":           func() { s.BF16Ahead(1, a, 16, b, 8, h[0], 16, nil, 1, 4, false) },
		"bf16Pairs":      func() { s.BF16Pairs(1, a, 16, b, 8, h[0], 32, 0, 1, 4, false) },
		"roundI8":        func() { s.RoundI8(codes, a, sums, b, 32) },
		"widenF16":       func() { s.WidenF16(a, h[0]) },
		"widenBF16":      func() { s.WidenBF16(a, h[0]) },
		"widenPairs":     func() { s.WidenPairs(a, h[0]) },
		"widenQ8":        func() { s.WidenQ8(a, codes, h[0], nil) },
		"widenQ8Keys":    func() { s.WidenQ8Keys(wide, codes, h[0], nil) },
		"roundF16":       func() { s.RoundF16(h[0], a) },
		"roundBF16":      func() { s.RoundBF16(h[0], a) },
		"scaleBF16":      func() { s.ScaleBF16(h[0], a, 2) },
		"ask":            func() { s.Ask(mem[:64]) },
		"packWords":      func() { s.PackWords(mem, mem[8192:], 64, 5, 2, 320, 20) },
		"transposeWords": func() { s.TransposeWords(mem, 64, mem[8192:], 64, 5) },
		"roundPairs":     func() { s.RoundPairs(h[0], 32, a, b) },
		"interleave":     func() { s.Interleave(h[0], h[1][:n], h[2]) },
		"add":            func() { s.Add(a, b, c) },
		"mul":            func() { s.Mul(a, b, c) },
		"scale":          func() { s.Scale(a, b, 2) },
		"scaled":         func() { s.Scaled(a, b, c, 2) },
		"mix":            func() { s.Mix(a, b, 0.5, 0.5) },
		"swiglu":         func() { s.SwiGLU(a, b, c) },
		"swigluBackward": func() { s.SwiGLUBackward(a, b, c, d, e) },
		"rotate":         func() { s.Rotate(a, b, c[:n/2], d) },
		"rotateBack":     func() { s.RotateBack(a, b, c[:n/2], d) },
		"addSquares":     func() { s.AddSquares(&squares[0], a) },
		"addNormSums":    func() { s.AddNormSums(squares, a, b, c) },
		"normBackward":   func() { s.NormBackward(a, b, c, d, e, 1, 1) },
		"adamW":          func() { s.AdamW(p, a, b, c, d) },
		"measureScales":  func() { s.MeasureScales(lanes16, a, b, lanes16, lanes16, 15) },
		"scaleMax":       func() { s.Exps(a, 1) },
		"expSum":         func() { s.ExpsFrom(a, 1) },
		"dot":            func() { s.Dot(a, b) },
		"maxInto":        func() { s.MaxInto(a, b) },
		"expInto":        func() { s.ExpInto(a, b, c) },
		"expPairs":       func() { s.ExpPairs(h[0], a, b, c, d) },
		"scoreGrads":     func() { s.ScoreGrads(a, b, c, d) },
		"scoreGrads16":   func() { s.ScoreGrads16(h[0], h[1], a, b, c, f) },
	}
}

// TestOverride builds sets of plain Go but for one function each, and wants that only its
// method runs it.
func TestOverride(t *testing.T) {
	typ := reflect.TypeFor[functions]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		s, ran := Generic(), 0
		v := reflect.ValueOf(&s.functions).Elem().Field(i)
		v = reflect.NewAt(v.Type(), v.Addr().UnsafePointer()).Elem() // fields are not exported
		if v.Kind() == reflect.Func {
			v.Set(counted(v, &ran))
		} else { // a product: its one tile
			run := v.Index(0).FieldByName("run")
			run = reflect.NewAt(run.Type(), run.Addr().UnsafePointer()).Elem()
			run.Set(counted(run, &ran))
		}
		all := calls(s)
		if all[name] == nil {
			t.Errorf("no call of %s", name)
			continue
		}
		for other, call := range all {
			before := ran
			call()
			if runs := ran > before; runs != (other == name || name == "expSum" && other == "scaleMax") {
				t.Errorf("with %s of its own, a call of %s runs it: %v", name, other, runs)
			}
		}
	}
}

// counted is f, which is a function, but counts its calls.
func counted(f reflect.Value, calls *int) reflect.Value {
	old := reflect.ValueOf(f.Interface())
	return reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
		*calls++
		return old.Call(args)
	})
}

// TestAllocs: no kernel allocates.
func TestAllocs(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		for name, call := range calls(s) {
			if n := testing.AllocsPerRun(10, call); n != 0 {
				t.Errorf("%s allocates %v times", name, n)
			}
		}
	})
}

// TestCalled wants a caller of every function of assembly, and in backend/cpu of every
// method of Set and Format.
func TestCalled(t *testing.T) {
	uses, declared := map[string]int{}, map[string]bool{}
	scan := func(dir string, kernel bool) {
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatal("no files in ", dir, err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			p, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(p, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if kernel && n.Body == nil {
						declared[n.Name.Name] = true
					}
					if kernel && n.Recv != nil && n.Name.IsExported() {
						if of, ok := n.Recv.List[0].Type.(*ast.StarExpr); ok {
							name := of.X.(*ast.Ident).Name
							declared["."+n.Name.Name] = name == "Set" || name == "Format"
						}
					}
					uses[n.Name.Name]-- // itself
				case *ast.Ident:
					uses[n.Name]++
				case *ast.SelectorExpr:
					if !kernel {
						uses["."+n.Sel.Name]++
					}
				}
				return true
			})
		}
	}
	scan(".", true)
	scan("../..", false)
	if len(declared) < 100 {
		t.Fatalf("only %d functions found", len(declared))
	}
	for name, counts := range declared {
		if counts && uses[name] <= 0 {
			t.Errorf("nobody calls %s", name)
		}
	}
}
