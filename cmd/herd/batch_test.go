package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// lineCount FILE N wants a file to have so many lines.
func lineCount(ts *testscript.TestScript, neg bool, args []string) {
	if n := strings.Count(ts.ReadFile(args[0]), "\n"); strconv.Itoa(n) != args[1] {
		ts.Fatalf("%d lines, want %s", n, args[1])
	}
}

// sameRows FILE wants the lines of stdout to be those of a file, but for times.
func sameRows(ts *testscript.TestScript, neg bool, args []string) {
	var all [2][]map[string]any
	for i, file := range []string{"stdout", args[0]} {
		for line := range strings.Lines(ts.ReadFile(file)) {
			var v map[string]any
			ts.Check(json.Unmarshal([]byte(line), &v))
			delete(v, "timings")
			all[i] = append(all[i], v)
		}
	}
	if !reflect.DeepEqual(all[0], all[1]) {
		ts.Fatalf("rows %v, want %v", all[0], all[1])
	}
}

// windows FILE writes a file as some editors of Windows do: with a byte order mark and other
// ends of lines.
func windows(ts *testscript.TestScript, neg bool, args []string) {
	text := "\ufeff" + strings.ReplaceAll(ts.ReadFile(args[0]), "\n", "\r\n")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// batchOf writes a file of n rows and returns the arguments of a run with it.
func batchOf(t *testing.T, n int) (args []string) {
	t.Helper()
	var rows bytes.Buffer
	for i := range n {
		fmt.Fprintf(&rows, "{\"prompt\": \"row %d\", \"id\": %d}\n", i%7, i)
	}
	file := filepath.Join(t.TempDir(), "rows.jsonl")
	if err := os.WriteFile(file, rows.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"generate", "-m", filepath.Join(committedCase(t), "model.gguf"), "--batch", file, "--ignore-eos", "--seed", "1", "-q"}
}

// rowIDs wants the ids of the rows printed to count from 0, each of a finished result, and
// returns how many there are.
func rowIDs(t *testing.T, text string) (n int) {
	t.Helper()
	for line := range strings.Lines(text) {
		var v struct {
			ID     int
			Finish string
			Error  string
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if v.Finish != "length" || v.Error != "" {
			t.Errorf("row %d: %s", v.ID, line)
		}
		if v.ID != n {
			t.Fatalf("row %d in place %d", v.ID, n)
		}
		n++
	}
	return n
}

// oneToken are the arguments of a run that generates a token for each row of stdin.
func oneToken(t *testing.T) []string {
	t.Helper()
	return []string{"generate", "-m", filepath.Join(committedCase(t), "model.gguf"), "--batch", "-", "-n", "1", "--seed", "1", "-q"}
}

// TestBatchOrder: many rows come back in their order, from more streams than there are
// processors.
func TestBatchOrder(t *testing.T) {
	const n = 300
	out, errs, code := herd(t, append(batchOf(t, n), "-n", "2", "-np", "40")...)
	if code != exitDone || errs != "" {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	if got := rowIDs(t, out); got != n {
		t.Fatalf("%d rows of %d", got, n)
	}
}

// TestBatchCancel: after Ctrl-C the lines are those of the first rows, each whole.
func TestBatchCancel(t *testing.T) {
	const n = 3000
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	out, errs := &canceller{cancel: cancel}, bytes.Buffer{}
	if code := run(ctx, append(batchOf(t, n), "-n", "20", "-np", "4"), strings.NewReader(""), out, &errs); code != exitCancelled {
		t.Fatalf("exit code %d, want %d; stderr %q", code, exitCancelled, errs.String())
	}
	if errs.String() != "herd: interrupted\n" {
		t.Errorf("stderr %q", errs.String())
	}
	if got := rowIDs(t, out.text.String()); got == 0 || got == n {
		t.Fatalf("%d rows of %d are printed", got, n)
	}
}

// broken is a pipe that nobody reads any more.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestBatchEnds: where printing fails, the run ends, while stdin waits for more.
func TestBatchEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := w.WriteString("{\"prompt\": \"a\"}\n"); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	if code := run(t.Context(), oneToken(t), r, broken{}, &errs); code != exitFailed || !strings.Contains(errs.String(), "closed pipe") {
		t.Errorf("exit code %d, stderr %q", code, errs.String())
	}
}

// TestBatchStreams: a row is answered while stdin waits for more.
func TestBatchStreams(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	printed, out := io.Pipe()
	lines := bufio.NewReader(printed)
	done := make(chan int)
	args := oneToken(t)
	go func() { done <- run(t.Context(), args, r, out, io.Discard) }()
	for i := range 3 {
		if _, err := fmt.Fprintf(w, "{\"prompt\": \"a\", \"id\": %d}\n", i); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil || !strings.HasSuffix(line, fmt.Sprintf("\"id\":%d}\n", i)) {
			t.Fatalf("row %d: %q, %v", i, line, err)
		}
	}
	w.Close()
	if code := <-done; code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// TestRowSeed: the first numbers of the generator from 1234567, as they are published
// (https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64), without their last bits.
func TestRowSeed(t *testing.T) {
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821} {
		if got := rowSeed(1234567, i); got != want>>11 {
			t.Errorf("row %d has seed %d, want %d", i, got, want>>11)
		}
	}
}

// TestLongLine: a line that is too long is an error in its place, and takes no memory.
func TestLongLine(t *testing.T) {
	for _, end := range []string{"\n", ""} {
		l := lineReader{r: bufio.NewReaderSize(strings.NewReader("ab\n"+strings.Repeat("x", 5000)+"\ncd"+end), 16), most: 100}
		var got []string
		for {
			text, err := l.line()
			if err != nil && err != io.EOF {
				text = err.Error()
			}
			got = append(got, text)
			if err == io.EOF {
				break
			}
		}
		want := []string{"ab\n", errLongLine.Error(), "cd" + end, ""}
		if end == "" {
			want = want[:3]
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
