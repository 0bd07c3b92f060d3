package llama

import (
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/nn"
)

// TestParameters holds the list of what files must have to the network that is
// loaded from them: the same names, shapes and order, and the same layers for
// adapters.
func TestParameters(t *testing.T) {
	config := Config{Layers: 2, Dim: 12, Heads: 6, KVHeads: 3, HeadDim: 4, HiddenDim: 20, Vocab: 7, Context: 8, NormEps: 1e-5, RopeTheta: 1e4}
	for bits := range 16 {
		c := config
		c.TiedEmbeddings, c.AttentionBias, c.AttentionOutputBias, c.MLPBias = bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0
		net := newTransformer(c)
		var want []checkpoint.Parameter
		params := int64(0)
		for _, p := range nn.Params(net) {
			want = append(want, checkpoint.Parameter{Name: p.Name, Shape: p.Param.Shape})
			params += int64(p.Param.Shape.Elems())
		}
		if got := checkpoint.Parameters(c); !slices.Equal(got, want) {
			t.Errorf("%+v:\n got %v\nwant %v", c, got, want)
		}
		if got := c.Params(); got != params {
			t.Errorf("%+v: %d parameters, want %d", c, got, params)
		}
		layers := map[string]backend.Shape{}
		for _, l := range nn.Linears(net) {
			layers[l.Name] = l.Linear.Weight.Shape
		}
		got := checkpoint.Linears(c)
		for name, shape := range layers {
			if got[name] != shape {
				t.Errorf("%+v: layer %s has shape %v, want %v", c, name, got[name], shape)
			}
		}
		if len(got) != len(layers) {
			t.Errorf("%+v: %d layers, want %d", c, len(got), len(layers))
		}
	}
}
