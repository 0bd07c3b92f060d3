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
	// TypicalP keeps the tokens whose surprise is nearest to the expected one,
	// the fewest that hold at least TypicalP of the probability; 0 and 1 are off.
	// Source: Meister et al. 2022, https://arxiv.org/abs/2202.00666.
	TypicalP float32
	// TopNSigma keeps the logits at most TopNSigma standard deviations below the
	// largest; 0 is off. Source: https://arxiv.org/abs/2411.07641.
	TopNSigma float32
	// XTCProbability is how often XTC acts: of the tokens that are at least
	// XTCThreshold likely it removes all but the least likely one. 0, and a threshold
	// above 0.5, are off. Source: https://github.com/oobabooga/text-generation-webui/pull/6335.
	XTCProbability, XTCThreshold float32
	// DynatempRange lets the temperature follow the entropy, between Temperature
	// less and plus the range: low + (high-low) * (entropy / largest)^exponent; 0
	// is off, and an exponent of 0 is 1.
	DynatempRange, DynatempExponent float32
	// Mirostat 1 or 2 replaces all stages but temperature by one that keeps the
	// surprise of tokens near MirostatTau bits (0 is 5), learning at the rate
	// MirostatEta (0 is 0.1); 0 is off. Version 1 takes probabilities to follow
	// Zipf's law. Source: Basu et al. 2020, algorithms 1 and 2,
	// https://arxiv.org/abs/2007.14966.
	Mirostat                 int
	MirostatTau, MirostatEta float32

	// DRYMultiplier lowers the logit of a token that would go on with a repeated
	// sequence of n >= DRYAllowedLength (0 is 2) tokens, by DRYMultiplier *
	// DRYBase^(n-DRYAllowedLength) (0 is 1.75); 0 is off. It looks at the last
	// DRYLastN tokens accepted, all for 0. No sequence goes across one of
	// DRYBreakers; the function of that name makes them of texts.
	// Source: https://github.com/oobabooga/text-generation-webui/pull/5677.
	DRYMultiplier, DRYBase     float32
	DRYAllowedLength, DRYLastN int
	DRYBreakers                [][]int32

	// Order is the order of the stages; one that it leaves out is off. Empty is
	// DefaultOrder.
	Order []Stage

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
	check(p.TypicalP >= 0 && p.TypicalP <= 1, "TypicalP", p.TypicalP, "a number in [0, 1]")
	check(finite(p.TopNSigma) && p.TopNSigma >= 0, "TopNSigma", p.TopNSigma, "a finite number >= 0")
	check(p.XTCProbability >= 0 && p.XTCProbability <= 1, "XTCProbability", p.XTCProbability, "a number in [0, 1]")
	check(p.XTCThreshold >= 0 && p.XTCThreshold <= 1, "XTCThreshold", p.XTCThreshold, "a number in [0, 1]")
	check(finite(p.DynatempRange) && p.DynatempRange >= 0, "DynatempRange", p.DynatempRange, "a finite number >= 0")
	check(finite(p.DynatempExponent) && p.DynatempExponent >= 0, "DynatempExponent", p.DynatempExponent, "a finite number >= 0")
	check(p.Mirostat >= 0 && p.Mirostat <= 2, "Mirostat", p.Mirostat, "0, 1 or 2")
	check(finite(p.MirostatTau) && p.MirostatTau >= 0, "MirostatTau", p.MirostatTau, "a finite number >= 0")
	check(finite(p.MirostatEta) && p.MirostatEta >= 0, "MirostatEta", p.MirostatEta, "a finite number >= 0")
	check(finite(p.DRYMultiplier) && p.DRYMultiplier >= 0, "DRYMultiplier", p.DRYMultiplier, "a finite number >= 0")
	check(finite(p.DRYBase) && (p.DRYBase == 0 || p.DRYBase >= 1), "DRYBase", p.DRYBase, "a finite number >= 1, or 0")
	check(p.DRYAllowedLength >= 0, "DRYAllowedLength", p.DRYAllowedLength, ">= 0")
	check(p.DRYLastN >= 0, "DRYLastN", p.DRYLastN, ">= 0")
	if err := checkOrder(p.Order); err != nil {
		errs = append(errs, err)
	}
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
