package peft_test

import (
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/llama/peft"
)

// TestPatterns: expressions as other programs write them. Which names they match is what
// Python's re.fullmatch says.
func TestPatterns(t *testing.T) {
	const long = `(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?` +
		`(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj|lm_head).*?)|` +
		`(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.` +
		`(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj|lm_head)))`
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{long, "model.layers.12.self_attn.q_proj", true}, {long, "model.layers.12.self_attn.q_proj.x", false}, {long, "lm_head", false},
		{`^(?!.*vision).*(?:q_proj|v_proj)$`, "model.layers.0.self_attn.q_proj", true},
		{`^(?!.*vision).*(?:q_proj|v_proj)$`, "model.vision.layers.0.self_attn.q_proj", false},
		{`^(?!.*vision).*(?:q_proj|v_proj)$`, "model.layers.0.self_attn.k_proj", false},
		{`.*layers\.(?:[0-9]|1[0-5])\.(?=self_attn)[a-z_]+\.(q|v)_proj`, "model.layers.15.self_attn.v_proj", true},
		{`.*layers\.(?:[0-9]|1[0-5])\.(?=self_attn)[a-z_]+\.(q|v)_proj`, "model.layers.16.self_attn.v_proj", false},
		{`model\.layers\.\d{2}\..*`, "model.layers.7.mlp.up_proj", false}, {`model\.layers\.\d{2}\..*`, "model.layers.70.mlp.up_proj", true},
		{`.*\.(?P<part>[a-z]+)_proj(?<!up_proj)`, "a.down_proj", true}, {`.*\.(?P<part>[a-z]+)_proj(?<!up_proj)`, "a.up_proj", false},
		{`q_proj`, "model.layers.0.self_attn.q_proj", false},
	} {
		config := peft.Config{Rank: 1, TargetPattern: c.pattern}
		if err := config.Validate(); err != nil {
			t.Errorf("%s: %v", c.pattern, err)
		}
		if got, _, _ := config.Layer(c.name); got != c.want {
			t.Errorf("%s matches %s: %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
}

// TestPatternTime: an expression that backtracks forever stops, once for all names.
func TestPatternTime(t *testing.T) {
	config := peft.Config{Rank: 1, TargetPattern: `(?=x)?(([a-z]|[a-z0-9])*)*!`}
	start := time.Now()
	if ok, _, _ := config.Layer(strings.Repeat("a", 60)); ok {
		t.Error("matches")
	}
	if took := time.Since(start); took > 20*time.Second && !testing.Short() {
		t.Errorf("took %v", took)
	}
}
