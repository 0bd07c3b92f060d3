package llama_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// kvConfig is a small model with heads of the given size.
func kvConfig(headDim int) llama.Config {
	c := llama.Config135M()
	c.Layers, c.Dim, c.HiddenDim, c.Heads, c.KVHeads, c.HeadDim, c.Vocab = 2, 4*headDim, 256, 4, 2, headDim, 320
	return c
}

// TestKVTypes: whatever the type of keys and values, the same bits from a prompt
// at once and token by token, the memory that was estimated, and logits near those
// of F32. Q8_0 moves a key or value by up to 1/254 of the largest of its 32, and F16
// and BF16 by 2^-12 and 2^-9; the logits of two layers move no more than that.
func TestKVTypes(t *testing.T) {
	const n = 300 // more than one part of attention
	var f32 []float32
	var size int64
	for _, k := range []struct {
		t     backend.DType
		bits  int64 // of 32 elements
		error float64
	}{{backend.F32, 1024, 0}, {backend.F16, 512, 0x1p-12}, {backend.BF16, 512, 0x1p-9}, {backend.Q8_0, 272, 1.0 / 254}} {
		var want []float32
		for _, rows := range []int{512, 1, 37} {
			m, err := llama.NewRandom(context.Background(), kvConfig(64), backend.F32, llama.Options{KVType: k.t, BatchRows: rows})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			got, err := session(t, m).Logits(context.Background(), randomIDs(m.Config(), n))
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Errorf("%v: steps of %d rows give other bits", k.t, rows)
			}
			if f32 == nil {
				f32, size = got, m.Memory().Session
			}
			if m.Memory().Session*1024 != size*k.bits {
				t.Errorf("%v: a session takes %d bytes, of F32 %d", k.t, m.Memory().Session, size)
			}
		}
		worst, at := golden.MaxRelative(want, f32)
		t.Logf("%v: logits differ by %.2g", k.t, worst)
		if worst > k.error || k.t != backend.F32 && worst == 0 {
			t.Errorf("%v: logit %d differs by %.3g, more than %.3g or not at all", k.t, at, worst, k.error)
		}
	}
}

// TestKVHeadSize: heads that are not whole blocks of Q8_0 are refused, with what
// would do.
func TestKVHeadSize(t *testing.T) {
	_, err := llama.NewRandom(context.Background(), kvConfig(48), backend.F32, llama.Options{KVType: backend.Q8_0})
	if !errors.Is(err, llama.ErrUnsupported) || !strings.Contains(err.Error(), "multiple of 32, not 48: use F16, BF16 or F32") {
		t.Errorf("heads of 48: %v", err)
	}
}

// TestForkOfPages: a fork copies the page that it goes on in, of every type.
func TestForkOfPages(t *testing.T) {
	for _, typ := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
		m := open(t, golden.Committed("models/tied-rope8/model.gguf"), llama.Options{KVType: typ})
		ids := []int32{1, 2, 3, 4, 5, 6, 7}
		want, err := session(t, m).Logits(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		s := session(t, m)
		if _, err := s.Logits(t.Context(), ids[:4]); err != nil {
			t.Fatal(err)
		}
		f, err := s.Fork()
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Logits(t.Context(), ids)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v: a fork gives other logits: %v", typ, err)
		}
		f.Close()
	}
}
