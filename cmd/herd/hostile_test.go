package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Bounds on herd info with a bad file.
const (
	infoTime = time.Second // of the processor
	infoRSS  = 200 << 20   // bytes
)

// child runs a command line in a process of its own. It tells the processor's
// time that the process took, and the most memory resident at once, 0 where the
// system does not say.
func child(t *testing.T, args ...string) (stdout, stderr string, code int, took time.Duration, rss int64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := &exec.Cmd{Path: exe, Args: append([]string{"herd"}, args...), Stdout: &out, Stderr: &errs} // see TestMain
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	took = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode(), took, maxRSS(cmd.ProcessState)
}

// header is the start of a GGUF file; parts are numbers, written little-endian,
// and strings, written with their length.
func header(parts ...any) string {
	b := []byte("GGUF")
	for _, p := range append([]any{uint32(3)}, parts...) {
		if s, ok := p.(string); ok {
			b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
			b = append(b, s...)
			continue
		}
		var err error
		if b, err = binary.Append(b, binary.LittleEndian, p); err != nil {
			panic(err) // not a number: a mistake in the table
		}
	}
	return string(b)
}

// TestBadFiles runs herd info on what no model is: one clear line, exit code 1,
// in a second and 200 MB. Package gguf tests each way to be bad on its own.
func TestBadFiles(t *testing.T) {
	const array, str, u32 = uint32(9), uint32(8), uint32(4)
	huge := uint64(math.MaxUint64)
	one, none := uint64(1), uint64(0)
	good, err := os.ReadFile(filepath.Join(committedCase(t), "model.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"empty.gguf":           "",
		"magic.gguf":           "GGUF",
		"noise.gguf":           strings.Repeat("\xa7", 1<<16),
		"zeros.gguf":           strings.Repeat("\x00", 1<<20),
		"keys.gguf":            header(none, huge),
		"tensors.gguf":         header(huge, none),
		"many.gguf":            header(uint64(1<<40), uint64(1<<40)),
		"string.gguf":          header(none, one, huge),
		"array.gguf":           header(none, one, "a", array, u32, uint64(1)<<63),
		"strings.gguf":         header(none, one, "a", array, str, uint64(1)<<61),
		"arrays.gguf":          header(none, one, "a", array, array, uint64(1)<<40),
		"deep.gguf":            header(none, one, "a") + strings.Repeat(header(array, one)[8:], 1<<16),
		"type.gguf":            header(none, one, "a", uint32(99)),
		"dims.gguf":            header(one, none, "a", uint32(math.MaxUint32)),
		"wrap.gguf":            header(one, none, "a", uint32(2), huge, uint64(2), uint32(0), none),
		"offset.gguf":          header(one, none, "a", uint32(1), uint64(32), uint32(0), uint64(1)<<63),
		"size.gguf":            header(one, none, "a", uint32(2), uint64(1)<<31, uint64(1)<<31, uint32(0), none),
		"v1.gguf":              "GGUF\x01\x00\x00\x00" + strings.Repeat("\x00", 64),
		"swapped.gguf":         "GGUF\x00\x00\x00\x03" + strings.Repeat("\x00", 64),
		"half.gguf":            string(good[:len(good)/2]),
		"start.gguf":           string(good[:1000]),
		"hf/config.json":       "{",
		"deepjson/config.json": strings.Repeat(`{"model_type":`, 1<<18),
		"layers/config.json": `{"model_type":"llama","num_hidden_layers":1000000000,"hidden_size":64,"num_attention_heads":4,
			"intermediate_size":64,"vocab_size":100,"max_position_embeddings":100,"rms_norm_eps":1e-5}`,
		"big/config.json": `{"model_type":"llama","num_hidden_layers":4096,"hidden_size":1048576,"num_attention_heads":64,
			"intermediate_size":1048576,"vocab_size":16777216,"max_position_embeddings":2147483647,"rms_norm_eps":1e-5}`,
		"big/model.safetensors":    "\x02\x00\x00\x00\x00\x00\x00\x00{}",
		"head/config.json":         `{"model_type":"llama"}`,
		"head/model.safetensors":   strings.Repeat("\xff", 64),
		"meta/params.json":         `{"dim":64,"n_layers":2,"n_heads":4,"vocab_size":100,"multiple_of":32,"norm_eps":1e-5}`,
		"meta/consolidated.00.pth": "PK\x05\x06" + strings.Repeat("\x00", 18),
		"param/params.json":        `{"dim":-1}`,
		"weights.safetensors":      "x",
		"nothing/readme.txt":       "x",
	}
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name := range files {
		model := filepath.Join(dir, strings.Split(name, "/")[0])
		problem, slow := badInfo(t, model)
		for try := 1; slow && try < 3; try++ { // a busy machine may take longer
			problem, slow = badInfo(t, model)
		}
		if problem != "" {
			t.Errorf("%s: %s", name, problem)
		}
	}
}

// badInfo says what is wrong with the way herd info refuses a model.
func badInfo(t *testing.T, model string) (problem string, slow bool) {
	t.Helper()
	stdout, stderr, code, took, rss := child(t, "info", "-m", model)
	switch {
	case code != exitFailed || stdout != "" && !strings.Contains(stderr, "cannot be loaded"): // what can be read is shown
		return fmt.Sprintf("exit code %d, want %d; stdout %.100q, stderr %q", code, exitFailed, stdout, stderr), false
	case strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "herd: ") || strings.Contains(stderr, "goroutine") || strings.Contains(stderr, "internal error"):
		return fmt.Sprintf("stderr %q", stderr), false
	case !strings.Contains(stderr, filepath.Base(model)):
		return fmt.Sprintf("stderr %q does not name it", stderr), false
	case rss > infoRSS:
		return fmt.Sprintf("%d bytes resident", rss), false
	case took > infoTime:
		return fmt.Sprintf("took %v", took), true
	}
	return "", false
}
