package train

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// readRows returns the rows of a file.
func readRows(t testing.TB, path string) (all []Row) {
	t.Helper()
	for r, err := range ReadMetrics(path) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

var someRows = []Row{
	{Step: 1, Loss: 10.5, GradNorm: 3, LR: 1e-4, Tokens: 1024, TokensPerSecond: 2500.5, MFU: 0.65},
	{Step: 2, Loss: 9.25, GradNorm: 2, LR: 2e-4, Tokens: 2048, TokensPerSecond: 2600, MFU: 0.66},
	{Step: 2, Eval: true, Loss: 9.5, Tokens: 500},
	{Step: 3, Loss: 8, GradNorm: 1, LR: 3e-4, Tokens: 3072, TokensPerSecond: 2700, MFU: 0.67},
}

func TestMetrics(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.jsonl")
	m, err := OpenMetrics(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(someRows, Row{Step: 4, Loss: math.NaN(), GradNorm: math.Inf(1)}) {
		if err := m.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path) // before Close: each line is there at once
	if err != nil {
		t.Fatal(err)
	}
	want := `{"step":1,"loss":10.5,"grad_norm":3,"lr":0.0001,"tokens":1024,"tokens_per_s":2500.5,"mfu":0.65}
{"step":2,"loss":9.25,"grad_norm":2,"lr":0.0002,"tokens":2048,"tokens_per_s":2600,"mfu":0.66}
{"step":2,"eval_loss":9.5,"eval_tokens":500}
{"step":3,"loss":8,"grad_norm":1,"lr":0.0003,"tokens":3072,"tokens_per_s":2700,"mfu":0.67}
{"step":4,"loss":null,"grad_norm":null,"lr":0,"tokens":0,"tokens_per_s":0,"mfu":0}
`
	if string(b) != want {
		t.Errorf("%s\nwant\n%s", b, want)
	}
	for line := range strings.Lines(string(b)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%s is no JSON", line)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	rows := readRows(t, path)
	if !reflect.DeepEqual(rows[:4], someRows) || !math.IsNaN(rows[4].Loss) {
		t.Errorf("read back: %+v", rows)
	}
}

// TestMetricsResume cuts what a run wrote after the step that is gone on from, and
// half a line.
func TestMetricsResume(t *testing.T) {
	var lines [][]byte
	for _, r := range someRows {
		lines = append(lines, r.appendJSON(nil))
	}
	all := bytes.Join(lines, nil)
	half := append(bytes.Clone(all), `{"step":4,"lo`...)
	zeros := append(bytes.Clone(all), 0, 0, 0) // of a machine that lost power
	for _, c := range []struct {
		content []byte
		step    int64
		want    []byte
	}{
		{all, 3, all},
		{all, 9, all},
		{half, 3, all},
		{zeros, 3, all},
		{half, 2, bytes.Join(lines[:3], nil)}, // the evaluation of step 2 stays
		{all, 1, lines[0]},
		{all, 0, nil},
		{nil, 5, nil},
	} {
		path := filepath.Join(t.TempDir(), "m.jsonl")
		if err := os.WriteFile(path, c.content, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := OpenMetrics(path, c.step)
		if err != nil {
			t.Fatal(err)
		}
		next := Row{Step: c.step + 1, Loss: 1}
		if err := m.Add(next); err != nil {
			t.Fatal(err)
		}
		m.Close()
		b, _ := os.ReadFile(path)
		if want := string(c.want) + string(next.appendJSON(nil)); string(b) != want {
			t.Errorf("after step %d:\n%s\nwant\n%s", c.step, b, want)
		}
	}
}

func TestMetricsBroken(t *testing.T) {
	for _, content := range []string{"{\"step\":1}\nnonsense\n", "{}\n", "{\"step\":-1}\n", "{\"step\":1,\"loss\":\"a\"}\n", strings.Repeat("x", 1<<20)} {
		path := filepath.Join(t.TempDir(), "m.jsonl")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenMetrics(path, 5); err == nil || !strings.Contains(err.Error(), "is no row of metrics") {
			t.Errorf("%.40s: %v", content, err)
		}
		if b, _ := os.ReadFile(path); string(b) != content {
			t.Errorf("%.40s: the file has changed", content)
		}
	}
}

// TestRecorder starts, goes on, and starts over.
func TestRecorder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run [1]")
	files := func() (n int) {
		entries, _ := os.ReadDir(dir)
		return len(entries)
	}
	for _, c := range []struct{ step, rows, files int64 }{{0, 4, 2}, {2, 7, 3}, {0, 4, 2}} {
		r, err := OpenRecorder(dir, c.step)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range someRows {
			if err := r.Add(row); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got := len(readRows(t, filepath.Join(dir, MetricsFile))); got != int(c.rows) || files() != int(c.files) {
			t.Errorf("after step %d: %d rows and %d files, want %d and %d", c.step, got, files(), c.rows, c.files)
		}
	}
}

// TestRecorderKilled: half a record at the end of an event file is cut by the run that
// goes on.
func TestRecorderKilled(t *testing.T) {
	dir := t.TempDir()
	r, err := OpenRecorder(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Add(someRows[0])
	r.Close()
	path := r.events.Name()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(bytes.Clone(whole), whole[:9]...), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err = OpenRecorder(dir, 1); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("%d bytes are left, want %d: %v", len(b), len(whole), err)
	}
}

// TestLossCurves: the curves of a metrics file are its losses, those of evaluations
// apart, and the smoothed one leaves out what is no number.
func TestLossCurves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.jsonl")
	if _, err := ReadLossCurves(path); err == nil {
		t.Error("a file that is not there is read")
	}
	m, err := OpenMetrics(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := ReadLossCurves(path); err != nil || len(c.Steps.X)+len(c.Smooth.X)+len(c.Eval.X) != 0 {
		t.Errorf("no row gives %v, %v", c, err)
	}
	for _, r := range []Row{{Step: 1, Loss: 4}, {Step: 2, Loss: math.NaN()}, {Step: 2, Eval: true, Loss: 5}, {Step: 3, Loss: 3}} {
		m.Add(r)
	}
	m.Close()
	c, err := ReadLossCurves(path)
	if err != nil {
		t.Fatal(err)
	}
	// The mean of 4 and 3 with the weights 1 and, after one other, 10/11.
	for _, x := range []struct {
		what      string
		got       Curve
		steps, ys []float64
	}{
		{"steps", c.Steps, []float64{1, 2, 3}, []float64{4, math.NaN(), 3}},
		{"smooth", c.Smooth, []float64{1, 2, 3}, []float64{4, 4, 4 - 10.0/11}},
		{"eval", c.Eval, []float64{2}, []float64{5}},
	} {
		if !slices.Equal(x.got.X, x.steps) || !slices.EqualFunc(x.got.Y, x.ys, func(a, b float64) bool {
			return math.Abs(a-b) < 1e-12 || math.IsNaN(a) && math.IsNaN(b)
		}) {
			t.Errorf("%s: %v, want %v %v", x.what, x.got, x.steps, x.ys)
		}
	}
	if err := os.WriteFile(path, []byte("no row\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadLossCurves(path); err == nil {
		t.Error("a broken file is read")
	}
}

// TestCurve: the points of a curve are bounded, and those of a straight line lie on
// it, whatever is averaged.
func TestCurve(t *testing.T) {
	for _, n := range []int{0, 1, 1999, 2000, 2001, 100_003} {
		var c thinned
		for i := 1; i <= n; i++ {
			v := 2 * float64(i)
			if i == 7 {
				v = math.NaN()
			}
			c.add(int64(i), v)
		}
		l := c.end()
		if len(l.X) > curvePoints || n > 0 && len(l.X) < min(n, curvePoints/2-1) {
			t.Errorf("%d points of %d", len(l.X), n)
		}
		for i, x := range l.X {
			if n < curvePoints && i == 6 {
				continue // the missing one
			}
			if math.Abs(l.Y[i]-2*x) > 64 { // beside it is half of a mean of 64
				t.Errorf("n %d: point %d: %v, %v", n, i, x, l.Y[i])
			}
			if i > 0 && x <= l.X[i-1] {
				t.Errorf("n %d: x falls from %v to %v", n, l.X[i-1], x)
			}
		}
	}
}

func FuzzMetrics(f *testing.F) {
	for _, r := range someRows {
		f.Add(r.appendJSON(nil), int64(2))
	}
	f.Add([]byte("{\"step\":1}\n{\"step\":"), int64(1))
	f.Fuzz(func(t *testing.T, content []byte, step int64) {
		path := filepath.Join(t.TempDir(), "m.jsonl")
		os.WriteFile(path, content, 0o644)
		m, err := OpenMetrics(path, step)
		if err != nil {
			return
		}
		m.Close()
		b, _ := os.ReadFile(path)
		if !bytes.HasPrefix(content, b) || len(b) > 0 && b[len(b)-1] != '\n' {
			t.Errorf("%q is kept of %q", b, content)
		}
		for _, r := range readRows(t, path) {
			if r.Step > step {
				t.Errorf("step %d is kept after %d", r.Step, step)
			}
		}
	})
}

func ExampleReadMetrics() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	r, err := OpenRecorder(dir, 0) // 0: a new run
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Add(Row{Step: 1, Loss: 10.5, LR: 1e-4, Tokens: 2048})
	r.Add(Row{Step: 1, Eval: true, Loss: 10.25, Tokens: 500})
	r.Close()
	for row, err := range ReadMetrics(filepath.Join(dir, MetricsFile)) {
		fmt.Println(row.Step, row.Eval, row.Loss, row.Tokens, err)
	}
	// Output:
	// 1 false 10.5 2048 <nil>
	// 1 true 10.25 500 <nil>
}

func ExampleReadLossCurves() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	r, err := OpenRecorder(dir, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Add(Row{Step: 1, Loss: 10.5})
	r.Add(Row{Step: 2, Loss: 9.5})
	r.Add(Row{Step: 2, Eval: true, Loss: 10.25})
	r.Close()
	c, err := ReadLossCurves(filepath.Join(dir, MetricsFile))
	fmt.Println(c.Steps, c.Eval, err)
	// Output: {[1 2] [10.5 9.5]} {[2] [10.25]} <nil>
}
