package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/peft"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"herd": main})
}

// committedCase is the folder of a model that is in the repository.
func committedCase(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob(golden.Committed("models/*/model.gguf"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no committed model: %v", err)
	}
	return filepath.Dir(found[0])
}

// writeAdapter writes an adapter of the first query matrix to dir, and one of an
// output layer to dir-out. Each changes what a model says.
func writeAdapter(dir, model string) error {
	info, err := llama.ReadInfo(context.Background(), model, llama.Options{})
	if err != nil {
		return err
	}
	c := info.Config
	for suffix, l := range map[string]struct {
		name string
		out  int
	}{"": {"model.layers.0.self_attn.q_proj", c.Heads * c.HeadDim}, "-out": {"lm_head", c.Vocab}} {
		a, b := make([]float32, c.Dim), make([]float32, l.out)
		for i := range a {
			a[i] = float32(i%7) - 3
		}
		for i := range b {
			b[i] = float32(i%5) - 2
		}
		err := peft.Write(dir+suffix, peft.Config{Rank: 1, Alpha: 1}, []peft.Module{
			{Name: l.name, A: peft.Tensor(a, 1, c.Dim), B: peft.Tensor(b, l.out, 1)}})
		if err != nil {
			return err
		}
	}
	return nil
}

// writeParts writes a model as two files of a split set, half of it, and the head of an
// adapter.
func writeParts(dir, model string) error {
	whole, err := os.ReadFile(model)
	if err != nil {
		return err
	}
	f, err := gguf.Open(model)
	if err != nil {
		return err
	}
	defer f.Close()
	err = errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "short.gguf"), whole[:len(whole)/2], 0o644))
	half := len(f.Tensors()) / 2
	for i, part := range [][]*gguf.Tensor{f.Tensors()[:half], f.Tensors()[half:]} {
		var w gguf.Writer
		for _, key := range f.Keys() {
			v, _ := f.Lookup(key)
			if i == 0 {
				err = errors.Join(err, w.Set(key, v))
			}
		}
		err = errors.Join(err, w.Set("split.no", uint16(i)), w.Set("split.count", uint16(2)), w.Set("split.tensors.count", int32(len(f.Tensors()))))
		for _, t := range part {
			err = errors.Join(err, w.Add(t.Name, t.Type, t.Shape, t.Reader()))
		}
		err = errors.Join(err, w.WriteFile(filepath.Join(dir, fmt.Sprintf("m-0000%d-of-00002.gguf", i+1))))
	}
	var w gguf.Writer
	return errors.Join(err, w.Set("general.architecture", "llama"), w.Set("general.type", "adapter"), w.Set("adapter.type", "lora"),
		w.WriteFile(filepath.Join(dir, "adapter.gguf")))
}

// TestScripts runs testdata/script. In them $MODEL, $HF and $META are a
// committed model in three formats, $VOCAB a vocabulary, $TOKENIZER one of bytes, $GREEDY the file of
// what the model generates, $IDS the prompt there and $N the number of tokens.
// $LORA is an adapter of the model, $SPLIT a folder with it in two parts, $SHORT its first
// half, $ADAPTER a file that says to be an adapter of llama.cpp.
// A condition such as [amx] says that this kernel runs here.
func TestScripts(t *testing.T) {
	vocab, err := filepath.Glob(golden.Committed("tokenizer/gguf/*.gguf"))
	if err != nil || len(vocab) == 0 {
		t.Fatalf("no committed vocabulary: %v", err)
	}
	dir := committedCase(t)
	byteTokens, err := filepath.Abs("../../examples/train/bytes/tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	greedy := filepath.Join(dir, "greedy.json")
	var reference struct{ Prompt, Tokens []int32 }
	golden.JSON(t, greedy, &reference)
	ids := strings.Trim(strings.ReplaceAll(fmt.Sprint(reference.Prompt), " ", ","), "[]")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("MODEL", filepath.Join(dir, "model.gguf"))
			e.Setenv("HF", filepath.Join(dir, "hf"))
			e.Setenv("META", filepath.Join(dir, "meta"))
			e.Setenv("LORA", filepath.Join(e.WorkDir, "lora"))
			e.Setenv("VOCAB", vocab[0])
			e.Setenv("TOKENIZER", byteTokens)
			e.Setenv("GREEDY", greedy)
			e.Setenv("IDS", ids)
			e.Setenv("N", strconv.Itoa(len(reference.Tokens)))
			e.Setenv("SPLIT", filepath.Join(e.WorkDir, "split"))
			e.Setenv("SHORT", filepath.Join(e.WorkDir, "split", "short.gguf"))
			e.Setenv("ADAPTER", filepath.Join(e.WorkDir, "split", "adapter.gguf"))
			return errors.Join(writeAdapter(filepath.Join(e.WorkDir, "lora"), filepath.Join(dir, "model.gguf")),
				writeParts(filepath.Join(e.WorkDir, "split"), filepath.Join(dir, "model.gguf")))
		},
		Condition: func(name string) (bool, error) {
			if !slices.Contains(kernels, name) {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return slices.Contains(variants(), name), nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "keys": keys, "oneline": oneline, "same": same, "equal": equal, "once": once,
			"interrupt": interrupt, "hardlink": hardlink, "lines": lineCount, "rows": sameRows, "windows": windows,
		},
	})
}

// exits CODE args... runs herd with args and wants that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("herd", args[1:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if neg || got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// keys NAME... wants each line of stdout to be a JSON object with these keys,
// dots between levels, and at the top no others.
func keys(ts *testscript.TestScript, neg bool, args []string) {
	top := map[string]bool{}
	for _, name := range args {
		top[strings.Split(name, ".")[0]] = true
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	for _, line := range lines {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			ts.Fatalf("%q: %v", line, err)
		}
		for key := range v {
			if !top[key] {
				ts.Fatalf("unexpected key %q", key)
			}
		}
		for _, name := range args {
			var at any = v
			for _, part := range strings.Split(name, ".") {
				inner, _ := at.(map[string]any)
				next, ok := inner[part]
				if !ok {
					ts.Fatalf("no key %q in %s", name, line)
				}
				at = next
			}
		}
	}
}

// oneline wants exactly one line on stderr, which names the program.
func oneline(ts *testscript.TestScript, neg bool, args []string) {
	got := ts.ReadFile("stderr")
	if rest, found := strings.CutPrefix(got, "no vector kernels run here"); found { // a warning of generic variants
		_, got, _ = strings.Cut(rest, "\n")
	}
	if strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "herd: ") || strings.Contains(got, "goroutine ") {
		ts.Fatalf("want one line of error, got %q", got)
	}
}

// once TEXT wants stderr to say something once.
func once(ts *testscript.TestScript, neg bool, args []string) {
	if n := strings.Count(ts.ReadFile("stderr"), args[0]); n != 1 {
		ts.Fatalf("%q is said %d times", args[0], n)
	}
}

// hardlink FILE NEW makes another name of a file.
func hardlink(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.Link(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

// equal KEY FILE OTHER wants the values of a key in two JSON files equal.
func equal(ts *testscript.TestScript, neg bool, args []string) {
	if a, b := value(ts, args[1], args[0]), value(ts, args[2], args[0]); a != b {
		ts.Fatalf("%s is %s in %s, %s in %s", args[0], a, args[1], b, args[2])
	}
}

// value is that of a key in a JSON file.
func value(ts *testscript.TestScript, file, key string) string {
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &v))
	b, err := json.Marshal(v[key])
	ts.Check(err)
	return string(b)
}

// same KEY FILE wants the value of a key in stdout's JSON equal to that of the
// same key in a JSON file.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if got, want := value(ts, "stdout", args[0]), value(ts, args[1], args[0]); got != want || want == "null" {
		ts.Fatalf("%s is %s, want %s", args[0], got, want)
	}
}

// interrupt args... runs herd, sends it Ctrl-C once it has printed something,
// and wants exit code 130.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command("herd", args...)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	_, err = out.Read(make([]byte, 1))
	ts.Check(err)
	ts.Check(cmd.Process.Signal(os.Interrupt))
	for buf := make([]byte, 4096); err == nil; {
		_, err = out.Read(buf)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitCancelled {
		ts.Fatalf("exit code %d, want %d", code, exitCancelled)
	}
}

// herd runs a command line in this process.
func herd(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// canceller cancels at the first write that holds something. It has no other
// method of the buffer that would go past Write.
type canceller struct {
	text   bytes.Buffer
	cancel context.CancelFunc
}

func (c *canceller) Write(p []byte) (int, error) {
	if len(p) > 0 {
		c.cancel()
	}
	return c.text.Write(p)
}

// TestCancel stops a generation in the middle: what was generated is printed,
// as text and as JSON.
func TestCancel(t *testing.T) {
	model := filepath.Join(committedCase(t), "model.gguf")
	// A context this long is noted on stderr, once the model is loaded.
	args := []string{"generate", "-m", model, "-p", "a", "--ignore-eos", "-n", "5000", "-c", strconv.Itoa(math.MaxInt32), "--temp", "1"}

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	out := &canceller{cancel: cancel}
	var errs bytes.Buffer
	if code := run(ctx, args, strings.NewReader(""), out, &errs); code != exitCancelled {
		t.Fatalf("exit code %d, want %d; stderr %q", code, exitCancelled, errs.String())
	}
	if out.text.Len() == 0 || !strings.HasSuffix(errs.String(), "herd: interrupted\n") {
		t.Fatalf("stdout %q, stderr %q", out.text.String(), errs.String())
	}

	// With --json nothing but the note is printed before the end.
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	var text bytes.Buffer
	code := run(ctx, append(args, "--json"), strings.NewReader(""), &text, &canceller{cancel: cancel})
	var r generated
	if err := json.Unmarshal(text.Bytes(), &r); err != nil {
		t.Fatalf("%q: %v", text.String(), err)
	}
	if code != exitCancelled || r.Finish != "cancelled" || len(r.PromptTokens) == 0 {
		t.Fatalf("exit code %d, %+v", code, r)
	}
}

// TestCancelStdin stops a command that waits for its input.
func TestCancelStdin(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	time.AfterFunc(50*time.Millisecond, cancel)
	var out, errs bytes.Buffer
	model := filepath.Join(committedCase(t), "model.gguf")
	if code := run(ctx, []string{"generate", "-m", model}, r, &out, &errs); code != exitCancelled {
		t.Fatalf("exit code %d, want %d; stderr %q", code, exitCancelled, errs.String())
	}
}

// TestHelpFits80 checks every help text against a terminal of 80 columns.
func TestHelpFits80(t *testing.T) {
	commands := []string{""}
	for _, c := range newRoot().Commands() {
		if c.GroupID == "now" {
			commands = append(commands, c.Name())
		}
	}
	sort.Strings(commands)
	for _, c := range commands {
		args := slices.DeleteFunc([]string{c, "--help"}, func(s string) bool { return s == "" })
		out, errs, code := herd(t, args...)
		if code != exitDone || errs != "" {
			t.Fatalf("herd %v: exit code %d, stderr %q", args, code, errs)
		}
		for _, line := range strings.Split(out, "\n") {
			if len(line) > 80 {
				t.Errorf("herd %v: %d columns: %s", args, len(line), line)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	zero := 0.0
	for _, c := range []struct {
		x    float64
		want string
	}{{1.5, "1.5"}, {zero / zero, "null"}, {1 / zero, "null"}, {-1 / zero, "null"}, {-1 * zero, "0"}} {
		b, err := json.Marshal(number(c.x))
		if err != nil || string(b) != c.want {
			t.Errorf("%v: %s, %v; want %s", c.x, b, err, c.want)
		}
	}
}
