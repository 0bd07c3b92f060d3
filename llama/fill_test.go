package llama_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
)

// TestFillRandom: the session holds the ids, only what follows them is computed, the
// logits are numbers and hang on the keys and values, whatever their type; and a
// fill that is refused or stopped leaves an empty session.
func TestFillRandom(t *testing.T) {
	ctx := context.Background()
	for _, kv := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
		m, err := llama.NewRandom(ctx, kvConfig(64), backend.F32, llama.Options{KVType: kv, Context: 400})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		s, ids := session(t, m), randomIDs(m.Config(), 400)
		computed, err := s.Logits(ctx, ids[:300])
		if err != nil {
			t.Fatal(err)
		}
		if err := s.FillRandom(ctx, ids[:299]); err != nil || s.Len() != 299 {
			t.Fatalf("%v: %v, %d positions", kv, err, s.Len())
		}
		before := s.Usage().PrefillTokens
		filled, err := s.Logits(ctx, ids[:300])
		if n := s.Usage().PrefillTokens - before; err != nil || n != 1 {
			t.Errorf("%v: %v, %d tokens computed, want 1", kv, err, n)
		}
		same := true
		for i, x := range filled {
			same = same && x == computed[i]
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				t.Fatalf("%v: logit %d is %v", kv, i, x)
			}
		}
		if same {
			t.Errorf("%v: the keys and values have no effect", kv)
		}
		stopped, stop := context.WithCancel(ctx)
		stop()
		for name, c := range map[string]struct {
			ctx  context.Context
			ids  []int32
			want error
		}{
			"too many": {ctx, make([]int32, s.Context()+1), llama.ErrContextFull},
			"stopped":  {stopped, ids, context.Canceled},
		} {
			if err := s.FillRandom(c.ctx, c.ids); !errors.Is(err, c.want) {
				t.Errorf("%v, %s: %v, want %v", kv, name, err, c.want)
			}
		}
		if s.Len() != 0 {
			t.Errorf("%v: %d positions after a fill that was stopped", kv, s.Len())
		}
		if err := s.FillRandom(ctx, []int32{-1}); err == nil {
			t.Errorf("%v: an id outside the vocabulary is taken", kv)
		}
	}
}

// What a session costs at a depth, without computing the tokens before.
func ExampleSession_FillRandom() {
	model, session := openSmall()
	defer model.Close()
	ids := make([]int32, 300)
	if err := session.FillRandom(context.Background(), ids[:299]); err != nil {
		log.Fatal(err)
	}
	if _, err := session.Logits(context.Background(), ids); err != nil {
		log.Fatal(err)
	}
	fmt.Println(session.Len(), "positions,", session.Usage().PrefillTokens, "computed")
	// Output: 300 positions, 1 computed
}
