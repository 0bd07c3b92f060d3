package llama

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
	"github.com/herd-ml/herd/tensor"
)

// Model is a loaded model. It is safe for concurrent use.
type Model struct {
	config    Config
	opts      Options
	b         backend.Backend
	net       *transformer
	cx        *tensor.Context
	turn      chan struct{} // holds one element while a step uses cx: of the scheduler, or of another who waits in order
	tok       *tokenizer.Tokenizer
	vocab     func() [sha256.Size]byte // a hash of the tokens
	stop      []int32                  // tokens that end a generation, ascending
	sampling  *sample.Params
	format    chat.Format // how conversations are written; nil for formatErr
	formatErr error
	warnings  []string
	loader    *loader
	source    *checkpoint.Checkpoint  // without tensors, for Save; nil unless Trainable
	version   atomic.Uint64           // of the weights
	training  atomic.Pointer[trained] // the adapter that training changes, or nil
	adapting  sync.Mutex              // held while one is added
	sets      []adapterSet            // the others
	estimate  Memory
	pages     *pagePool
	loadTime  time.Duration
	sched     *scheduler
	batch     batch // belongs to the running step, as snapshots do
	snapshots snapshots

	identities identities

	mu    sync.Mutex      // orders begin and Close
	life  context.Context // ends first thing in Close
	end   context.CancelCauseFunc
	steps sync.WaitGroup
	once  sync.Once

	dropped runtime.Cleanup // says so where nobody closes the model; memory goes with what it is of
}

// Open loads a model: a .gguf file (or the first part of a split one), a
// Hugging Face folder or a Meta folder. ctx cancels loading only. Errors of the
// files are *gguf.Error, *safetensors.Error, *pth.Error, *peft.Error or *FileError.
func Open(ctx context.Context, path string, o Options) (*Model, error) {
	return open(ctx, o, func() (*checkpoint.Checkpoint, error) { return checkpoint.Open(ctx, path) })
}

// OpenFS is Open in a file system: embed.FS, a zip archive, a test's. name is
// slash-separated; "." is the whole file system as a folder.
func OpenFS(ctx context.Context, fsys fs.FS, name string, o Options) (*Model, error) {
	return open(ctx, o, func() (*checkpoint.Checkpoint, error) { return checkpoint.OpenFS(ctx, fsys, name) })
}

// OpenReader is Open for a GGUF file of size bytes behind a reader, which the
// caller closes after loading. name is for error messages.
func OpenReader(ctx context.Context, r io.ReaderAt, size int64, name string, o Options) (*Model, error) {
	return open(ctx, o, func() (*checkpoint.Checkpoint, error) { return checkpoint.OpenReader(r, size, name) })
}

// open loads what a function opens, and closes the files.
func open(ctx context.Context, o Options, files func() (*checkpoint.Checkpoint, error)) (*Model, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := ctxerr.Of(ctx); err != nil {
		return nil, err
	}
	c, err := files()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.OpenAdapters(o.Adapters); err != nil {
		return nil, err
	}
	if o.Trainable {
		if err := c.Saveable(); err != nil {
			return nil, err
		}
	}
	start, path := time.Now(), c.Path
	m, err := newModel(o, c)
	if err != nil {
		return nil, err
	}
	loaded := false
	defer func() { // also where the caller's Progress or file system panics
		if !loaded {
			m.Close()
		}
	}()
	c.DropMetadata()
	m.loader.Total = c.Bytes()
	if err := m.loader.load(ctx, c, m.net, m.cx); err != nil {
		return nil, err
	}
	if err := m.loader.adapt(ctx, c, m.net, m.cx); err != nil {
		return nil, err
	}
	if o.Trainable {
		if m.source, err = c.WithoutTensors(); err != nil {
			return nil, err
		}
	}
	loaded = true
	m.dropped = runtime.AddCleanup(m, func(log *slog.Logger) {
		log.Warn("llama: a model was dropped without Close", "path", path)
	}, m.log())
	m.loadTime = time.Since(start)
	m.log().Info("model loaded", "path", c.Path, "format", string(c.Format), "params", c.Config.Params(),
		"memory", m.estimate.Weights, "seconds", m.loadTime.Seconds(), "backend", m.b.Describe().String())
	for _, w := range m.warnings {
		m.log().Warn(w)
	}
	return m, nil
}

// newModel makes a model without numbers, once it is known to fit.
func newModel(o Options, c *checkpoint.Checkpoint) (*Model, error) {
	est, err := estimate(c, o)
	if err != nil {
		return nil, err
	}
	if o.MemoryLimit > 0 && est.Total() > o.MemoryLimit {
		return nil, fmt.Errorf("%s: needs %d bytes (%v) with one session, the limit is %d: %w", c.Path, est.Total(), est, o.MemoryLimit, ErrMemory)
	}
	o.Backend = o.backend()
	cx, err := tensor.NewContext(o.Backend, tensor.Options{Precision: o.Precision})
	if err != nil {
		return nil, err
	}
	cx.Reserve(est.Scratch - logitBytes(c.Config, o.batchRows()))
	m := &Model{
		config: c.Config, opts: o, b: o.Backend, net: newTransformer(c.Config), cx: cx, turn: make(chan struct{}, 1), identities: identities{turn: make(chan struct{}, 1)}, tok: c.Tokenizer,
		sampling: c.Sampling, estimate: est, warnings: c.Problems,
		loader: &loader{b: o.Backend, trainable: o.Trainable, positions: o.context(c.Config, 0), Meter: checkpoint.Meter{Told: o.Progress}},
	}
	m.sets = adapterSets(o.Adapters, c)
	m.life, m.end = context.WithCancelCause(context.Background())
	m.pages = newPagePool(m, kvGeometry(c, o))
	m.vocab = sync.OnceValue(m.hashVocabulary)
	m.sched = newScheduler(m)
	m.stop = c.StopTokens()
	if m.format, m.formatErr = c.ChatFormat(); len(c.ChatTemplates) > 0 && m.formatErr != nil {
		m.warnings = append(m.warnings, m.formatErr.Error())
	}
	if c.Tokenizer != nil {
		m.warnings = append(m.warnings, c.Tokenizer.Info().Warnings...)
	}
	if d := o.Backend.Describe(); d.Variant == "generic" {
		m.warnings = append(m.warnings, "no vector kernels run here ("+d.String()+"): slow")
	}
	return m, nil
}

func (m *Model) log() *slog.Logger {
	if m.opts.Logger != nil {
		return m.opts.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// Config is the model's shape.
func (m *Model) Config() Config { return m.config }

// Tokenizer is the model's vocabulary; nil where its files have none.
func (m *Model) Tokenizer() *tokenizer.Tokenizer { return m.tok }

// StopTokens are the ids that end a generation, ascending.
func (m *Model) StopTokens() []int32 { return slices.Clone(m.stop) }

// Warnings lists slow or guessed paths and oddities of the files.
func (m *Model) Warnings() []string { return slices.Clone(m.warnings) }

// Memory is what the model and one full session take: with an adapter that was added, and
// with the copies that sessions have made of its matrices where it is trained.
func (m *Model) Memory() Memory {
	est, copies := m.estimate, m.snapshots.bytes.Load()
	est.Weights += m.pages.reserved() - copies
	est.Snapshots = max(est.Snapshots, copies)
	return est
}

// LoadTime is how long opening took.
func (m *Model) LoadTime() time.Duration { return m.loadTime }

// Describe says what the model runs on.
func (m *Model) Describe() backend.Description { return m.b.Describe() }

// DefaultSampling is what generation_config.json says, where the model has
// one that speaks of sampling; else the customary temperature 0.8, top-k 40,
// top-p 0.95 and min-p 0.05.
func (m *Model) DefaultSampling() sample.Params {
	if m.sampling != nil {
		return *m.sampling
	}
	return sample.Params{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05}
}

// enter starts a call: the context it returns ends with ctx, when cancel is
// called, which must happen, and when the model closes.
func (m *Model) enter(ctx context.Context) (call context.Context, cancel context.CancelCauseFunc, err error) {
	if m.life.Err() != nil {
		return nil, nil, ErrClosed
	}
	call, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(m.life, func() { end(ErrClosed) })
	return call, func(cause error) { stop(); end(cause) }, nil
}

// begin keeps the model's memory in place until done is called.
func (m *Model) begin() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life.Err() != nil {
		return ErrClosed
	}
	m.steps.Add(1)
	return nil
}

// Close refuses new calls, cancels running ones, waits for their steps, then
// frees the memory. Closing twice is fine, and so is closing inside a loop over
// a generation, which then yields ErrClosed.
func (m *Model) Close() error {
	m.once.Do(func() {
		m.mu.Lock()
		m.end(ErrClosed)
		m.mu.Unlock()
		m.steps.Wait()
		m.pages.free()
		m.snapshots.drop()
		m.loader.free()
		m.cx.Close()
		m.dropped.Stop()
	})
	return nil
}
