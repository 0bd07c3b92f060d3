package sample

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// DefaultPenaltyLastN is the penalty window when Params.PenaltyLastN is 0.
const DefaultPenaltyLastN = 64

// Params are the sampling settings. The zero value is greedy with every filter
// off.
type Params struct {
	// Temperature divides the logits, after the filters; 0 is greedy.
	Temperature float32
	// TopK keeps the K largest logits, of equal ones the lowest ids; 0 is off.
	TopK int
	// TopP keeps the fewest tokens whose probabilities add up to at least TopP
	// of what is left, in [0, 1], never fewer than one; 0 and 1 are off.
	// Source: Holtzman et al. 2019, https://arxiv.org/abs/1904.09751.
	TopP float32
	// MinP keeps the tokens at least MinP times as likely as the most likely
	// one, in [0, 1]; 0 is off. Source: https://arxiv.org/abs/2407.01082.
	MinP float32

	// RepeatPenalty divides positive and multiplies other logits of tokens in
	// the window; above 1 discourages; 0 and 1 are off.
	// Source: Keskar et al. 2019, section 4.1, https://arxiv.org/abs/1909.05858
	// (negative logits multiplied, as in every implementation since).
	RepeatPenalty float32
	// FrequencyPenalty is subtracted once per occurrence in the window,
	// PresencePenalty once if there is any; 0 is off.
	FrequencyPenalty, PresencePenalty float32
	// PenaltyLastN is how many of the latest accepted tokens, prompt included,
	// the penalties look at: 0 is DefaultPenaltyLastN, -1 is all of them.
	PenaltyLastN int

	// Seed starts the random stream: math/rand/v2's PCG, one number per drawn
	// token. The same seed, settings and logits give the same tokens on every
	// platform.
	Seed uint64
	// LogitBias is added to the logits of these ids; -Inf bans a token. Ids
	// outside the vocabulary have no effect.
	LogitBias map[int32]float32
}

// Validate returns all violations, joined, or nil.
func (p Params) Validate() error {
	var errs []error
	check := func(ok bool, field string, value any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("sample: %s is %v, want %s", field, value, want))
		}
	}
	check(finite(p.Temperature) && p.Temperature >= 0, "Temperature", p.Temperature, "a finite number >= 0")
	check(p.TopK >= 0, "TopK", p.TopK, ">= 0")
	check(p.TopP >= 0 && p.TopP <= 1, "TopP", p.TopP, "a number in [0, 1]")
	check(p.MinP >= 0 && p.MinP <= 1, "MinP", p.MinP, "a number in [0, 1]")
	check(finite(p.RepeatPenalty) && p.RepeatPenalty >= 0, "RepeatPenalty", p.RepeatPenalty, "a finite number >= 0")
	check(finite(p.FrequencyPenalty), "FrequencyPenalty", p.FrequencyPenalty, "a finite number")
	check(finite(p.PresencePenalty), "PresencePenalty", p.PresencePenalty, "a finite number")
	check(p.PenaltyLastN >= -1, "PenaltyLastN", p.PenaltyLastN, ">= -1")
	for _, id := range slices.Sorted(maps.Keys(p.LogitBias)) {
		b := p.LogitBias[id]
		field := fmt.Sprintf("LogitBias[%d]", id)
		check(id >= 0, field, "for a negative id", "ids >= 0")
		check(finite(b) || b == negInf, field, b, "a finite number or -Inf")
	}
	return errors.Join(errs...)
}

// penalised says whether any penalty is on.
func (p Params) penalised() bool {
	return p.RepeatPenalty != 0 && p.RepeatPenalty != 1 || p.FrequencyPenalty != 0 || p.PresencePenalty != 0
}

var negInf = float32(math.Inf(-1))

// finite says that x is neither infinite nor NaN: x-x is NaN for those.
func finite(x float32) bool { return x-x == 0 }
