package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// asProgram, in the environment, makes this test the harness itself, or a peer
// where it is called like an interpreter; its value says which kind of peer.
const asProgram = "BENCH_TEST_PEER"

func TestMain(m *testing.M) {
	kind, ok := os.LookupEnv(asProgram)
	switch {
	case !ok:
		os.Exit(m.Run())
	case len(os.Args) > 2 && os.Args[1] == "-c":
		fakePeer(kind, os.Args[2], os.Args[3:])
	default:
		main()
	}
}

// fakePeer answers as the peers do. One that encodes does it with our tokenizer, one
// that trains with our trainer.
func fakePeer(kind, script string, args []string) {
	if kind == "missing" {
		fmt.Println(`{"missing": "it"}`)
		return
	}
	if !strings.Contains(script, "json.loads") || !strings.Contains(script, "missing") {
		os.Exit(3)
	}
	fmt.Println(`{"name": "fake 1"}`)
	lines := bufio.NewScanner(os.Stdin)
	var t *training
	for lines.Scan() {
		var r struct {
			Parts [][2]int
			trainRequest
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil || kind == "dies" {
			os.Exit(3)
		}
		a := answer{Rate: 1e-3, Peak: 1e9}
		if len(r.Parts) > 0 {
			tok := must(tokenizer.Open(args[0]))
			text := must(os.ReadFile(args[1]))
			for _, p := range r.Parts {
				a.Tokens += len(must(tok.Encode(string(text[p[0]:p[1]]), tokenizer.EncodeOptions{})))
			}
		}
		switch {
		case r.Folder != "":
			t = must(openTraining(context.Background(), cpu.Default(), &r.trainRequest))
			if kind == "learns nothing" {
				t.lr = 0
			}
		case r.What == "step":
			a.Loss = must(t.step(context.Background())).Loss
		}
		fmt.Println(string(must(json.Marshal(a))))
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

var tiny = golden.Committed("models/tied-rope8/model.gguf")

func openTiny(t *testing.T, room int) *session {
	t.Helper()
	h, err := openSession(t.Context(), tiny, llama.Options{Backend: cpu.Default(), Context: room})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

// bench runs a command line as main does.
func bench(t *testing.T, line ...string) (string, error) {
	t.Helper()
	var out, messages strings.Builder
	err := command(t.Context(), line, &out, &messages)
	return out.String(), err
}

// modesOnTiny are command lines for all modes that measure, and the kinds of the
// results they add.
func modesOnTiny() (lines [][]string, kinds []string) {
	vocab := golden.Committed("models/tied-rope8/meta/tokenizer.model")
	lines = [][]string{
		{"tokens", "-prefill", "16,32", "-decode", "4", "-depth", "8,32", tiny},
		{"streams", "-streams", "3", "-decode", "4", "-depth", "8,70", tiny},
		{"shared", "-streams", "3", "-prompt", "70", tiny},
		{"arrivals", "-streams", "2", "-requests", "5", "-every", "1ms", tiny},
		{"gemm", "-size", "32", "-repeat", "10ms"},
		{"tokenize", "-vocab", vocab, "-text", golden.Committed("templates/chatml.jinja")},
		{"load", tiny},
		{"train", "-length", "16", "-lora-model", tiny, "toy-bf16", "toy-bf16-compile", "toy-f32", "lora"},
	}
	kinds = []string{"prefill", "prefill", "decode", "decode", "streams", "streams", "shared", "arrivals", "gemm", "gemm", "tokenize", "load", "train", "train", "train"}
	if runtime.GOOS == "linux" {
		lines = append(lines, []string{"memory", tiny}, []string{"trainmemory", "-length", "16", "-lora-model", tiny, "toy-bf16", "lora"})
		kinds = append(kinds, "memory", "trainmemory", "trainmemory")
	}
	return lines, kinds
}

// TestEndToEnd runs every mode without a peer, all into one file, and reads it
// back as a table.
func TestEndToEnd(t *testing.T) {
	t.Setenv(asProgram, "") // for the processes that the harness starts
	file := filepath.Join(t.TempDir(), "r.json")
	lines, kinds := modesOnTiny()
	for _, line := range lines {
		out, err := bench(t, append([]string{"-probe", "32", "-pairs", "1", "-json", file}, line...)...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", line, err, out)
		}
		if line[0] != "memory" && line[0] != "shared" && !strings.Contains(out, "is skipped") {
			t.Errorf("%v does not say that the peer is skipped:\n%s", line, out)
		}
	}
	r, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, run := range r.Runs {
		for _, res := range run.Results {
			got = append(got, res.Kind)
			if (res.Ratio != nil) != (res.Kind == "shared") || !(res.Herd > 0) || res.Unit == "" || res.Pairs != 1 {
				t.Errorf("%+v", res)
			}
		}
	}
	if strings.Join(got, " ") != strings.Join(kinds, " ") {
		t.Errorf("results %v, want %v", got, kinds)
	}
	out, err := bench(t, "table", file)
	if err != nil || strings.Count(out, "\n| ") != len(kinds)+1 {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := bench(t, "plot", file, filepath.Join(t.TempDir(), "r.png")); err == nil {
		t.Error("results without ratios are drawn")
	}
}

// TestLookup: generating with guesses is compared with generating without.
func TestLookup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	out, err := bench(t, "-probe", "32", "-pairs", "1", "-json", file, "-text", golden.Committed("templates/chatml.jinja"), "lookup", tiny)
	if err != nil || !strings.Contains(out, " guesses are right, ") {
		t.Fatalf("%v\n%s", err, out)
	}
	r, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	if res := r.Runs[0].Results; len(res) != 1 || res[0].Kind != "lookup" || res[0].Ratio == nil || !(res[0].Herd > 0 && res[0].Other > 0) {
		t.Errorf("%+v", res)
	}
}

// TestPeers runs the modes beside a program that answers like the peers.
func TestPeers(t *testing.T) {
	t.Setenv(asProgram, "answers")
	dir := t.TempDir()
	file, figure := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.png")
	lines, _ := modesOnTiny()
	for _, line := range lines {
		if out, err := bench(t, append([]string{"-python", os.Args[0], "-probe", "32", "-pairs", "1", "-json", file}, line...)...); err != nil {
			t.Fatalf("%v: %v\n%s", line, err, out)
		}
	}
	r, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range r.Runs {
		for _, res := range run.Results {
			if res.Kind == "memory" || res.Kind == "shared" { // which have no peer
				continue
			}
			herd, peer := res.Herd, 1e-3
			if res.Kind == "load" { // seconds
				herd, peer = 1/herd, 1e3
			}
			if res.Kind == "tokenize" { // bytes
				peer = 1e-9
			}
			if res.Kind == "trainmemory" {
				herd, peer = 1/herd, 1e3
			}
			if res.Peer != "fake 1" || res.Ratio == nil || near(res.Other, peer) || res.Kind != "tokenize" && near(res.Ratio.Median, herd*1e3) {
				t.Errorf("%+v, ratio %+v", res, res.Ratio)
			}
		}
	}
	if _, err := bench(t, "plot", file, figure); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(figure)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := png.Decode(f); err != nil {
		t.Error(err)
	}
}

// near reports whether two numbers differ by more than rounding.
func near(a, b float64) bool { return a < b*(1-1e-9) || a > b*(1+1e-9) }

// TestPeerMissing: a peer that is not installed is skipped and named; one that
// dies, an interpreter that is not there, and wrong words are errors.
func TestPeerMissing(t *testing.T) {
	t.Setenv(asProgram, "missing")
	out, err := bench(t, "-probe", "32", "-pairs", "1", "-python", os.Args[0], "gemm", "-size", "16", "-repeat", "10ms", "f32")
	if err != nil || !strings.Contains(out, "PyTorch is skipped: it is not installed") || !strings.Contains(out, "gemm float32 16") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Setenv(asProgram, "dies")
	other := filepath.Join(t.TempDir(), "other.json")
	if err := os.WriteFile(other, []byte("{}{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range [][]string{
		{"-python", os.Args[0], "gemm", "-size", "16"},
		{"-python", filepath.Join(t.TempDir(), "none"), "gemm", "-size", "16"},
		{"gemm", "q4_0"},
		{"-python", os.Args[0], "train", "toy-f32"},
		{"-python", os.Args[0], "trainmemory", "toy-f32"},
		{"train", "14m-bf16"},
		{"train", "toy-f16"},
		{"train", "toy-f32-compile"},
		{"train", "-length", "16", "-lora-model", filepath.Join(t.TempDir(), "none.gguf"), "lora"},
		{"trainmemory", "toy"},
		{"trainmemory-once", other},
		{"lookup"},
		{"tokens"},
		{"tokens", filepath.Join(t.TempDir(), "none.gguf")},
		{"load"},
		{"streams"},
		{"streams", "-decode", "0", tiny},
		{"shared", filepath.Join(t.TempDir(), "none.gguf")},
		{"arrivals"},
		{"memory"},
		{"tokenize"},
		{"-json", other, "gemm", "-size", "16"},
		{"plot", other},
		{"table", other},
	} {
		if out, err := bench(t, append([]string{"-probe", "32", "-pairs", "1"}, line...)...); err == nil {
			t.Errorf("%v: no error\n%s", line, out)
		}
	}
}
