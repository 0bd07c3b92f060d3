package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/chart"
)

func day(d int) time.Time { return time.Date(2026, 1, d, 0, 0, 0, 0, time.UTC) }

// sample has a run on each of two kernels and one that repeats a comparison.
func sample() *report {
	decode := result{
		Kind: "decode", What: "32 after 128", On: "m.gguf", Peer: "llama.cpp 1", Unit: rateOf, Herd: 20.04, Other: 10, Pairs: 3,
		Ratio: &spread{1, 1.5, 2, 2.25, 4}, Share: &share{spread{0.5, 0.6, 0.75, 0.8, 0.9}, 30e9, ofRead},
	}
	again := decode
	again.Ratio = &spread{1, 2, 3, 4, 5}
	prefill := result{Kind: "prefill", What: "512", On: "m.gguf", Unit: rateOf, Herd: 1234, Pairs: 3, Repeated: 2,
		Share: &share{spread{1, 1, 1, 1, 1}, 1.5e12, "int8 peak"}}
	memory := result{Kind: "memory", What: "at 2048, peak", On: "m.gguf", Unit: "MB", Herd: 99.9, Pairs: 1,
		Share: &share{spread{0.5, 0.5, 0.5, 0.5, 0.5}, 200e6, ofBudget}}
	gemm := result{Kind: "gemm", What: "float32 2048", Peer: "PyTorch 2", Unit: "TFLOP/s", Herd: 0.4, Other: 0.5, Pairs: 9,
		Ratio: &spread{0.7, 0.75, 0.8, 0.85, 0.9}, Share: &share{spread{0.8, 0.8, 0.8, 0.8, 0.8}, 0.5e12, "float32 peak"}}
	trained := result{Kind: "train", What: "15M bf16, 2 x 1024", Peer: "torch.compile 2", Unit: rateOf, Herd: 2500, Other: 2000, Pairs: 9,
		Ratio: &spread{1.1, 1.2, 1.25, 1.3, 1.4}, Share: &share{spread{0.6, 0.6, 0.65, 0.7, 0.7}, 0.47e12, "bf16 peak"}}
	peak := result{Kind: "trainmemory", What: "15M bf16, 2 x 1024", Peer: "PyTorch 2", Unit: "MB", Herd: 1000, Other: 2000, Pairs: 1,
		Ratio: &spread{2, 2, 2, 2, 2}}
	at := func(kernel string, d int, r ...result) run {
		return run{CPU: "CPU", Kernel: kernel, Workers: 2, Go: "go1.26", OS: "linux/amd64", Time: day(d), Results: r}
	}
	return &report{[]run{
		at("avx512", 1, memory, decode), at("avx2", 2, peak, trained, gemm), at("avx512", 3, again, prefill), at("generic", 4),
	}}
}

// TestTable: runs in the same surroundings become one table, in the order of
// kinds; a comparison that was made again replaces the first.
func TestTable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.json")
	if err := sample().write(file); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printTable(t.Context(), &settings{args: []string{file}}, &out); err != nil {
		t.Fatal(err)
	}
	want := `CPU, linux/amd64, kernel avx512, 2 threads, go1.26, 2026-01-03.

` + header + `
| prefill 512 | m.gguf | - | - | 3, 2 repeated | 1234 tokens/s | 100 % of 1.50 TOP/s, int8 peak |
| decode 32 after 128 | m.gguf | llama.cpp 1 | 3.00 (2.00 to 4.00) | 3 | 20.0 tokens/s | 75 % of 30.0 GB/s, read bandwidth |
| memory at 2048, peak | m.gguf | - | - | 1 | 99.9 MB | 50 % of 200 MB, weights, keys and values, and 64 MB |

CPU, linux/amd64, kernel avx2, 2 threads, go1.26, 2026-01-02.

` + header + `
| gemm float32 2048 | - | PyTorch 2 | 0.80 (0.75 to 0.85) | 9 | 0.40 TFLOP/s | 80 % of 0.50 TFLOP/s, float32 peak |
| train 15M bf16, 2 x 1024 | - | torch.compile 2 | 1.25 (1.20 to 1.30) | 9 | 2500 tokens/s | 65 % of 0.47 TFLOP/s, bf16 peak |
| trainmemory 15M bf16, 2 x 1024 | - | PyTorch 2 | 2.00 (2.00 to 2.00) | 1 | 1000 MB | - |
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if err := printTable(t.Context(), &settings{}, &out); err == nil {
		t.Error("no files are no error")
	}
}

// TestGroups: the plot has what has a ratio, kind by kind.
func TestGroups(t *testing.T) {
	got := groups(merge(sample().Runs))
	want := []chart.Group{
		{Name: "decode", Dots: []chart.Dot{{Label: "32 after 128  m  llama.cpp  avx512", Low: 2, Median: 3, High: 4}}},
		{Name: "gemm", Dots: []chart.Dot{{Label: "float32 2048  PyTorch  avx2", Low: 0.75, Median: 0.8, High: 0.85}}},
		{Name: "train", Dots: []chart.Dot{{Label: "15M bf16, 2 x 1024  torch.compile  avx2", Low: 1.2, Median: 1.25, High: 1.3}}},
		{Name: "trainmemory", Dots: []chart.Dot{{Label: "15M bf16, 2 x 1024  PyTorch  avx2", Low: 2, Median: 2, High: 2}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

// TestReport: what is written is read back, a file that is something else is
// refused, and so is one with fields that writing it again would lose.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "r.json")
	if _, err := readReport(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for range 2 { // the second replaces the first
		if err := sample().write(file); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readReport(file)
	if err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("got %+v, %v", got, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("files are left: %v", files)
	}
	for _, text := range []string{"", "[]", `{"runs": []} {}`, `{"runs": [{"colour": 1}]}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readReport(file); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		line string
		ok   bool
	}{
		{"tokens a.gguf", true},
		{"-depth 128,8192 tokens a.gguf -pairs 2 b.gguf", true},
		{"gemm", true},
		{"train 15m-bf16 -length 512 lora -lora-model a.gguf", true},
		{"train -length 1", false},
		{"", false},
		{"a.gguf", false},
		{"tokens -pairs 0 a.gguf", false},
		{"tokens -depth -1 a.gguf", false},
		{"tokens -depth 128, a.gguf", false},
		{"tokens -colour a.gguf", false},
	} {
		var messages strings.Builder
		s, m, err := parse(strings.Fields(c.line), &messages)
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.line, err)
		}
		if strings.Contains(c.line, "8192") && (m.word != "tokens" || s.depth.String() != "128,8192" || s.pairs != 2 || strings.Join(s.args, " ") != "a.gguf b.gguf") {
			t.Errorf("%q: %+v", c.line, s)
		}
	}
}
