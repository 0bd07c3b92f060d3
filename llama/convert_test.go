package llama_test

import (
	"context"
	"errors"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// targets are the formats of Convert and a name for the result.
var targets = map[string]string{"gguf": "model.gguf", "safetensors": "hf", "meta": "meta"}

// floatsAs are the tensors of a model as one format's files hold them.
func floatsAs(t *testing.T, path string) (names map[string]backend.DType, info llama.Info) {
	t.Helper()
	info, err := llama.ReadInfo(context.Background(), path, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	names = map[string]backend.DType{}
	for _, tensor := range info.Tensors {
		names[tensor.Name] = tensor.Type
	}
	return names, info
}

// convert runs Convert; false where the target cannot say what the model is.
func convert(t *testing.T, in, out, to string) ([]string, bool) {
	t.Helper()
	report, err := llama.Convert(context.Background(), in, out, llama.ConvertOptions{To: to})
	if errors.Is(err, llama.ErrUnsupported) {
		if exists(out) {
			t.Fatalf("%s exists after %v", out, err)
		}
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return report.Warnings, true
}

// logitsOf computes the logits of some tokens without rounding activations.
func logitsOf(t *testing.T, path string, ids []int32) ([]float32, *llama.Model) {
	t.Helper()
	m := open(t, path, llama.Options{Precision: llama.PrecisionF32})
	return scoreAll(t, session(t, m), ids), m
}

// TestConvert takes every model in every format to every format, and back to
// the first: the logits are the same at each stop, and the tensors that come
// back have the types they had.
func TestConvert(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*") {
		for path, ref := range formats(dir) {
			ids := readReference(t, ref, "logits").ids[0]
			want, source := logitsOf(t, path, ids)
			before, info := floatsAs(t, path)
			for to, name := range targets {
				t.Run(golden.Name(path)+"/"+to, func(t *testing.T) {
					out := filepath.Join(t.TempDir(), name)
					warnings, ok := convert(t, path, out, to)
					if !ok {
						if mayRefuse := to == "meta" && !exists(filepath.Join(dir, "meta")) || hiddenRope(t, dir, info); !mayRefuse {
							t.Fatal("refused")
						}
						return
					}
					if len(warnings) > 0 && strings.Contains(strings.Join(warnings, " "), "factor") {
						if to != "meta" {
							t.Fatal(warnings)
						}
						return // the logits differ, as the warning says
					}
					sameModel(t, out, source, want, ids, warnings)
					back := filepath.Join(t.TempDir(), targets[info.Format])
					more, ok := convert(t, out, back, info.Format)
					if !ok {
						t.Fatal("the way back is refused")
					}
					sameModel(t, back, source, want, ids, append(warnings, more...))
					after, _ := floatsAs(t, back)
					for name, dtype := range after {
						if old, ok := before[name]; !ok || old != dtype {
							t.Errorf("tensor %s: %v came back as %v", name, old, dtype)
						}
					}
				})
			}
		}
	}
}

// hiddenRope tells whether a file holds RoPE factors alone, of settings that
// are not of the published form, so that nobody can name them.
func hiddenRope(t *testing.T, dir string, info llama.Info) bool {
	_, hf := floatsAs(t, filepath.Join(dir, "hf"))
	s := hf.Config.RopeScaling
	published := s.LowFreqFactor == 1 && s.HighFreqFactor == 4 && bits.OnesCount(uint(s.OriginalContext)) == 1
	return info.Config.RopeScaling.Type == "factors" && !published
}

// sameModel checks the model at path against one it was made from. Where the
// tokenizer changed, a warning has said so.
func sameModel(t *testing.T, path string, source *llama.Model, want []float32, ids []int32, warnings []string) {
	t.Helper()
	got, m := logitsOf(t, path, ids)
	if len(got) != len(want) {
		t.Fatalf("%d logits, want %d", len(got), len(want))
	}
	// The factors of GGUF's rope_freqs round frequencies in the last place.
	if worst, at := golden.MaxRelative(got, want); !(worst <= golden.F32Logits/10) {
		t.Errorf("logit %d differs by %v of the largest", at, worst)
	}
	for _, id := range source.StopTokens() { // some readers know more by their names
		if !slices.Contains(m.StopTokens(), id) {
			t.Errorf("token %d no longer stops: %v", id, m.StopTokens())
		}
	}
	spaces := strings.Contains(strings.Join(warnings, " "), "space")
	for _, text := range []string{"The file sees 12345 kings,  don't\n\n\tthey?", " a", "Zoë's naïve “日本語” 🦙"} {
		g, errG := m.Encode(text)
		w, errW := source.Encode(text)
		if errG != nil || errW != nil || !slices.Equal(g, w) && !(spaces && strings.HasPrefix(text, " ")) {
			t.Errorf("%q: ids %v (%v), want %v (%v); warnings %q", text, g, errG, w, errW, warnings)
		}
	}
}

// TestConvertQuantised decodes quantised matrices exactly.
func TestConvertQuantised(t *testing.T) {
	paths := golden.Glob(t, "quant/models/*/*.gguf")
	for _, path := range paths {
		t.Run(golden.Name(path), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "hf")
			if _, ok := convert(t, path, out, "safetensors"); !ok {
				t.Fatal("refused")
			}
			ids := readReference(t, filepath.Join(filepath.Dir(path), "logits.safetensors"), strings.TrimSuffix(filepath.Base(path), ".gguf")).ids[0]
			want, _ := logitsOf(t, path, ids)
			got, _ := logitsOf(t, out, ids)
			worst, at := golden.MaxRelative(got, want)
			if !(worst <= golden.F32Logits) {
				t.Errorf("logit %d differs by %v of the largest", at, worst)
			}
			after, _ := floatsAs(t, out)
			for name, dtype := range after {
				if !dtype.Float() {
					t.Errorf("%s is %v", name, dtype)
				}
			}
		})
	}
}

// TestConvertType stores every matrix as it is told to.
func TestConvertType(t *testing.T) {
	paths := golden.Glob(t, "models/*/model.gguf")
	for _, dtype := range []backend.DType{backend.F32, backend.F16, backend.BF16} {
		out := filepath.Join(t.TempDir(), "out")
		report, err := llama.Convert(context.Background(), paths[0], out, llama.ConvertOptions{To: "safetensors", Type: dtype})
		if err != nil {
			t.Fatal(err)
		}
		after, _ := floatsAs(t, out)
		if len(report.Tensors) != len(after) {
			t.Errorf("%d tensors reported, %d written", len(report.Tensors), len(after))
		}
		for name, got := range after {
			if got != dtype {
				t.Errorf("%s is %v, want %v", name, got, dtype)
			}
		}
	}
}

// TestConvertStops leaves nothing behind when it is cancelled, and nothing
// changed where something is.
func TestConvertStops(t *testing.T) {
	paths := golden.Glob(t, "models/*/meta") // those that every format can hold
	if len(paths) == 0 {
		t.Fatal("no model in Meta's format")
	}
	path := paths[0]
	for to, name := range targets {
		dir := t.TempDir()
		out := filepath.Join(dir, name)
		ctx, cancel := context.WithCancel(context.Background())
		_, err := llama.Convert(ctx, path, out, llama.ConvertOptions{To: to, Progress: func(llama.Progress) { cancel() }})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", to, err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: left %v", to, left)
		}
		if to == "gguf" {
			continue
		}
		if err := os.MkdirAll(out, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, "mine"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := llama.Convert(context.Background(), path, out, llama.ConvertOptions{To: to}); err == nil {
			t.Errorf("%s: wrote into a folder that holds something", to)
		}
		if left, _ := os.ReadDir(out); len(left) != 1 {
			t.Errorf("%s: the folder now holds %v", to, left)
		}
	}
	for _, o := range []llama.ConvertOptions{{}, {To: "onnx"}, {To: "gguf", Type: backend.I8}} {
		if _, err := llama.Convert(context.Background(), path, filepath.Join(t.TempDir(), "x"), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// TestRopeSettings recovers the settings of llama3 scaling from a GGUF file
// that holds only the factors.
func TestRopeSettings(t *testing.T) {
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		_, want := floatsAs(t, filepath.Join(filepath.Dir(path), "hf"))
		if _, info := floatsAs(t, path); hiddenRope(t, filepath.Dir(path), info) {
			continue
		}
		out := filepath.Join(t.TempDir(), "hf")
		convert(t, path, out, "safetensors")
		_, got := floatsAs(t, out)
		g, w := got.Config.RopeScaling, want.Config.RopeScaling
		if g.Type != w.Type || g.Factor != w.Factor || g.LowFreqFactor != w.LowFreqFactor || g.HighFreqFactor != w.HighFreqFactor {
			t.Errorf("%s: %+v, want %+v", golden.Name(path), g, w)
		}
	}
}
