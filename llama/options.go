package llama

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/bits"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/sample"
)

// Precision says whether activations may be rounded for speed.
type Precision = backend.Precision

// PrecisionAuto lets activations be rounded to the weights' partner type, PrecisionF32
// never rounds them. PrecisionBF16 is the mixed precision of training: with it, as with
// PrecisionF32, a session's log-probabilities are bit for bit those of a trainer of that
// precision on the same weights. Float weights are then rounded at every step, which is
// slow.
const (
	PrecisionAuto = backend.PrecisionAuto
	PrecisionF32  = backend.PrecisionF32
	PrecisionBF16 = backend.PrecisionBF16
)

// DefaultContext is the most positions a session has unless asked otherwise.
const DefaultContext = 4096

// Options are the settings of a model. The zero value works.
type Options struct {
	// Backend runs the model; nil is cpu.Default().
	Backend backend.Backend
	// Precision is PrecisionAuto by default.
	Precision Precision
	// KVType is the type of cached keys and values, backend.F32, F16, BF16 or
	// Q8_0 (heads of a multiple of 32); zero is F16 under PrecisionAuto, where the
	// weights are neither F32 nor trained, else F32.
	KVType backend.DType
	// Context is the most positions of a session that does not ask for its own
	// number; 0 is the model's, at most DefaultContext.
	Context int
	// BatchRows is the most rows of one forward step in prefill, up to 1<<20; 0 is
	// 512. It changes speed and memory, not results.
	BatchRows int
	// MixedRows is the most rows of prompts in a forward step that also generates tokens
	// of other calls; 0 is 64, and BatchRows bounds it. More rows compute prompts faster,
	// fewer let the other calls wait less for each token. It does not change results.
	MixedRows int
	// MemoryLimit in bytes bounds weights, scratch and cached keys and values
	// together; 0 is no limit. A model that cannot fit with one full session is
	// refused before it is loaded. A call waits until there is room for all positions that
	// it may come to hold, by its prompt, GenerateOptions.MaxTokens and
	// SessionOptions.Context. A call that can never fit is refused with ErrMemory. A
	// session that no call uses may lose what it holds to a call that needs the room. A
	// call made within the loop of another may wait for that one for ever.
	MemoryLimit int64
	// Trainable keeps the weights as float32 numbers that may be changed, quantised
	// ones decoded: see Training. Four bytes a weight. Sessions multiply with packed
	// copies, made in the first step after each change (Memory.Snapshots): two bytes more
	// under PrecisionBF16, else four.
	Trainable bool
	// Adapters change the model's matrices, in this order.
	Adapters []Adapter
	// Progress is told how loading goes, from one goroutine at a time.
	Progress func(Progress)
	// Logger is told what a user may want to know; nil is silent.
	Logger *slog.Logger
}

// Progress is how far loading or converting is.
//
//	Done, Total int64 // bytes of weights
type Progress = checkpoint.Progress

const (
	defaultBatchRows = 512
	defaultMixedRows = 64
	maxBatchRows     = 1 << 20 // keeps sums of sizes in 63 bits
)

// Validate lists every violation.
func (o Options) Validate() error {
	var errs []error
	if o.Precision > PrecisionBF16 {
		errs = append(errs, fmt.Errorf("llama: Precision is %d, want PrecisionAuto, PrecisionF32 or PrecisionBF16", o.Precision))
	}
	if err := checkKVType(o.KVType); err != nil {
		errs = append(errs, err)
	}
	for _, f := range []struct {
		name        string
		value, most int64
	}{
		{"Context", int64(o.Context), math.MaxInt32}, {"BatchRows", int64(o.BatchRows), maxBatchRows},
		{"MixedRows", int64(o.MixedRows), maxBatchRows},
		{"MemoryLimit", o.MemoryLimit, math.MaxInt64},
	} {
		switch {
		case f.value < 0:
			errs = append(errs, fmt.Errorf("llama: %s is %d, want 0 or more", f.name, f.value))
		case f.value > f.most:
			errs = append(errs, fmt.Errorf("llama: %s is %d, want at most %d", f.name, f.value, f.most))
		}
	}
	if o.Trainable && len(o.Adapters) > 0 {
		errs = append(errs, errors.New("llama: Trainable beside Adapters: merge them first, or train an adapter"))
	}
	return errors.Join(append(errs, checkpoint.ValidateAdapters(o.Adapters)...)...)
}

func checkKVType(t backend.DType) error {
	switch t {
	case backend.Invalid, backend.F32, backend.F16, backend.BF16, backend.Q8_0:
		return nil
	}
	return fmt.Errorf("llama: keys and values of type %v are %w: F32, F16, BF16 and Q8_0 are", t, ErrUnsupported)
}

// batchRows is the resolved BatchRows.
func (o Options) batchRows() int {
	if o.BatchRows == 0 {
		return defaultBatchRows
	}
	return o.BatchRows
}

// mixedRows is the resolved MixedRows.
func (o Options) mixedRows() int {
	if o.MixedRows == 0 {
		return min(defaultMixedRows, o.batchRows())
	}
	return min(o.MixedRows, o.batchRows())
}

// context is the resolved number of positions of a session that asks for ask.
func (o Options) context(c Config, ask int) int {
	switch {
	case ask > 0:
		return ask
	case o.Context > 0:
		return o.Context
	}
	if c.SlidingWindow > 0 {
		return min(c.Context, c.SlidingWindow, DefaultContext)
	}
	return min(c.Context, DefaultContext)
}

// SessionOptions are the settings of a session. The zero value works.
type SessionOptions struct {
	// Context is the most positions; 0 is the model's setting. Memory is taken
	// as positions fill.
	Context int
	// Adapters names those of the model's adapters (Adapter.Name) that work in this session,
	// in the model's order. Nil is all, also one that is added later; empty is none. Sessions
	// with other adapters run in one step all the same.
	Adapters []string
	// Priority orders calls when a forward step has no room for the rows of all. The
	// highest number goes first; calls of equal priority go in the order of arrival. One
	// step in eight begins with the call that has waited longest, so that none starves.
	// Calls that wait for memory under Options.MemoryLimit have the same order, and one in
	// eight that is admitted is the one that has waited longest.
	Priority int
}

// GenerateOptions are the settings of one generation. The zero value is greedy
// and runs until the model stops or the context is full.
type GenerateOptions struct {
	// MaxTokens bounds the tokens generated; 0 is no bound. Under Options.MemoryLimit it
	// also says for how many positions there must be room.
	MaxTokens int
	// Sampling says how tokens are drawn; zero is greedy. Model.DefaultSampling
	// has what the model's makers advise.
	Sampling sample.Params
	// Steps are the caller's own sampling steps, token masks for one.
	Steps []sample.Step
	// Stop ends the generation before any of these texts.
	Stop []string
	// StopTokens end it too, beside the model's own.
	StopTokens []int32
	// IgnoreEOS goes on past the model's own stop tokens.
	IgnoreEOS bool
	// Logprobs fills Token.Logprob, and TopLogprobs > 0 also Token.Top: of the
	// model's own distribution, before sampling, with the bits of Session.Logprobs and of
	// training. That takes one more product with the output layer a token.
	Logprobs    bool
	TopLogprobs int
	// ContextShift goes on when the context is full: of what follows the first
	// Keep tokens the older half is forgotten, and the rest computed again, so that
	// it knows nothing of what was forgotten. That takes the time of a prompt of
	// this length.
	ContextShift bool
	// Keep is how many tokens of the prompt a context shift keeps, at least BOS;
	// -1 is all of them.
	Keep int
	// Speculation guesses tokens ahead, which is faster where the guesses are often right
	// and changes nothing of what is generated.
	Speculation Speculation
}

// Validate lists every violation.
func (o GenerateOptions) Validate() error {
	errs := []error{o.Sampling.Validate(), o.Speculation.validate()}
	if o.MaxTokens < 0 {
		errs = append(errs, fmt.Errorf("llama: MaxTokens is %d, want 0 or more", o.MaxTokens))
	}
	if o.TopLogprobs < 0 {
		errs = append(errs, fmt.Errorf("llama: TopLogprobs is %d, want 0 or more", o.TopLogprobs))
	}
	if o.Keep < -1 {
		errs = append(errs, fmt.Errorf("llama: Keep is %d, want -1 or more", o.Keep))
	}
	for i, s := range o.Stop {
		if s == "" {
			errs = append(errs, fmt.Errorf("llama: Stop[%d] is empty", i))
		}
	}
	return errors.Join(errs...)
}

// ceilDiv is n/d rounded up, for n >= 0.
func ceilDiv(n, d int) int { return n/d + (n%d+d-1)/d }

// mul returns a*b, or false where it does not fit.
func mul(a, b int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return int64(lo), hi == 0 && lo < 1<<63
}

// backend is what runs the model.
func (o Options) backend() backend.Backend {
	if o.Backend == nil {
		return cpu.Default()
	}
	return o.Backend
}
