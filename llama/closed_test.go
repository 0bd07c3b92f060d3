package llama_test

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/peft"
)

// goesOn lists methods that return an error for another reason than that the model or
// session is closed, or work afterwards.
var goesOn = map[string]bool{
	"Close": true,
	// Of the vocabulary and the format of chats alone.
	"Encode": true, "ChatFormat": true, "ChatPrompt": true, "NewReply": true,
	// Wants a context with a step under way, which a test of its own gives it.
	"Forward": true,
}

// arguments makes what a method is called with.
func arguments(t *testing.T, f reflect.Type, dir string, n *atomic.Int64) (in []reflect.Value) {
	for i := range f.NumIn() {
		if f.IsVariadic() && i == f.NumIn()-1 {
			break
		}
		v := reflect.New(f.In(i)).Elem()
		switch v.Interface().(type) {
		case string: // a prompt, or a folder that is not there
			v.SetString(filepath.Join(dir, string(rune('a'+n.Add(1)%26))+time.Now().Format("150405.000000000")))
		case int:
			v.SetInt(1)
		case []int32:
			v.Set(reflect.ValueOf([]int32{1, 2, 3, 4, 5}))
		case []chat.Message:
			v.Set(reflect.ValueOf([]chat.Message{{Role: "user"}}))
		case llama.GenerateOptions:
			v.Set(reflect.ValueOf(llama.GenerateOptions{MaxTokens: 3}))
		case peft.Config:
			v.Set(reflect.ValueOf(peft.Config{Rank: 2, Alpha: 2, Targets: []string{"q_proj"}}))
		default:
			if f.In(i) == reflect.TypeFor[context.Context]() {
				v.Set(reflect.ValueOf(t.Context()))
			} else if f.In(i).Kind() == reflect.Func {
				v.Set(reflect.MakeFunc(f.In(i), func([]reflect.Value) []reflect.Value { return nil }))
			}
		}
		in = append(in, v)
	}
	return in
}

// call calls a method, goes through the sequence that it returns, and returns the last
// error that there is.
func call(f reflect.Value, in []reflect.Value) (err error, fails bool) {
	for _, out := range f.Call(in) {
		switch x := out.Interface().(type) {
		case error:
			err = x
		case *llama.Session:
			if x != nil {
				x.Close()
			}
		}
		fails = fails || out.Type() == reflect.TypeFor[error]()
		if out.Kind() == reflect.Func && out.Type().CanSeq2() {
			fails = true
			for _, e := range out.Seq2() {
				err, _ = e.Interface().(error)
			}
		}
	}
	return err, fails
}

// TestClosed: every method of a closed model, and of a closed session, that can return an
// error returns ErrClosed, and none panics.
func TestClosed(t *testing.T) {
	path, _ := tiny(t, 0)
	var n atomic.Int64
	for _, closes := range []string{"model", "session"} {
		m := open(t, path, llama.Options{})
		s := session(t, m)
		objects := []any{s}
		if closes == "model" {
			m.Close()
			objects = append(objects, m)
		} else {
			s.Close()
		}
		for _, o := range objects {
			v := reflect.ValueOf(o)
			for i := range v.NumMethod() {
				name := v.Type().Method(i).Name
				if goesOn[name] {
					continue
				}
				func() {
					defer func() {
						if fault := recover(); fault != nil {
							t.Errorf("%T.%s with a closed %s panics: %v", o, name, closes, fault)
						}
					}()
					err, fails := call(v.Method(i), arguments(t, v.Method(i).Type(), t.TempDir(), &n))
					if fails && !errors.Is(err, llama.ErrClosed) {
						t.Errorf("%T.%s with a closed %s: %v, want ErrClosed", o, name, closes, err)
					}
				}()
			}
		}
	}
}

// TestMethodsAtOnce calls every method of a model and of its sessions at once, and closes
// both meanwhile, for the race detector. Nothing hangs or panics.
func TestMethodsAtOnce(t *testing.T) {
	path, _ := tiny(t, 0)
	var n atomic.Int64
	for range 3 {
		m := open(t, path, llama.Options{})
		var wg sync.WaitGroup
		for range 2 {
			s := session(t, m)
			for _, o := range []any{m, s} {
				v := reflect.ValueOf(o)
				for i := range v.NumMethod() {
					name := v.Type().Method(i).Name
					if name == "Close" || name == "Forward" {
						continue
					}
					in := arguments(t, v.Method(i).Type(), t.TempDir(), &n)
					wg.Go(func() {
						for range 3 {
							call(v.Method(i), in)
						}
					})
				}
			}
			wg.Go(func() { time.Sleep(20 * time.Millisecond); s.Close() })
		}
		wg.Go(func() { time.Sleep(30 * time.Millisecond); m.Close() })
		wg.Wait()
	}
}

// TestAdapterMemory: what an added adapter takes is in Memory, counts against the limit,
// from which idle pages give way, and is given back where it cannot be added.
func TestAdapterMemory(t *testing.T) {
	path, ids := tiny(t, 64)
	config := peft.Config{Rank: 4, Alpha: 4, Targets: []string{"q_proj", "v_proj"}}
	m := open(t, path, llama.Options{Context: 64})
	before := m.Memory()
	if err := m.AddAdapter(t.Context(), config, 1); err != nil {
		t.Fatal(err)
	}
	var want int64
	for _, p := range training(t, m).Trainable() {
		want += 4 * int64(p.Param.Shape.Elems())
	}
	if got := m.Memory().Weights - before.Weights; got != want || want == 0 {
		t.Errorf("the adapter counts as %d bytes, want %d", got, want)
	}
	for _, c := range []struct {
		limit int64
		used  func(s *llama.Session)
		err   error
	}{
		{before.Total() + want, func(*llama.Session) {}, nil},
		{before.Total(), func(s *llama.Session) { s.Close() }, nil}, // the idle page makes room, where it is large enough
		{before.Total(), func(*llama.Session) {}, llama.ErrMemory},
	} {
		if before.Session < want {
			t.Skip("a page is smaller than the adapter")
		}
		m := open(t, path, llama.Options{Context: 64, MemoryLimit: c.limit})
		s := session(t, m)
		if _, err := s.Logits(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		c.used(s)
		for range 2 { // the second time there is one, or still no room
			if err := m.AddAdapter(t.Context(), config, 1); !errors.Is(err, c.err) {
				t.Errorf("with a limit of %d: %v, want %v", c.limit, err, c.err)
			}
			if c.err == nil {
				break
			}
		}
		if c.err != nil && m.Memory() != before {
			t.Errorf("after a refusal the model takes %v, before %v", m.Memory(), before)
		}
	}
}
