package checkpoint

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// vectorTypesKey is the metadata key under which the types of vectors travel
// through GGUF, as "name=TYPE".
const vectorTypesKey = "herd.vector_types"

// ropeScalingKey is the metadata key under which the settings of llama3 scaling
// travel, as [factor, low, high, original context]; rope_freqs.weight holds
// only what follows from them.
const ropeScalingKey = "herd.rope_scaling"

// fileTypes are the labels general.file_type; only labels.
var fileTypes = map[backend.DType]uint32{backend.F32: 0, backend.F16: 1, backend.BF16: 32}

// ggufKey is a key of metadata and its value; that of Llama stands for the architecture's.
type ggufKey struct {
	key   string
	value any
}

func (v *converter) writeGGUF(out string) error {
	w, _, err := v.ggufWriter()
	if err != nil {
		return err
	}
	return w.WriteFile(out)
}

// ggufWriter makes the file that is to be written. The tensors returned are its last.
func (v *converter) ggufWriter() (*gguf.Writer, []output, error) {
	list, err := v.outputs()
	if err != nil {
		return nil, nil, err
	}
	w := &gguf.Writer{}
	if err := v.ggufMetadata(w, list); err != nil {
		return nil, nil, err
	}
	if err := v.ggufFactors(w); err != nil {
		return nil, nil, err
	}
	for _, t := range list {
		if err := w.Add(t.name, t.dtype, t.shape, t.data.reader(v.report.size(t.name))); err != nil {
			return nil, nil, err
		}
	}
	return w, list, nil
}

func (r *ConvertReport) size(name string) int64 {
	i := slices.IndexFunc(r.Tensors, func(t TensorInfo) bool { return t.Name == name })
	return r.Tensors[i].Bytes
}

func (v *converter) ggufMetadata(w *gguf.Writer, list []output) error {
	c := v.c.Config
	matrix := backend.F32
	var vectors []string
	for _, t := range list {
		if len(t.shape) == 2 {
			matrix = t.dtype
			continue
		}
		original := v.c.Tensors[t.hf].Type
		if known := v.c.vectorTypes[t.hf]; known != backend.Invalid {
			original = known
		}
		if v.o.Type == backend.Invalid && original != backend.F32 {
			vectors = append(vectors, t.hf+"="+original.String())
		}
	}
	arch := familyLlama
	if c.scaled() {
		arch = familyGranite
	}
	set := []ggufKey{
		{"general.architecture", arch},
		{"general.type", "model"},
		{"general.name", filepath.Base(v.c.Path)},
		{"general.file_type", fileTypes[matrix]},
		{"llama.block_count", uint32(c.Layers)},
		{"llama.context_length", uint32(c.Context)},
		{"llama.embedding_length", uint32(c.Dim)},
		{"llama.feed_forward_length", uint32(c.HiddenDim)},
		{"llama.attention.head_count", uint32(c.Heads)},
		{"llama.attention.head_count_kv", uint32(c.KVHeads)},
		{"llama.attention.key_length", uint32(c.HeadDim)},
		{"llama.attention.value_length", uint32(c.HeadDim)},
		{"llama.attention.layer_norm_rms_epsilon", float32(c.NormEps)},
		{"llama.rope.dimension_count", uint32(c.HeadDim)},
		{"llama.rope.freq_base", float32(c.RopeTheta)},
		{"llama.vocab_size", uint32(c.Vocab)},
	}
	if v.plan != nil {
		set = append(set, v.plan.keys...)
	}
	set = append(set, v.ggufFamily()...)
	rope, err := v.ggufRope()
	if err != nil {
		return err
	}
	for _, s := range append(set, rope...) {
		if rest, ok := strings.CutPrefix(s.key, familyLlama+"."); ok {
			s.key = arch + "." + rest
		}
		if err := w.Set(s.key, s.value); err != nil {
			return err
		}
	}
	if s, ok := c.llama3Scaling(v.c.ropeHint); ok {
		settings := []float32{float32(s.Factor), float32(s.LowFreqFactor), float32(s.HighFreqFactor), float32(s.OriginalContext)}
		if err := w.Set(ropeScalingKey, settings); err != nil {
			return err
		}
	}
	if len(vectors) > 0 {
		if err := w.Set(vectorTypesKey, vectors); err != nil {
			return err
		}
	}
	if err := v.ggufTemplates(w); err != nil {
		return err
	}
	if f := v.c.gguf; f != nil { // the same vocabulary, unchanged
		return v.ggufKeep(w, f)
	}
	return v.vocabulary("vocabulary", func(t *tokenizer.Tokenizer) ([]byte, error) { return nil, t.SetGGUF(w, c.Vocab) },
		func([]byte) error { return nil })
}

// ggufKeep copies what a source in this format says of itself and of its vocabulary: who
// made it, under which licence.
func (v *converter) ggufKeep(w *gguf.Writer, f *gguf.File) error {
	for _, key := range f.Keys() {
		rest, general := strings.CutPrefix(key, "general.")
		switch {
		case general && !slices.Contains([]string{"architecture", "type", "file_type", "quantization_version", "alignment"}, rest):
		case strings.HasPrefix(key, "tokenizer."):
		default:
			continue
		}
		value, _ := f.Lookup(key)
		if err := w.Set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// ggufTemplates writes the chat templates.
func (v *converter) ggufTemplates(w *gguf.Writer) error {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(v.c.ChatTemplates)) {
		key := templateKey
		if name != chat.DefaultTemplate {
			names = append(names, name)
			key += "." + name
		}
		if err := w.Set(key, v.c.ChatTemplates[name]); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	return w.Set(templatesKey, names)
}
