package checkpoint

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// longRope are frequencies and factors of the rotation as _compute_yarn_parameters and
// _compute_longrope_parameters of transformers 5.23 (modeling_rope_utils.py) give them for a
// configuration of this head size, max_position_embeddings and rope_theta. They were run on
// numpy's float32 arrays in the place of torch's tensors. sequence is seq_len.
var longRope = []struct {
	headDim, context int
	theta            float64
	sequence         int
	settings         string // rope_parameters
	factor           float64
	frequencies      []float32
}{
	{16, 8192, 10000.0, 0, `{"factor": 4.0, "original_max_position_embeddings": 2048, "rope_type": "yarn"}`, 1.138629436111989,
		[]float32{1.0e+00, 3.1622776e-01, 1.0e-01, 2.5693506e-02, 6.2499996e-03, 1.3834966e-03, 2.5e-04, 7.905695e-05}},
	{32, 131072, 1000000.0, 0, `{"factor": 16.0, "original_max_position_embeddings": 8192, "beta_fast": 16.0, "beta_slow": 2.0, "rope_type": "yarn"}`, 1.2772588722239782,
		[]float32{1.0e+00, 4.216965e-01, 1.7782794e-01, 7.4989416e-02, 3.162278e-02, 1.3335215e-02, 3.8660965e-03, 8.892651e-04, 6.25e-05, 2.6356034e-05, 1.1114246e-05, 4.686839e-06, 1.9764234e-06, 8.33451e-07, 3.5146334e-07, 1.4821086e-07}},
	{16, 4096, 500000.0, 0, `{"factor": 8.0, "original_max_position_embeddings": 512, "truncate": false, "rope_type": "yarn"}`, 1.2079441541679836,
		[]float32{1.0e+00, 1.5937738e-01, 1.5333185e-02, 9.1158313e-04, 1.7677668e-04, 3.4281024e-05, 6.6478706e-06, 1.2891732e-06}},
	{16, 4096, 500000.0, 0, `{"factor": 8.0, "original_max_position_embeddings": 512, "attention_factor": 0.75, "rope_type": "yarn"}`, 0.75,
		[]float32{1.0e+00, 1.3736194e-01, 1.5669178e-02, 9.1158313e-04, 1.7677668e-04, 3.4281024e-05, 6.6478706e-06, 1.2891732e-06}},
	{16, 4096, 10000.0, 0, `{"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.707, "rope_type": "yarn"}`, 1.0857263992561355,
		[]float32{1.0e+00, 3.1622776e-01, 1.0e-01, 2.3914725e-02, 5.1249997e-03, 8.498622e-04, 2.5e-05, 7.9056945e-06}},
	{8, 64, 100.0, 0, `{"factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 1.0, "beta_slow": 1.0, "rope_type": "yarn"}`, 1.0693147180559945,
		[]float32{1.0e+00, 3.1622776e-01, 5.0e-02, 1.581139e-02}},
	{16, 131072, 10000.0, 0, `{"original_max_position_embeddings": 4096, "short_factor": [1.0, 1.05, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0], "long_factor": [1.0, 1.2, 1.9, 3.5, 7.0, 15.0, 31.0, 63.5], "rope_type": "longrope"}`, 1.1902380714238083,
		[]float32{1.0e+00, 3.011693e-01, 9.090909e-02, 2.4325214e-02, 5.882353e-03, 1.5811389e-03, 4.0e-04, 1.0540926e-04}},
	{16, 131072, 10000.0, 4097, `{"original_max_position_embeddings": 4096, "short_factor": [1.0, 1.05, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0], "long_factor": [1.0, 1.2, 1.9, 3.5, 7.0, 15.0, 31.0, 63.5], "rope_type": "longrope"}`, 1.1902380714238083,
		[]float32{1.0e+00, 2.6352313e-01, 5.263158e-02, 9.035079e-03, 1.4285714e-03, 2.1081851e-04, 3.2258064e-05, 4.979965e-06}},
	{16, 4096, 10000.0, 512, `{"factor": 32.0, "original_max_position_embeddings": 512, "short_factor": [1.0, 1.05, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0], "long_factor": [1.0, 1.2, 1.9, 3.5, 7.0, 15.0, 31.0, 63.5], "rope_type": "longrope"}`, 1.247219128924647,
		[]float32{1.0e+00, 3.011693e-01, 9.090909e-02, 2.4325214e-02, 5.882353e-03, 1.5811389e-03, 4.0e-04, 1.0540926e-04}},
	{16, 4096, 10000.0, 513, `{"factor": 32.0, "original_max_position_embeddings": 512, "attention_factor": 1.19, "short_factor": [1.0, 1.05, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0], "long_factor": [1.0, 1.2, 1.9, 3.5, 7.0, 15.0, 31.0, 63.5], "rope_type": "longrope"}`, 1.19,
		[]float32{1.0e+00, 2.6352313e-01, 5.263158e-02, 9.035079e-03, 1.4285714e-03, 2.1081851e-04, 3.2258064e-05, 4.979965e-06}},
}

// parsed is a test's configuration.
func parsed(t *testing.T, i int) Config {
	t.Helper()
	want := longRope[i]
	var r hfRope
	if err := json.Unmarshal([]byte(want.settings), &r); err != nil {
		t.Fatal(err)
	}
	c := Config{HeadDim: want.headDim, Context: want.context, RopeTheta: want.theta}
	var err error
	if c.RopeScaling, err = r.resolve(c.Context); err == nil {
		err = c.RopeScaling.validate(c.HeadDim)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestLongRope holds yarn and longrope to the reference, number by number. Powers may
// differ in the last bit, which a mix of two can double.
func TestLongRope(t *testing.T) {
	for i, want := range longRope {
		c := parsed(t, i)
		got := Frequencies(c, want.sequence)
		if len(got) != len(want.frequencies) {
			t.Fatalf("%s: %d frequencies, want %d", want.settings, len(got), len(want.frequencies))
		}
		for k, f := range got {
			if d := math.Abs(float64(f/want.frequencies[k]) - 1); d > 2.5e-7 {
				t.Errorf("%s: frequency %d is %v, want %v", want.settings, k, f, want.frequencies[k])
			}
		}
		if got := RopeFactor(c); got != float32(want.factor) {
			t.Errorf("%s: the rotation's factor is %v, want %v", want.settings, got, want.factor)
		}
	}
}

// TestLongRopeSpelling: what config.json says comes back from what is written for it.
func TestLongRopeSpelling(t *testing.T) {
	for i, want := range longRope {
		c := parsed(t, i)
		text, err := json.Marshal(c.RopeScaling.hfLongRope())
		if err != nil {
			t.Fatal(err)
		}
		var r hfRope
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatal(err)
		}
		again := c
		if again.RopeScaling, err = r.resolve(c.Context); err != nil {
			t.Fatal(err)
		}
		if RopeFactor(again) != RopeFactor(c) {
			t.Errorf("%s: the factor %v became %v", want.settings, RopeFactor(c), RopeFactor(again))
		}
		for _, n := range []int{0, 1 << 30} {
			a, b := Frequencies(c, n), Frequencies(again, n)
			for k := range a {
				if a[k] != b[k] {
					t.Errorf("%s: frequency %d is %v, was %v", want.settings, k, b[k], a[k])
				}
			}
		}
	}
}

// TestRopeRefused: settings that make no sense, or that are not built, are named.
func TestRopeRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"rope_type": "dynamic", "factor": 2}`:                                                 "dynamic is not supported",
		`{"rope_type": "mrope"}`:                                                                `"mrope"`,
		`{"rope_type": "yarn", "factor": 0.5}`:                                                  "Factor is 0.5",
		`{"rope_type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}`:                    "BetaFast is 1",
		`{"rope_type": "yarn", "factor": 2, "attention_factor": 0}`:                             "attention_factor is 0",
		`{"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1]}`:                 "1 factors for 2 pairs",
		`{"rope_type": "su", "short_factor": [1, 0], "long_factor": [1, 1]}`:                    "factor 1 is 0",
		`{"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1], "factor":-1}`: "Factor is -1",
	} {
		var r hfRope
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		s, err := r.resolve(64)
		if err == nil {
			err = s.validate(4)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}
