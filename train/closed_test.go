package train_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// arguments makes what a method is called with.
func arguments(t *testing.T, f reflect.Type, c *tensor.Context, dir string, n *atomic.Int64) (in []reflect.Value) {
	batch := train.Batch{IDs: []int32{1, 2}, Targets: []int32{2, train.NoTarget}, Docs: []int{2}}
	for i := range f.NumIn() {
		v := reflect.New(f.In(i)).Elem()
		switch v.Interface().(type) {
		case string: // a folder or file that is not there
			v.SetString(filepath.Join(dir, fmt.Sprint(n.Add(1))))
		case float64:
			v.SetFloat(1e-3)
		case []train.Batch:
			v.Set(reflect.ValueOf([]train.Batch{batch}))
		case train.Pass:
			v.Set(reflect.ValueOf(train.Pass{IDs: batch.IDs, Layout: backend.Documents(2), Loss: func(*tensor.Context, *tensor.Tensor) ([]tensor.Seed, error) { return nil, nil }}))
		case *tensor.Context:
			v.Set(reflect.ValueOf(c))
		default:
			if f.In(i) == reflect.TypeFor[context.Context]() {
				v.Set(reflect.ValueOf(t.Context()))
			}
		}
		in = append(in, v)
	}
	return in
}

// eachMethod calls every method of an object, and tells the error of those that have one.
func eachMethod(t *testing.T, o any, c *tensor.Context, n *atomic.Int64, told func(name string, err error)) {
	v, dir := reflect.ValueOf(o), t.TempDir()
	for i := range v.NumMethod() {
		name := v.Type().Method(i).Name
		if name == "Forward" || name == "Close" { // Forward wants a step under way
			continue
		}
		for _, out := range v.Method(i).Call(arguments(t, v.Method(i).Type(), c, dir, n)) {
			if f, ok := out.Interface().(func()); ok && f != nil { // done of Use
				f()
			}
			if x, ok := out.Interface().(*tensor.Context); ok && x != nil && name == "NewContext" {
				x.Close()
			}
			if out.Type() == reflect.TypeFor[error]() {
				err, _ := out.Interface().(error)
				told(name, err)
			}
		}
	}
}

// TestMethodsClosed: every method of a closed trainer and optimizer, and of the handle of a
// closed model, that can return an error says that it is closed.
func TestMethodsClosed(t *testing.T) {
	var n atomic.Int64
	m := adapted(t)
	tr, err := train.NewTrainer(m, train.TrainerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := training(t, m)
	c, err := h.NewContext(tensor.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tr.Close()
	tr.Optimizer().Close()
	closed := func(o any, want error) {
		eachMethod(t, o, c, &n, func(name string, err error) {
			if !errors.Is(err, want) {
				t.Errorf("%T.%s: %v, want %v", o, name, err, want)
			}
		})
	}
	closed(tr, train.ErrClosed)
	closed(tr.Optimizer(), optim.ErrClosed)
	if tr, err = train.NewTrainer(m, train.TrainerOptions{}); err != nil {
		t.Fatal(err)
	}
	m.Close()
	closed(tr, llama.ErrClosed)
	closed(h, llama.ErrClosed)
	tr.Close()
}

// TestMethodsAtOnce calls every method of a trainer, of its optimizer and of its model's
// handle at once, beside a session, and closes all meanwhile, for the race detector. Nothing
// hangs or panics.
func TestMethodsAtOnce(t *testing.T) {
	var n atomic.Int64
	for _, first := range []string{"trainer", "model"} {
		m := adapted(t)
		tr, err := train.NewTrainer(m, train.TrainerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSession(llama.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, o := range []any{tr, tr, tr.Optimizer(), training(t, m)} {
			c, err := training(t, m).NewContext(tensor.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if o == any(tr.Optimizer()) && first == "model" {
				continue // who calls it keeps the model open
			}
			wg.Go(func() {
				for range 5 {
					eachMethod(t, o, c, &n, func(string, error) {})
				}
			})
		}
		wg.Go(func() {
			for range 20 {
				s.Logits(t.Context(), []int32{1, 2, 3})
			}
		})
		wg.Go(func() {
			time.Sleep(20 * time.Millisecond)
			if first == "trainer" {
				tr.Close()
				m.Close()
			} else {
				m.Close()
				tr.Close()
			}
		})
		wg.Wait()
	}
}
