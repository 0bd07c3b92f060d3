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
	f.StringVarP(&s.seed, "seed", "s", "-1", "`SEED` of the draw; -1 takes a random one and prints it")
	f.StringArrayVarP(&s.bias, "logit-bias", "l", nil, "add to a token's logit: `ID(+/-)BIAS`, as 15043+1 or 15043-inf; repeatable")
}

// laterSampling are the sampling flags whose steps are not built.
var laterSampling = []string{
	"typical", "dry-multiplier", "dry-base", "dry-allowed-length", "dry-penalty-last-n", "dry-sequence-breaker",
	"xtc-probability", "xtc-threshold", "mirostat", "mirostat-lr", "mirostat-ent", "top-nsigma",
	"dynatemp-range", "dynatemp-exp", "samplers",
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
var fieldFlags = strings.NewReplacer("sample: ", "", "Temperature", "--temp", "TopP", "--top-p", "MinP", "--min-p",
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
