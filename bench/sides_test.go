package main

import (
	"context"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/train"
)

// TestCost works out a model with 2 layers of width 4, 2 heads of 2 with 1 for keys
// and values, a hidden width of 8 and 10 tokens.
func TestCost(t *testing.T) {
	c := cost{weights: 1000, kv: 10, layers: 2 * (4*4 + 2*4*2 + 4*4 + 3*4*8), output: 40, pair: 2 * 4 * 4}
	// Decoding 3 after 5 reads 6, 7 and 8 positions: 7 on average.
	if got := c.decode(3, 5); got != 1070 {
		t.Errorf("decode reads %v, want 1070", got)
	}
	// 3 tokens: 2 operations a weight, the output once, 1+2+3 pairs.
	if got, want := c.prefill(3), 2*288.0*3+80+32*6; got != want {
		t.Errorf("prefill takes %v, want %v", got, want)
	}
	// Training takes three times as much, with the output for every token; of weights
	// that are frozen only twice.
	if got, want := c.training(3, 0), 6*(288.0+40)*3+3*32*6; got != want {
		t.Errorf("training takes %v, want %v", got, want)
	}
	if got, want := c.training(3, 7), 4*(288.0+40)*3+6*7*3+3*32*6; got != want {
		t.Errorf("training an adapter takes %v, want %v", got, want)
	}
}

// TestPieces: the pieces are the text, none is too long, none cuts a letter.
func TestPieces(t *testing.T) {
	for _, text := range []string{
		"short", strings.Repeat("line\n", pieceLen), strings.Repeat("ä", pieceLen), strings.Repeat("\x80", pieceLen+1),
		strings.Repeat("x", pieceLen) + "\n", strings.Repeat("x", pieceLen),
	} {
		at := 0
		for _, p := range pieces(text) {
			if p[0] != at || p[1] <= p[0] || p[1] > p[0]+pieceLen {
				t.Fatalf("%.10q: piece %v after %d", text, p, at)
			}
			if utf8.ValidString(text) && !utf8.ValidString(text[p[0]:p[1]]) {
				t.Errorf("%.10q: piece %v cuts a letter", text, p)
			}
			at = p[1]
		}
		if at != len(text) {
			t.Errorf("%.10q: %d of %d bytes", text, at, len(text))
		}
	}
	e := encoding{pieces: make([][2]int, 2*partPieces+1)}
	for i := range e.pieces {
		e.pieces[i] = [2]int{i, i + 1}
	}
	for turn, want := range []int{0, partPieces, 2 * partPieces, partPieces - 1} {
		if p := e.part(turn); len(p) != partPieces || p[0][0] != want {
			t.Errorf("turn %d starts at %v, want %d", turn, p[0], want)
		}
	}
	if p := (&encoding{pieces: e.pieces[:3]}).part(7); len(p) != 3 {
		t.Errorf("a short text has %d pieces, want 3", len(p))
	}
}

// TestAgreeing: both sides get the same part, not the one to warm up; a rate in bytes becomes MB; another
// number of tokens is an error.
func TestAgreeing(t *testing.T) {
	part := func(turn int) [][2]int { return [][2]int{{turn, turn + 1}} }
	fake := func(extra int) encoder {
		return func(p [][2]int) (int, float64, error) {
			if p[0][0] == 0 {
				t.Error("the part to warm up is measured")
			}
			return 10*p[0][0] + extra, 5e6, nil
		}
	}
	a, b := agreeing(part, fake(0), fake(0))
	for turn := range 3 {
		for _, s := range []side{b, a} {
			if rate, err := s(t.Context(), turn); rate != 5 || err != nil {
				t.Errorf("turn %d: %v, %v", turn, rate, err)
			}
		}
	}
	a, b = agreeing(part, fake(0), fake(1))
	if _, err := a(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if _, err := b(t.Context(), 0); err == nil {
		t.Error("another number of tokens is no error")
	}
	if _, b = agreeing(part, fake(0), nil); b != nil {
		t.Error("nobody is a side")
	}
}

func TestComments(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	got, err := comments(fstest.MapFS{
		"a/a.go": file(`// Copyright 2026
// All rights.

//go:build linux

// Package a is
// for apples.
package a

// alone
var x int // trailing
	// Two lines,
	//	indented.
	//go:noinline
	// And on.
`),
		"a/a_test.go":       file("// a\n// test\n"),
		"a/testdata/b.go":   file("// some\n// data\n"),
		"b/readme.markdown": file("// no\n// code\n"),
	})
	want := "Package a is\nfor apples.\n\nTwo lines,\n\tindented.\nAnd on.\n\n"
	if err != nil || got != want {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
}

// TestShifted: a token's target is the next one of its row.
func TestShifted(t *testing.T) {
	b := shifted([]int32{1, 2, 3, 4, 5, 6}, 2)
	if !slices.Equal(b.Targets, []int32{2, 3, train.NoTarget, 5, 6, train.NoTarget}) || !slices.Equal(b.Docs, []int{3, 3}) || b.Tokens != 4 {
		t.Errorf("%+v", b)
	}
}

// TestTrainAgreement: a peer that does not do the same work is found, in the first step
// and after an update. Without a model to train an adapter on, that one is skipped.
func TestTrainAgreement(t *testing.T) {
	r := &trainRequest{Precision: "float32"}
	if err := r.agree([]float64{5, 4.9}, []float64{5.00001, 4.90001}); err != nil {
		t.Error(err)
	}
	for _, theirs := range [][]float64{{5.001, 4.9}, {5, 5}, {5, math.NaN()}} {
		if r.agree([]float64{5, 4.9}, theirs) == nil {
			t.Errorf("losses %v agree", theirs)
		}
	}
	t.Setenv(asProgram, "learns nothing")
	for _, mode := range []string{"train", "trainmemory"} {
		if mode == "trainmemory" && runtime.GOOS != "linux" {
			continue
		}
		out, err := bench(t, "-python", os.Args[0], "-probe", "32", "-pairs", "1", mode, "-length", "16", "lora", "toy-bf16")
		if err == nil || !strings.Contains(err.Error(), "losses") || !strings.Contains(out, "lora is skipped") {
			t.Errorf("%s: %v\n%s", mode, err, out)
		}
	}
}

func TestStatusBytes(t *testing.T) {
	const text = "Name:\tx\nVmHWM:\t    1234 kB\nRssAnon:\t       2 kB\n"
	if n, err := statusBytes(text, "VmHWM"); n != 1234<<10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := statusBytes(text, "Vm"); err == nil {
		t.Error("a field that is not there has a value")
	}
}

// TestProduct: the check accepts what the backend computes and finds a result that
// is wrong.
func TestProduct(t *testing.T) {
	for _, dtype := range []backend.DType{backend.BF16, backend.F32} {
		p, err := newProduct(t.Context(), cpu.Default(), dtype, 40, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if _, err := p.measure(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if err := p.check(); err != nil {
			t.Errorf("%v: %v", dtype, err)
		}
		p.values[1][0] += 0.25 // not what was packed
		if p.check() == nil {
			t.Errorf("%v: a wrong product is not found", dtype)
		}
	}
}

// TestSession: a measurement computes its own tokens and none of those before.
func TestSession(t *testing.T) {
	h := openTiny(t, 64)
	for _, w := range []work{{"decode", 4, 32}, {"prefill", 8, 32}, {"decode", 4, 32}, {"prefill", 8, 0}} {
		before := h.s.Usage().PrefillTokens
		if _, err := h.measure(context.Background(), w); err != nil {
			t.Fatal(err)
		}
		if n, want := h.s.Usage().PrefillTokens-before, w.N; n != want || h.s.Len() != w.Depth+w.N {
			t.Errorf("%+v computes %d tokens, want %d; holds %d", w, n, want, h.s.Len())
		}
	}
}
