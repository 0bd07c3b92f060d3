package llama_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/tensor"
)

// withAdapters is a session with some of a model's adapters.
func withAdapters(t testing.TB, m *llama.Model, names []string) *llama.Session {
	t.Helper()
	s, err := m.NewSession(llama.SessionOptions{Adapters: names})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestSessionAdapters: sessions of one model that run at once, each with adapters of its
// own, generate what each does alone, and have the bits of models that were opened with
// those adapters and no others. A file of one fits the other.
func TestSessionAdapters(t *testing.T) {
	path, ids := tiny(t, 70)
	info := open(t, path, llama.Options{}).Config()
	a := llama.Adapter{Path: writeAdapter(t, info, 1), Name: "a"}
	b := llama.Adapter{Path: writeAdapter(t, info, -2), Name: "b"}
	m := open(t, path, llama.Options{Adapters: []llama.Adapter{a, b}})
	if got := m.Adapters(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the model's adapters are %q", got)
	}
	o := llama.GenerateOptions{MaxTokens: 40, IgnoreEOS: true}
	cases := []struct {
		names []string
		open  []llama.Adapter
	}{
		{nil, []llama.Adapter{a, b}}, {[]string{}, nil}, {[]string{"a"}, []llama.Adapter{a}}, {[]string{"b"}, []llama.Adapter{b}},
		{[]string{"b", "a", "b"}, []llama.Adapter{a, b}},
	}
	var first [][]float32
	var alone, together [][]int32
	for _, c := range cases {
		s := withAdapters(t, m, c.names)
		got := logits(t, s, ids)
		first = append(first, got)
		f, err := s.Fork()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		only := open(t, path, llama.Options{Adapters: c.open})
		want := session(t, only)
		if !slices.Equal(got, logits(t, want, ids)) || !slices.Equal(logits(t, f, ids), got) {
			t.Errorf("adapters %q: other logits than a model with these alone, or a fork", c.names)
		}
		if err := want.Load(t.Context(), save(t, s)); err != nil {
			t.Errorf("adapters %q: %v", c.names, err)
		}
		alone = append(alone, collect(t, withAdapters(t, m, c.names), ids, o))
	}
	for i := range cases {
		for j := range i {
			if same := slices.Equal(first[i], first[j]); same != (i == 4 && j == 0) {
				t.Errorf("adapters %q and %q have the same logits: %v", cases[i].names, cases[j].names, same)
			}
		}
	}
	var wg sync.WaitGroup
	together = make([][]int32, len(cases))
	for i, c := range cases {
		s := withAdapters(t, m, c.names)
		wg.Go(func() { together[i] = collect(t, s, ids, o) })
	}
	wg.Wait()
	for i, c := range cases {
		if !slices.Equal(together[i], alone[i]) {
			t.Errorf("adapters %q: beside others %v is generated, alone %v", c.names, together[i], alone[i])
		}
	}
}

// TestSessionAdapterMemory: a model with several adapters takes what each of them takes,
// once, however many sessions there are.
func TestSessionAdapterMemory(t *testing.T) {
	path, ids := tiny(t, 20)
	info := open(t, path, llama.Options{}).Config()
	list := []llama.Adapter{{Path: writeAdapter(t, info, 1)}, {Path: writeAdapter(t, info, 2)}}
	weights := func(adapters ...llama.Adapter) int64 {
		m := open(t, path, llama.Options{Adapters: adapters})
		for range 3 {
			logits(t, withAdapters(t, m, m.Adapters()), ids)
		}
		return m.Memory().Weights
	}
	base, one := weights(), weights(list[0])
	if want := 4 * int64(info.Dim+info.KVHeads*info.HeadDim); one-base < want {
		t.Errorf("an adapter of %d bytes takes %d", want, one-base)
	}
	if two := weights(list...); two-base != 2*(one-base) {
		t.Errorf("two adapters take %d bytes, one %d", two-base, one-base)
	}
}

// TestUnknownAdapters: names that the model does not have are refused, all of them, and so
// are those of several adapters, and sessions without one that they cannot do without.
func TestUnknownAdapters(t *testing.T) {
	path, ids := tiny(t, 20)
	info := open(t, path, llama.Options{}).Config()
	file := writeAdapter(t, info, 1)
	refused := func(m *llama.Model, names []string, want ...string) error {
		t.Helper()
		s, err := m.NewSession(llama.SessionOptions{Adapters: names})
		if err == nil {
			s.Close()
			t.Fatalf("adapters %q: a session", names)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("adapters %q: %q does not say %q", names, err, w)
			}
		}
		return err
	}
	refused(open(t, path, llama.Options{}), []string{"a", ""}, `"a"`, `""`)
	twice := open(t, path, llama.Options{Adapters: []llama.Adapter{{Path: file}, {Path: file, Scale: 2}, {Path: file, Name: "third"}}})
	refused(twice, []string{file, "fourth"}, "several adapters", `no adapter "fourth"`, `"third"`)
	logits(t, withAdapters(t, twice, []string{"third"}), ids)
	if _, err := llama.Open(t.Context(), path, llama.Options{Adapters: []llama.Adapter{{Path: file, Name: "a"}, {Path: file, Name: "a"}}}); err == nil || !strings.Contains(err.Error(), `both called "a"`) {
		t.Errorf("two adapters of one name: %v", err)
	}

	tensors := map[string]safetensors.Source{
		"model.norm.weight": peft.Tensor(numbers(1, info.Dim), info.Dim),
	}
	for name, shape := range map[string][2]int{"lora_A": {2, info.Dim}, "lora_B": {info.Heads * info.HeadDim, 2}} {
		tensors["model.layers.0.self_attn.q_proj."+name+".weight"] = peft.Tensor(numbers(2, shape[0]*shape[1]), shape[0], shape[1])
	}
	whole := llama.Adapter{Path: adapterFolder(t, map[string]any{"modules_to_save": []string{"norm"}}, tensors), Name: "whole"}
	m := open(t, path, llama.Options{Adapters: []llama.Adapter{{Path: file, Name: "a"}, whole}})
	if err := refused(m, []string{"a"}, `without adapter "whole"`); !errors.Is(err, llama.ErrUnsupported) {
		t.Error(err)
	}
	logits(t, withAdapters(t, m, []string{"whole"}), ids)
}

// TestSessionWithoutTrained: sessions choose the adapter that is trained as they do others;
// without it they have the bits of the model before.
func TestSessionWithoutTrained(t *testing.T) {
	path, ids := tiny(t, 70)
	m := open(t, path, llama.Options{})
	s := withAdapters(t, m, []string{})
	before := logits(t, s, ids)
	all := withAdapters(t, m, nil)
	if err := m.AddAdapter(t.Context(), peft.Config{Rank: 2, Alpha: 2, Targets: []string{"v_proj"}}, 1); err != nil {
		t.Fatal(err)
	}
	for _, p := range training(t, m).Trainable() { // B is zero: the adapter changes nothing yet
		x := numbers(3, p.Param.Shape.Elems())
		if err := tensor.Upload(training(t, m).Backend(), p.Param.Numbers(), x); err != nil {
			t.Fatal(err)
		}
		p.Param.Weight().Changed()
	}
	training(t, m).Changed()
	if got := m.Adapters(); !slices.Equal(got, []string{llama.TrainedAdapter}) {
		t.Errorf("the model's adapters are %q", got)
	}
	if !slices.Equal(logits(t, s, ids), before) {
		t.Error("a session without adapters has other logits once one is trained")
	}
	with := logits(t, withAdapters(t, m, []string{llama.TrainedAdapter}), ids)
	if slices.Equal(with, before) || !slices.Equal(logits(t, all, ids), with) {
		t.Error("the adapter that is trained does not work in sessions that have it")
	}
}
