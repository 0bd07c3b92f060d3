// Command _asm writes the assembly of backend/cpu/internal/kernel into the
// folder named by its argument: for each variant a file of code and a file of
// Go declarations.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run . folder")
		os.Exit(2)
	}
	for name, write := range map[string]func(gen){"avx2": avx2, "avx512": avx512, "unpack": unpack, "codebook": codebooks, "exp": exponents, "fewrows512": fused512, "fewrows256": fused256, "amx": amx, "attend": attend} {
		g := gen{build.NewContext()}
		g.ConstraintExpr("!noasm")
		write(g)
		if err := g.print(filepath.Join(os.Args[1], name+"_amd64")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// gen is one file of assembly.
type gen struct{ *build.Context }

func (g gen) print(path string) error {
	f, err := g.Result()
	if err == nil {
		err = pass.Compile.Execute(f)
	}
	if err != nil {
		return err
	}
	cfg := printer.Config{Name: "backend/cpu/_asm (avo)", Pkg: "kernel"}
	for ext, p := range map[string]printer.Printer{".s": printer.NewGoAsm(cfg), ".go": printer.NewStubs(cfg)} {
		text, err := p.Print(f)
		if err == nil {
			err = os.WriteFile(path+ext, text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin starts a function whose doc comment is its loop in Go. No function
// has a frame or uses BP.
func (g gen) begin(name, signature string, doc ...string) {
	g.Function(name)
	g.Attributes(attr.NOSPLIT)
	g.Pragma("noescape")
	g.SignatureExpr(signature)
	g.Doc(doc...)
}

// arg loads a parameter, or the address of a slice.
func (g gen) arg(name string, r reg.Register) {
	p := g.Param(name)
	if _, err := p.Base().Resolve(); err == nil {
		p = p.Base()
	}
	g.Load(p, r)
}

// stride loads the parameter name and multiplies it by 1<<shift.
func (g gen) stride(name string, shift uint64, r reg.Register) {
	g.arg(name, r)
	if shift > 0 {
		g.SHLQ(operand.U8(shift), r)
	}
}

// at is the operand disp bytes after base.
func at(base reg.Register, disp int) operand.Mem {
	return operand.Mem{Base: base, Disp: disp}
}

// rowAt is the operand disp bytes after row r, where bases hold the addresses
// of rows 0, 3, 6, ... and stride is their distance in bytes.
func rowAt(bases []reg.GPPhysical, stride reg.Register, r, disp int) operand.Mem {
	m := at(bases[r/3], disp)
	if r%3 > 0 {
		m.Index, m.Scale = stride, uint8(r%3)
	}
	return m
}

// weightAt is the operand disp bytes after input u of four, where stride is the
// distance of inputs in bytes and stride3 three times that.
func weightAt(w, stride, stride3 reg.Register, u, disp int) operand.Mem {
	m := at(w, disp)
	switch u {
	case 1, 2:
		m.Index, m.Scale = stride, uint8(u)
	case 3:
		m.Index, m.Scale = stride3, 1
	}
	return m
}
