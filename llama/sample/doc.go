// Package sample turns the logits of one position into a token id.
//
// A [Sampler] runs a chain of steps over the candidates for the next token and
// then draws one. The order is llama.cpp's:
//
//	logit bias, penalties, DRY, the caller's own steps, top-n-sigma, top-k,
//	typical, top-p, min-p, XTC, temperature (or dynamic temperature), draw
//
// With Temperature 0 the chain ends after the caller's steps and the largest
// logit wins, of equal ones the lowest id: the filters cannot change that.
// Steps whose setting is off are not in the chain. Params.Order puts the stages
// in another order; mirostat replaces all but temperature.
//
// The vocabulary is never sorted as a whole. Selection keeps a bounded heap,
// and probabilities become 40-bit fixed-point weights: integer sums do not
// depend on their order, so the draw is the same on every platform, and the
// partial selection agrees with a full sort bit for bit. A token less likely
// than 2^-41 of the most likely one has weight 0 and is not drawn.
//
// Logits that are NaN count as -Inf, and -Inf is never chosen. After the first
// call nothing is allocated per token.
//
// The log-probabilities of [Logprob] and [TopLogprobs] are those of the model:
// of the logits as given, before any step.
package sample
