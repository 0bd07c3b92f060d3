package quantize

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/herd-ml/herd/backend"
)

// Rules choose the type of each matrix. The zero value is refused: a mix must be named.
type Rules struct {
	Mix Mix
	// Pure stores every matrix as the mix's own type.
	Pure bool
	// Output and Embedding are the types of the output layer and of the token embedding;
	// Invalid is the mix's choice. A model whose output layer is its embedding stores that
	// one matrix as Output, unless Embedding is given.
	Output, Embedding backend.DType
	// Keep fixes types of matrices; the first that matches a name decides. Output and
	// Embedding come before them.
	Keep []Keep
}

// Keep fixes the type of the matrices whose name in a GGUF file matches a pattern, as
// [path.Match] does, between dots: the pattern "attn_v" and the pattern "blk.0.attn_v.weight"
// match blk.0.attn_v.weight, "attn" does not; "output.weight" matches the output layer and
// not blk.0.attn_output.weight; "blk.[0-3].*" matches all of four layers. A star stands for
// dots too.
type Keep struct {
	Pattern string
	Type    backend.DType
}

// ParseKeep reads PATTERN=TYPE.
func ParseKeep(s string) (Keep, error) {
	i := strings.LastIndexByte(s, '=')
	if i <= 0 {
		return Keep{}, fmt.Errorf("%q is not PATTERN=TYPE", s)
	}
	t, err := ParseType(s[i+1:])
	if err != nil {
		return Keep{}, fmt.Errorf("%q: %w", s, err)
	}
	k := Keep{s[:i], t}
	return k, k.check()
}

// maxPattern bounds the bytes of a pattern: names have at most 64.
const maxPattern = 256

func (k Keep) check() error {
	if _, err := path.Match(k.Pattern, ""); err != nil || k.Pattern == "" || len(k.Pattern) > maxPattern {
		return fmt.Errorf("the pattern %.80q is not one: want a name or a part of it, with * ? [a-z] for others", k.Pattern)
	}
	return nil
}

// Match reports whether the pattern matches a name or a run of its parts.
func (k Keep) Match(name string) bool {
	for from := 0; ; {
		for to := from; to <= len(name); to++ {
			if to < len(name) && name[to] != '.' {
				continue
			}
			if ok, _ := path.Match(k.Pattern, name[from:to]); ok {
				return true
			}
		}
		dot := strings.IndexByte(name[from:], '.')
		if dot < 0 {
			return false
		}
		from += dot + 1
	}
}

// Validate lists every violation.
func (r Rules) Validate() error {
	var errs []error
	if r.Mix == 0 || r.Mix >= numMixes {
		errs = append(errs, fmt.Errorf("quantize: Mix is %v, want one of Mixes", r.Mix))
	}
	check := func(what string, t backend.DType) {
		if _, err := ParseType(t.String()); err != nil {
			errs = append(errs, fmt.Errorf("quantize: %s: %w", what, err))
		}
	}
	if r.Output != backend.Invalid {
		check("Output", r.Output)
	}
	if r.Embedding != backend.Invalid {
		check("Embedding", r.Embedding)
	}
	for _, k := range r.Keep {
		if err := k.check(); err != nil {
			errs = append(errs, fmt.Errorf("quantize: Keep: %w", err))
		}
		check("Keep", k.Type)
	}
	return errors.Join(errs...)
}

// A Model is what the rules look at beside names.
type Model struct {
	Layers     int
	Heads      int
	KVHeads    int
	Tied       bool // the output layer is the token embedding
	Importance bool // there is an importance matrix
}

// A Matrix is one to store: its name in a GGUF file and the length of its rows.
type Matrix struct {
	Name string
	Cols int
}

// Types chooses a type for each matrix of a model, those of llama.cpp's llama-quantize. It
// refuses a pattern that matches none.
func (r Rules) Types(m Model, matrices []Matrix) ([]backend.DType, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	used := make([]bool, len(r.Keep))
	types := make([]backend.DType, len(matrices))
	for i, x := range matrices {
		for j, k := range r.Keep {
			used[j] = used[j] || k.Match(x.Name)
		}
		types[i] = fitting(r.choose(m, x), x.Cols)
	}
	var errs []error
	for j, ok := range used {
		if !ok {
			errs = append(errs, fmt.Errorf("the pattern %q matches no matrix of the model", r.Keep[j].Pattern))
		}
	}
	return types, errors.Join(errs...)
}

// The names of the two matrices of the vocabulary.
const (
	embeddingName = "token_embd.weight"
	outputName    = "output.weight"
)

// choose is the type of a matrix, wherever it fits its rows.
func (r Rules) choose(m Model, x Matrix) backend.DType {
	isOutput := x.Name == outputName || x.Name == embeddingName && m.Tied
	switch {
	case x.Name == embeddingName && r.Embedding != backend.Invalid:
		return r.Embedding
	case isOutput && r.Output != backend.Invalid:
		return r.Output
	}
	for _, k := range r.Keep {
		if k.Match(x.Name) {
			return k.Type
		}
	}
	base := r.Mix.Base()
	switch {
	case r.Pure || !base.Quantized():
		return base
	case isOutput:
		return outputType(r.Mix, x.Cols)
	case x.Name == embeddingName:
		if r.Mix == TQ1_0 || r.Mix == TQ2_0 {
			return backend.Q4_K
		}
		return base
	}
	var layer int
	var part string
	if _, err := fmt.Sscanf(x.Name, "blk.%d.%s", &layer, &part); err != nil {
		return base
	}
	more := backend.Invalid
	switch part {
	case "attn_v.weight":
		more = valueType(r.Mix, m, layer)
	case "attn_output.weight":
		more = attentionType(r.Mix)
	case "ffn_down.weight":
		more = downType(r.Mix, m, layer)
	}
	if more != backend.Invalid {
		return more
	}
	return base
}

// outputType is the type of the output layer, after which nothing evens out its errors.
func outputType(mix Mix, cols int) backend.DType {
	base := mix.Base()
	if mix == MXFP4 || base == backend.Q8_0 || cols%base.BlockElems() != 0 {
		return backend.Q8_0
	}
	return backend.Q6_K
}

// valueType is the type of the matrix of values where it is not the mix's own. It is the
// smallest of a layer where queries share it.
func valueType(mix Mix, m Model, layer int) backend.DType {
	shared := m.KVHeads > 0 && m.Heads/m.KVHeads >= 4
	t := backend.Invalid
	switch {
	case mix == Q2_K && !shared:
		t = backend.Q3_K
	case (mix == Q2_K || mix == Q2_K_S) && shared, mix == Q3_K_M && layer >= 2:
		t = backend.Q4_K
	case mix == Q3_K_M, mix == Q3_K_L, (mix == IQ4_NL || mix == IQ4_XS) && shared, mix == Q4_K_S && layer < 4:
		t = backend.Q5_K
	case (mix == Q4_K_M || mix == Q5_K_M) && moreBits(layer, m.Layers):
		t = backend.Q6_K
	}
	// In the model of 80 layers with grouped queries (70B) it is an eighth of the queries'.
	large := m.Layers == 80 && m.Heads != m.KVHeads
	if own := mix.Base(); large && (t == backend.Q4_K || t == backend.Invalid && (own == backend.Q3_K || own == backend.Q4_K)) {
		t = backend.Q5_K
	}
	return t
}

// attentionType is the type of the matrix after attention where it is not the mix's own.
func attentionType(mix Mix) backend.DType {
	switch mix {
	case Q2_K:
		return backend.Q3_K
	case Q3_K_M:
		return backend.Q4_K
	case Q3_K_L:
		return backend.Q5_K
	}
	return backend.Invalid
}

// downType is the type of the matrix after the activation where it is not the mix's own:
// the numbers that it multiplies are the widest spread.
func downType(mix Mix, m Model, layer int) backend.DType {
	first := layer < m.Layers/8
	switch {
	case mix == Q2_K:
		return backend.Q3_K
	case mix == Q2_K_S && first, mix == Q3_K_M && layer >= m.Layers/16:
		return backend.Q4_K
	case mix == Q3_K_M, mix == Q3_K_L, mix == Q4_K_S && first, (mix == IQ4_NL || mix == IQ4_XS) && first && !m.Importance:
		return backend.Q5_K
	case (mix == Q4_K_M || mix == Q5_K_M) && moreBits(layer, m.Layers):
		return backend.Q6_K
	case mix == Q4_0 && first && m.Importance:
		return backend.Q4_1
	case mix == Q5_0 && first && m.Importance:
		return backend.Q5_1
	}
	return backend.Invalid
}

// moreBits picks the first and last eighth of the layers and every third between.
func moreBits(layer, layers int) bool {
	first := layers / 8
	return layer < first || layer >= 7*layers/8 || (layer-first)%3 == 2
}

// smaller are the types whose blocks are shorter, for those of 256 weights.
var smaller = map[backend.DType]backend.DType{
	backend.Q2_K:   backend.Q4_0,
	backend.Q3_K:   backend.Q4_0,
	backend.Q4_K:   backend.Q5_0,
	backend.Q5_K:   backend.Q5_1,
	backend.Q6_K:   backend.Q8_0,
	backend.IQ4_XS: backend.IQ4_NL,
	backend.TQ1_0:  backend.Q4_0,
	backend.TQ2_0:  backend.Q4_0,
}

// fitting is t, or one that rows of cols weights are whole blocks of.
func fitting(t backend.DType, cols int) backend.DType {
	if cols%t.BlockElems() == 0 {
		return t
	}
	if s, ok := smaller[t]; ok && cols%s.BlockElems() == 0 {
		return s
	}
	return backend.F16
}
