package sample

// The chain of steps that settings make, and its order.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Stage is a part of the chain that Params.Order puts in order.
type Stage string

// The stages, by the names that llama.cpp gives them.
const (
	StagePenalties   Stage = "penalties"
	StageDRY         Stage = "dry"
	StageTopNSigma   Stage = "top_n_sigma"
	StageTopK        Stage = "top_k"
	StageTypical     Stage = "typ_p"
	StageTopP        Stage = "top_p"
	StageMinP        Stage = "min_p"
	StageXTC         Stage = "xtc"
	StageTemperature Stage = "temperature"
)

// DefaultOrder is llama.cpp's.
func DefaultOrder() []Stage {
	return []Stage{
		StagePenalties, StageDRY, StageTopNSigma, StageTopK, StageTypical, StageTopP, StageMinP, StageXTC, StageTemperature,
	}
}

// otherStages are more names of stages.
var otherStages = map[string]Stage{
	"typical": StageTypical, "typical_p": StageTypical, "temp": StageTemperature, "nucleus": StageTopP, "top_nsigma": StageTopNSigma,
}

// ParseOrder reads stages between semicolons or commas, as llama.cpp's
// --samplers takes them. The error names every stage that is unknown or there
// twice.
func ParseOrder(s string) ([]Stage, error) {
	var order []Stage
	for _, name := range strings.FieldsFunc(s, func(r rune) bool { return r == ';' || r == ',' || r == ' ' }) {
		stage := Stage(strings.ReplaceAll(name, "-", "_"))
		if other, ok := otherStages[string(stage)]; ok {
			stage = other
		}
		order = append(order, stage)
	}
	return order, checkOrder(order)
}

func checkOrder(order []Stage) error {
	var errs []error
	for i, s := range order {
		if !slices.Contains(DefaultOrder(), s) {
			errs = append(errs, fmt.Errorf("sample: Order has the unknown stage %q, want some of %v", s, DefaultOrder()))
		} else if slices.Contains(order[:i], s) {
			errs = append(errs, fmt.Errorf("sample: Order has the stage %q twice", s))
		}
	}
	return errors.Join(errs...)
}

// stage returns the step of a stage, or nil where it is off.
func (p Params) stage(s Stage) Step {
	switch {
	case s == StagePenalties && p.penalised():
		return newPenalties(p)
	case s == StageDRY && p.DRYMultiplier > 0:
		return newDRY(p)
	case s == StageTopNSigma && p.TopNSigma > 0:
		return topNSigma(p.TopNSigma)
	case s == StageTopK && p.TopK > 0:
		return topK(p.TopK)
	case s == StageTypical && p.TypicalP > 0 && p.TypicalP < 1:
		return typical(p.TypicalP)
	case s == StageTopP && p.TopP > 0 && p.TopP < 1:
		return topP(p.TopP)
	case s == StageMinP && p.MinP > 0:
		return newMinP(p.MinP)
	case s == StageXTC && p.XTCProbability > 0 && p.XTCThreshold <= 0.5:
		return &xtc{probability: p.XTCProbability, threshold: p.XTCThreshold}
	case s == StageTemperature && p.DynatempRange > 0:
		return newDynatemp(p)
	case s == StageTemperature && p.Temperature != 1:
		return temperature(p.Temperature)
	}
	return nil
}

// chain returns the steps for p with the caller's among them: after the stages
// that only lower logits, before the first one that removes candidates.
func (p Params) chain(own []Step) (chain []Step) {
	if len(p.LogitBias) > 0 {
		chain = append(chain, newBias(p.LogitBias))
	}
	order := p.Order
	if len(order) == 0 {
		order = DefaultOrder()
	}
	if p.Mirostat > 0 {
		order = []Stage{StageTemperature}
	}
	greedy, placed := p.Temperature == 0, false
	for _, s := range order {
		lowers := s == StagePenalties || s == StageDRY
		if !lowers && !placed {
			chain, placed = append(chain, own...), true
		}
		if step := p.stage(s); step != nil && (lowers || !greedy) {
			chain = append(chain, step)
		}
	}
	if !placed {
		chain = append(chain, own...)
	}
	return chain
}
