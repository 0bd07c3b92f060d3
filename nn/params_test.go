package nn_test

import (
	"testing"

	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// inner is a layer of a user's own.
type inner struct {
	Scale    *tensor.Param `name:"scale"`
	hidden   *tensor.Param `name:"hidden"`
	Untagged *tensor.Param
	Missing  *tensor.Param `name:"missing"`
	Number   int           `name:"number"`
}

type outer struct {
	Embed  *nn.Embedding   `name:"model.embed"`
	Layers []*inner        `name:"layers"`
	Values []inner         `name:"values"`
	Grid   [][]*nn.Linear  `name:"grid"`
	Bare   []*tensor.Param `name:"bare"`
	Nested struct {
		Deep inner `name:"deep"`
	} `name:"nested"`
	Gone   *nn.Linear `name:"gone"`
	Other  *nn.Linear
	Output *nn.Linear `name:"output"`
}

func newInner() inner {
	return inner{Scale: tensor.NewParam(1), hidden: tensor.NewParam(2), Untagged: tensor.NewParam(3)}
}

func TestParams(t *testing.T) {
	one, two, three, four := newInner(), newInner(), newInner(), newInner()
	m := &outer{
		Embed: nn.NewEmbedding(4, 3), Layers: []*inner{&one, nil, &two}, Values: []inner{three},
		Grid: [][]*nn.Linear{{}, {nn.NewLinear(1, 2, false), nn.NewLinear(1, 2, true)}},
		Bare: []*tensor.Param{tensor.NewParam(1), nil}, Other: nn.NewLinear(1, 1, false), Output: nn.NewLinear(3, 4, true),
	}
	m.Nested.Deep = four
	m.Output.Weight = m.Embed.Weight // tied
	two.Scale = one.Scale            // shared
	want := []nn.Named{
		{Name: "model.embed.weight", Param: m.Embed.Weight},
		{Name: "layers.0.scale", Param: one.Scale},
		{Name: "layers.0.hidden", Param: one.hidden},
		{Name: "layers.2.hidden", Param: two.hidden},
		{Name: "values.0.scale", Param: three.Scale},
		{Name: "values.0.hidden", Param: three.hidden},
		{Name: "grid.1.0.weight", Param: m.Grid[1][0].Weight},
		{Name: "grid.1.1.weight", Param: m.Grid[1][1].Weight},
		{Name: "grid.1.1.bias", Param: m.Grid[1][1].Bias},
		{Name: "bare.0", Param: m.Bare[0]},
		{Name: "nested.deep.scale", Param: four.Scale},
		{Name: "nested.deep.hidden", Param: four.hidden},
		{Name: "output.bias", Param: m.Output.Bias},
	}
	for _, model := range []any{m, *m} {
		got := nn.Params(model)
		for i := range max(len(got), len(want)) {
			switch {
			case i >= len(got):
				t.Errorf("%s is missing", want[i].Name)
			case i >= len(want):
				t.Errorf("%s is not expected", got[i].Name)
			case got[i] != want[i]:
				t.Errorf("parameter %d is %s, want %s", i, got[i].Name, want[i].Name)
			}
		}
	}
}

// TestParamsOfNothing: what holds no parameters has none.
func TestParamsOfNothing(t *testing.T) {
	for _, model := range []any{nil, 3, (*outer)(nil), struct{}{}, []int{1}, nn.NewRoPE(4)} {
		if got := nn.Params(model); len(got) != 0 {
			t.Errorf("%T has parameters %v", model, got)
		}
	}
}

// TestLayerNames pins the names and shapes that checkpoints rely on.
func TestLayerNames(t *testing.T) {
	for _, c := range []struct {
		layer any
		want  map[string]string
	}{
		{nn.NewLinear(2, 3, true), map[string]string{"weight": "[3 2]", "bias": "[3]"}},
		{nn.NewLinear(2, 3, false), map[string]string{"weight": "[3 2]"}},
		{nn.NewEmbedding(5, 2), map[string]string{"weight": "[5 2]"}},
		{nn.NewRMSNorm(4, 1), map[string]string{"weight": "[4]"}},
		{nn.NewAttention(10, 4, 2, 3, true, false), map[string]string{
			"q_proj.weight": "[12 10]", "k_proj.weight": "[6 10]", "v_proj.weight": "[6 10]", "o_proj.weight": "[10 12]",
			"q_proj.bias": "[12]", "k_proj.bias": "[6]", "v_proj.bias": "[6]"}},
		{nn.NewAttention(10, 4, 2, 3, false, true), map[string]string{
			"q_proj.weight": "[12 10]", "k_proj.weight": "[6 10]", "v_proj.weight": "[6 10]", "o_proj.weight": "[10 12]",
			"o_proj.bias": "[10]"}},
		{nn.NewFeedForward(4, 7, true), map[string]string{
			"gate_proj.weight": "[7 4]", "up_proj.weight": "[7 4]", "down_proj.weight": "[4 7]",
			"gate_proj.bias": "[7]", "up_proj.bias": "[7]", "down_proj.bias": "[4]"}},
	} {
		got := nn.Params(c.layer)
		if len(got) != len(c.want) {
			t.Errorf("%T has %d parameters, want %d", c.layer, len(got), len(c.want))
		}
		for _, p := range got {
			if s := p.Param.Shape.String(); s != c.want[p.Name] {
				t.Errorf("%T: %s is %s, want %s", c.layer, p.Name, s, c.want[p.Name])
			}
		}
	}
}
