package quantize_test

import (
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/herd-ml/herd/llama/quantize"
)

// writeBase writes a base file of one row.
func writeBase(t testing.TB, path string, row []float32) quantize.Base {
	t.Helper()
	b := quantize.Base{Vocab: len(row), Size: 4, IDs: []int32{0, 1, 2, 1}}
	err := quantize.WriteBase(path, b, func(write func([]float32) error) error { return write(row) })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBase: what is written comes back, row by row.
func TestBase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base")
	row := []float32{-1, -0.5, -2.25}
	want := writeBase(t, path, row)
	r, err := quantize.OpenBase(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]float32, 3)
	if err := r.Next(got); err != nil || !reflect.DeepEqual(r.Base, want) || !reflect.DeepEqual(got, row) {
		t.Errorf("%+v, %v, %v", r.Base, got, err)
	}
	if err := r.Next(got); err != io.EOF {
		t.Errorf("after the last row: %v", err)
	}
	few := quantize.WriteBase(path+"2", want, func(func([]float32) error) error { return nil })
	if _, err := os.Stat(path + "2"); few == nil || err == nil {
		t.Errorf("a file without its row: %v, %v", few, err)
	}
	mine := errors.New("mine")
	if err := quantize.WriteBase(path+"2", want, func(func([]float32) error) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("the error of rows is %v", err)
	}
}

// TestBaseHeads refuses heads whose numbers cannot be, without taking memory for them.
func TestBaseHeads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "base")
	writeBase(t, path, []float32{-1, -1, -1})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 8; at < 32; at += 8 {
		for _, v := range []byte{0, 1, 5, 0x7f, 0xff} {
			for i := range 8 {
				bad := append([]byte(nil), whole...)
				if bad[at+i] == v {
					continue
				}
				bad[at+i] = v
				if err := os.WriteFile(path, bad, 0o644); err != nil {
					t.Fatal(err)
				}
				if _, err := quantize.OpenBase(path); err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("byte %d is %d: %v", at+i, v, err)
				}
			}
		}
	}
}

// TestLogSoftmax compares with the definition, of large logits too.
func TestLogSoftmax(t *testing.T) {
	logits := []float32{1, 2, 3, -1e30, 2.5}
	sum := 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x))
	}
	for _, shift := range []float32{0, 1 << 20} {
		moved, got := make([]float32, len(logits)), make([]float32, len(logits))
		for i, x := range logits {
			moved[i] = x + shift
		}
		quantize.LogSoftmax(got, moved)
		for i, x := range logits {
			if want := float64(x) - math.Log(sum); math.Abs(float64(got[i])-want) > 1e-6*math.Abs(want) {
				t.Errorf("logit %v + %v: %v, want %v", x, shift, got[i], want)
			}
		}
	}
}

// FuzzOpenBase reads anything without harm.
func FuzzOpenBase(f *testing.F) {
	path := filepath.Join(f.TempDir(), "base")
	writeBase(f, path, []float32{-1, -2})
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "base")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := quantize.OpenBase(path)
		if err != nil {
			return
		}
		defer r.Close()
		row := make([]float32, r.Vocab)
		for err == nil {
			err = r.Next(row)
		}
	})
}
