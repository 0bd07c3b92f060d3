package main

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/llama/sample"
)

// samplingFlags say how tokens are drawn. Those not given leave what the model
// advises.
type samplingFlags struct {
	temp, topP, minP            float32
	repeat, presence, frequency float32
	topK, lastN                 int
	seed                        string
	bias                        []string

	typical, topNSigma         float32
	dynatempRange, dynatempExp float32
	xtcProbability             float32
	xtcThreshold               float32
	dryMultiplier, dryBase     float32
	dryLength, dryLastN        int
	dryBreakers                []string
	mirostat                   int
	mirostatTau, mirostatEta   float32
	samplers                   string
}

func (s *samplingFlags) add(f *pflag.FlagSet) {
	f.Float32Var(&s.temp, "temp", 0, "temperature `T`; 0 takes the most likely token")
	f.IntVar(&s.topK, "top-k", 0, "keep the `K` most likely; 0 is off")
	f.Float32Var(&s.topP, "top-p", 0, "keep the fewest that add up to `P`; 1 is off")
	f.Float32Var(&s.minP, "min-p", 0, "keep those at least `P` times as likely as the best; 0 is off")
	f.Float32Var(&s.repeat, "repeat-penalty", 0, "divide the logits of recent tokens by `X`; 1 is off")
	f.Float32Var(&s.presence, "presence-penalty", 0, "subtract `X` from the logits of recent tokens")
	f.Float32Var(&s.frequency, "frequency-penalty", 0, "subtract `X` times their number")
	f.IntVar(&s.lastN, "repeat-last-n", sample.DefaultPenaltyLastN, "`N` tokens are recent; 0 is none, -1 all")
	f.Float32Var(&s.typical, "typical", 0, "keep the tokens nearest to the expected surprise that add up to `P`; 1 is off")
	f.Float32Var(&s.topNSigma, "top-nsigma", 0, "keep logits at most `N` standard deviations below the best; 0 is off")
	f.Float32Var(&s.xtcProbability, "xtc-probability", 0, "with probability `P` remove all likely tokens but the last of them")
	f.Float32Var(&s.xtcThreshold, "xtc-threshold", 0.1, "tokens at least `P` likely are likely")
	f.Float32Var(&s.dynatempRange, "dynatemp-range", 0, "let the temperature vary by `X` with the entropy; 0 is off")
	f.Float32Var(&s.dynatempExp, "dynatemp-exp", 1, "`X` is the exponent of that")
	f.Float32Var(&s.dryMultiplier, "dry-multiplier", 0, "`X` times the DRY penalty for repeating sequences; 0 is off")
	f.Float32Var(&s.dryBase, "dry-base", 1.75, "`X` to the power of the sequence's length")
	f.IntVar(&s.dryLength, "dry-allowed-length", 2, "`N` tokens of a sequence are free")
	f.IntVar(&s.dryLastN, "dry-penalty-last-n", -1, "look for sequences in the last `N` tokens; -1 is all, 0 is off")
	f.StringArrayVar(&s.dryBreakers, "dry-sequence-breaker", nil, "no sequence goes across this `TEXT`; repeatable; none is no breaker (default newline, :, \", *)")
	f.IntVar(&s.mirostat, "mirostat", 0, "mirostat `1` or 2 in the place of the filters; 0 is off")
	f.Float32Var(&s.mirostatTau, "mirostat-ent", 5, "bits of surprise `TAU` it aims at")
	f.Float32Var(&s.mirostatEta, "mirostat-lr", 0.1, "its learning rate `ETA`")
	f.StringVar(&s.samplers, "samplers", "", "the stages in order, `LIST` between semicolons; \"\" is none (default: penalties; dry; top_n_sigma; top_k; typ_p; top_p; min_p; xtc; temperature)")
	f.StringVarP(&s.seed, "seed", "s", "-1", "`SEED` of the draw; -1 takes a random one and prints it")
	f.StringArrayVarP(&s.bias, "logit-bias", "l", nil, "add to a token's logit: `ID(+/-)BIAS`, as 15043+1 or 15043-inf; repeatable")
}

// check refuses values that no model allows, before one is loaded.
func (s *samplingFlags) check(f *pflag.FlagSet) error {
	p, err := s.apply(f, sample.Params{})
	if err != nil {
		return err
	}
	if err := p.Validate(); err != nil {
		return usagef("%s", fieldFlags.Replace(err.Error()))
	}
	return nil
}

// fieldFlags replaces the names of fields in messages of sample by flags.
var fieldFlags = strings.NewReplacer("sample: ", "", "TypicalP", "--typical", "TopNSigma", "--top-nsigma",
	"XTCProbability", "--xtc-probability", "XTCThreshold", "--xtc-threshold", "DynatempRange", "--dynatemp-range", "DynatempExponent", "--dynatemp-exp",
	"DRYMultiplier", "--dry-multiplier", "DRYBase", "--dry-base", "DRYAllowedLength", "--dry-allowed-length", "DRYLastN", "--dry-penalty-last-n",
	"MirostatTau", "--mirostat-ent", "MirostatEta", "--mirostat-lr", "Mirostat", "--mirostat", "Order", "--samplers", "Temperature", "--temp", "TopP", "--top-p", "MinP", "--min-p",
	"RepeatPenalty", "--repeat-penalty", "PresencePenalty", "--presence-penalty", "FrequencyPenalty", "--frequency-penalty",
	"PenaltyLastN", "--repeat-last-n", "LogitBias", "--logit-bias ")

// apply puts the flags that were given over p.
func (s *samplingFlags) apply(f *pflag.FlagSet, p sample.Params) (sample.Params, error) {
	for name, set := range map[string]func(){
		"temp":              func() { p.Temperature = s.temp },
		"top-k":             func() { p.TopK = max(s.topK, 0) }, // llama.cpp takes -1 for off too
		"top-p":             func() { p.TopP = s.topP },
		"min-p":             func() { p.MinP = s.minP },
		"repeat-penalty":    func() { p.RepeatPenalty = s.repeat },
		"presence-penalty":  func() { p.PresencePenalty = s.presence },
		"frequency-penalty": func() { p.FrequencyPenalty = s.frequency },
		"repeat-last-n":     func() { p.PenaltyLastN = s.lastN },
		"typical":           func() { p.TypicalP = s.typical },
		"top-nsigma":        func() { p.TopNSigma = max(s.topNSigma, 0) }, // llama.cpp takes -1 for off too
		"xtc-probability":   func() { p.XTCProbability, p.XTCThreshold = s.xtcProbability, s.xtcThreshold },
		"dynatemp-range":    func() { p.DynatempRange, p.DynatempExponent = s.dynatempRange, s.dynatempExp },
		"dry-multiplier":    s.dry(&p),
		"mirostat":          func() { p.Mirostat, p.MirostatTau, p.MirostatEta = s.mirostat, s.mirostatTau, s.mirostatEta },
	} {
		if f.Changed(name) {
			set()
		}
	}
	if f.Changed("top-p") && s.topP == 0 { // keeps one token; a Params of 0 is off
		p.TopP = math.SmallestNonzeroFloat32
	}
	if f.Changed("repeat-last-n") && s.lastN == 0 { // a Params of 0 is the default window
		p.RepeatPenalty, p.PresencePenalty, p.FrequencyPenalty = 0, 0, 0
	}
	if f.Changed("samplers") {
		order, err := sample.ParseOrder(s.samplers)
		if p.Order = order; err != nil {
			return p, usagef("--samplers: want stages between semicolons, as %q: %v", "top_k;temperature", err)
		}
		if len(order) == 0 { // no stage: tokens are drawn as likely as the model has them
			greedy := f.Changed("temp") && s.temp == 0
			p = sample.Params{Temperature: 1, Mirostat: p.Mirostat, MirostatTau: p.MirostatTau, MirostatEta: p.MirostatEta, LogitBias: p.LogitBias}
			if greedy {
				p.Temperature = 0
			}
		}
	}
	for _, b := range s.bias {
		id, bias, err := parseBias(b)
		if err != nil {
			return p, err
		}
		if p.LogitBias == nil {
			p.LogitBias = map[int32]float32{}
		}
		p.LogitBias[id] = bias
	}
	if s.drawn() {
		p.Seed = uint64(rand.Uint32()) // 32 bits, which every reader of JSON keeps exactly
		return p, nil
	}
	seed, err := strconv.ParseUint(s.seed, 10, 64)
	if err != nil {
		return p, usagef("--seed is %q, want 0 to %d, or -1 for a random one", s.seed, uint64(math.MaxUint64))
	}
	p.Seed = seed
	return p, nil
}

// dry puts the settings of DRY over p.
func (s *samplingFlags) dry(p *sample.Params) func() {
	return func() {
		p.DRYMultiplier, p.DRYBase, p.DRYAllowedLength, p.DRYLastN = s.dryMultiplier, s.dryBase, s.dryLength, max(s.dryLastN, 0)
		if s.dryLastN == 0 {
			p.DRYMultiplier = 0
		}
	}
}

// breakers are the texts at which DRY stops counting repetition.
func (s *samplingFlags) breakers() []string {
	switch {
	case len(s.dryBreakers) == 0:
		return sample.DRYBreakerTexts()
	case len(s.dryBreakers) == 1 && s.dryBreakers[0] == "none":
		return nil
	}
	return s.dryBreakers
}

// drawn says whether the seed is a random one.
func (s *samplingFlags) drawn() bool { return s.seed == "-1" }

// parseBias reads ID+BIAS or ID-BIAS.
func parseBias(s string) (id int32, bias float32, err error) {
	if at := strings.IndexAny(s, "+-"); at > 0 {
		i, err1 := strconv.ParseInt(s[:at], 10, 32)
		x, err2 := strconv.ParseFloat(s[at:], 32)
		if err1 == nil && err2 == nil {
			return int32(i), float32(x), nil
		}
	}
	return 0, 0, usagef("--logit-bias is %q, want a token id, + or -, and a number, as 15043+1", s)
}
