package train

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/herd-ml/herd/internal/corpus"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// DataConfig says what a model is trained on. Its zero value with Files is
// usable.
type DataConfig struct {
	// Files are files, folders (with what is below them) and patterns such as
	// data/*.jsonl.zst, in which ** is any number of folders. Files end in .txt, .md,
	// .json (an array of rows, or rows), .jsonl, .ndjson or .parquet, each also with .gz
	// or .zst behind.
	Files []string `yaml:"files" help:"files, folders and patterns: .txt .md .json .jsonl .ndjson .parquet, also .gz or .zst"`
	// EvalFiles are the same for held-out data. A file that is named in both, by
	// whatever path, is held out.
	EvalFiles []string `yaml:"eval_files" help:"held-out data; what is named in both is held out"`
	// Holdout is the share of the documents of Files that is held out, 0 to 0.5.
	// A hash of its text decides about a document, so copies go together, and
	// neither seed nor order matter. Not with EvalFiles. Default 0.
	Holdout float64 `yaml:"holdout" help:"share of the documents that is held out, 0 to 0.5 (default 0)"`

	// Field is the field of JSON rows and the column of parquet files that holds
	// the text; a dot leads into an object. Default "text".
	Field string `yaml:"field" help:"JSON field or parquet column with the text; a dot leads into an object (default text)"`
	// Separator cuts text files into documents, wherever it stands: "\n\n" at
	// blank lines, "<|endoftext|>" at that mark. Default empty: a file is a
	// document.
	Separator string `yaml:"separator" help:"what cuts text files into documents (default: a file is a document)"`
	// MaxDocument is the most bytes that a document may have, and a JSON row with
	// all of its fields; a longer one is an error. 1 to 1 GiB. Default 64 MiB.
	MaxDocument int64 `yaml:"max_document" help:"most bytes of a document (default 64 MiB)"`
	// SkipEmpty leaves out rows whose text is missing, null or empty; by default
	// they are errors.
	SkipEmpty bool `yaml:"skip_empty" help:"leave out rows without text; else they are errors"`
	// InvalidUTF8 is "error" or "replace" (by U+FFFD). Default "error".
	InvalidUTF8 string `yaml:"invalid_utf8" help:"error or replace (default error)"`

	// BOS puts the token that starts a text before each document: "auto" (where
	// the model's tokenizer adds it), "always" or "never". Default "auto".
	BOS string `yaml:"bos" help:"token that starts each document: auto, always or never (default auto)"`
	// EOS puts the token that ends a text behind each document: "auto" (where the
	// tokenizer has one), "always" or "never". Default "auto".
	EOS string `yaml:"eos" help:"token that ends each document: auto, always or never (default auto)"`
	// Special says what becomes of text that spells one of the tokenizer's control tokens,
	// such as <|eot_id|>: "never" leaves it text, in ordinary tokens, so that what is on a
	// web page ends no document, and Run warns and counts; "always" makes it the token, for
	// texts that were rendered from chats. A document that begins with BOS or ends with
	// EOS then gets no second one. Default "never".
	Special string `yaml:"special" help:"text that spells control tokens: never (it stays text, with a warning) or always (it becomes the tokens) (default never)"`
	// WholeDocuments never cuts a document: one that does not fit starts the next
	// sequence, padding fills the rest, and one longer than a sequence is an
	// error. By default a document is cut where the sequence ends and goes on in
	// the next one.
	WholeDocuments bool `yaml:"whole_documents" help:"never cut a document at the end of a sequence"`

	// Ordered takes files and documents in their order. By default each epoch
	// shuffles the files, and the documents through a buffer.
	Ordered bool `yaml:"ordered" help:"no shuffling"`
	// ShuffleBuffer is how many documents that buffer holds, 1 to 65536; it holds
	// fewer where they are above 64 MiB together. Default 1024; 1 is Ordered.
	ShuffleBuffer int `yaml:"shuffle_buffer" help:"documents that are shuffled at once (default 1024)"`
	// Epochs is how often the data is gone through. A run has as many steps as that
	// gives, or Config.Steps where those are fewer. Default 0: without end.
	Epochs int `yaml:"epochs" help:"times that the data is gone through, which gives steps; 0 is without end, until steps are done"`
}

// Limits of DataConfig.
const (
	maxDocument   = 1 << 30 // bytes; package tokenizer takes no more
	maxShuffle    = 1 << 16 // documents: 4 MB of a saved position
	shuffleBytes  = 64 << 20
	maxHoldout    = 0.5
	maxBatchToken = 1 << 28 // rows of a batch
)

// withDefaults fills what is not set.
func (c DataConfig) withDefaults() DataConfig {
	c.Field = cmp.Or(c.Field, "text")
	c.MaxDocument = cmp.Or(c.MaxDocument, 64<<20)
	c.InvalidUTF8 = cmp.Or(c.InvalidUTF8, "error")
	c.BOS = cmp.Or(c.BOS, "auto")
	c.EOS = cmp.Or(c.EOS, "auto")
	c.Special = cmp.Or(c.Special, "never")
	c.ShuffleBuffer = cmp.Or(c.ShuffleBuffer, 1024)
	return c
}

// Validate returns all violations, joined. It looks at no file.
func (c DataConfig) Validate() error {
	c = c.withDefaults()
	var errs []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("data: "+format, args...))
		}
	}
	oneOf := func(name, v string, of ...string) {
		want(slices.Contains(of, v), "%s is %q, want one of %q", name, v, of)
	}
	want(len(c.Files) > 0, "files is empty: name files, folders or patterns")
	want(!slices.Contains(c.Files, "") && !slices.Contains(c.EvalFiles, ""), "files and eval_files must not hold an empty name")
	want(c.Holdout >= 0 && c.Holdout <= maxHoldout, "holdout is %v, want 0 to %v", c.Holdout, maxHoldout)
	want(c.Holdout == 0 || len(c.EvalFiles) == 0, "holdout and eval_files exclude each other")
	want(c.MaxDocument >= 1 && c.MaxDocument <= maxDocument, "max_document is %d, want 1 to %d", c.MaxDocument, maxDocument)
	want(c.ShuffleBuffer >= 1 && c.ShuffleBuffer <= maxShuffle, "shuffle_buffer is %d, want 1 to %d", c.ShuffleBuffer, maxShuffle)
	want(c.Epochs >= 0, "epochs is %d, want 0 or more", c.Epochs)
	oneOf("invalid_utf8", c.InvalidUTF8, "error", "replace")
	oneOf("bos", c.BOS, "auto", "always", "never")
	oneOf("eos", c.EOS, "auto", "always", "never")
	oneOf("special", c.Special, "never", "always")
	return errors.Join(errs...)
}

// Data is a set of documents to train on and one that is held out. It never
// changes and is safe for concurrent use; its iterators serve one goroutine each.
type Data struct {
	c           DataConfig // with defaults
	tok         *tokenizer.Tokenizer
	train, eval []corpus.File
	before      []int32 // each document
	after       []int32
	controls    controls
	tokens      string // fingerprint of what becomes of a text
	reading     string // fingerprint of how documents are read and ordered
	bufferBytes int    // of documents, at which the shuffle buffer is full
}

// OpenData finds and checks the files of c. Documents are read later, as they
// are needed.
func OpenData(c DataConfig, tok *tokenizer.Tokenizer) (*Data, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d := &Data{c: c.withDefaults(), tok: tok, bufferBytes: shuffleBytes, controls: newControls(tok)}
	train, trainErr := corpus.Find(c.Files)
	eval, evalErr := corpus.Find(c.EvalFiles)
	tokenErr := d.findTokens()
	if err := errors.Join(trainErr, evalErr, tokenErr); err != nil {
		return nil, err
	}
	d.eval, d.train = eval, corpus.Without(train, eval)
	if len(d.train) == 0 {
		return nil, errors.New("data: every one of files is in eval_files too; nothing is left to train on")
	}
	var err error
	d.tokens, err = d.tokensFingerprint()
	d.reading = d.readingFingerprint()
	return d, err
}

// findTokens decides what stands before and after each document.
func (d *Data) findTokens() error {
	bos, hasBOS := d.tok.BOS()
	eos, hasEOS := endOfText(d.tok)
	var errs []error
	if d.c.BOS == "always" && !hasBOS {
		errs = append(errs, errors.New("data: bos is \"always\", but the tokenizer has no such token"))
	}
	if d.c.EOS == "always" && !hasEOS {
		errs = append(errs, errors.New("data: eos is \"always\", but the tokenizer has no such token"))
	}
	if hasBOS && (d.c.BOS == "always" || d.c.BOS == "auto" && d.tok.AddsBOS()) {
		d.before = []int32{bos}
	}
	if hasEOS && d.c.EOS != "never" {
		d.after = []int32{eos}
	}
	return errors.Join(errs...)
}

// endOfText returns the token that ends a document. The EOS of chat models ends
// a turn; the end of a text then has a name of its own.
func endOfText(tok *tokenizer.Tokenizer) (int32, bool) {
	eos, ok := tok.EOS()
	if !ok || !slices.Contains([]string{"<|eot_id|>", "<|eom_id|>", "<|im_end|>"}, tok.Name(eos)) {
		return eos, ok
	}
	for _, name := range []string{"<|end_of_text|>", "<|endoftext|>"} {
		if id, ok := tok.ID(name); ok && tok.IsSpecial(id) {
			return id, true
		}
	}
	return eos, true
}

// encode appends a document's tokens to ids.
func (d *Data) encode(ids []int32, text string) ([]int32, error) {
	start := len(ids) + len(d.before)
	ids, err := d.tok.Append(append(ids, d.before...), text, tokenizer.EncodeOptions{Special: d.c.Special == "always"})
	if err != nil || len(ids) == start {
		return nil, err // no token: no document
	}
	if d.c.Special == "always" { // the text may have them
		if slices.Equal(ids[start:min(start+len(d.before), len(ids))], d.before) {
			ids = slices.Delete(ids, start, start+len(d.before))
		}
		if last := len(ids) - len(d.after); slices.Equal(ids[last:], d.after) {
			return ids, nil
		}
	}
	return append(ids, d.after...), nil
}

// options are those of package corpus.
func (d *Data) options() corpus.Options {
	return corpus.Options{
		Field:          d.c.Field,
		Separator:      d.c.Separator,
		MaxBytes:       d.c.MaxDocument,
		SkipEmpty:      d.c.SkipEmpty,
		ReplaceInvalid: d.c.InvalidUTF8 == "replace",
	}
}

// heldOut says whether Holdout takes a document.
func (d *Data) heldOut(text string) bool {
	if d.c.Holdout == 0 {
		return false
	}
	sum := sha256.Sum256([]byte(text))
	return float64(binary.BigEndian.Uint64(sum[:8]))/(1<<64) < d.c.Holdout
}

// Files returns how many files there are to train on, and their bytes on disk.
func (d *Data) Files() (n int, bytes int64) { return count(d.train) }

// EvalFiles is Files for held-out data. With Holdout they are the same files.
func (d *Data) EvalFiles() (n int, bytes int64) {
	if d.c.Holdout > 0 {
		return count(d.train)
	}
	return count(d.eval)
}

func count(files []corpus.File) (n int, bytes int64) {
	for _, f := range files {
		bytes += f.Size
	}
	return len(files), bytes
}

// HasEval says whether anything is held out.
func (d *Data) HasEval() bool { return len(d.eval) > 0 || d.c.Holdout > 0 }

// probe is text that tokenizers differ in. The same one may come from different
// files, so they are not compared by name.
const probe = "The 3rd  fox's 12345 \u00fcber \u65e5\u672c\n\t\xf0\x9f\xa6\x99<s>"

// tokensFingerprint is a hash of all that decides which tokens a text becomes.
func (d *Data) tokensFingerprint() (string, error) {
	ids, err := d.tok.Encode(probe, tokenizer.EncodeOptions{})
	if err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	return fingerprint(d.c.Special, d.before, d.after, d.tok.VocabSize(), ids), nil
}

// readingFingerprint is a hash of all that decides which documents come in which order,
// except the files and the seed.
func (d *Data) readingFingerprint() string {
	c := d.c
	return fingerprint(c.Holdout, c.Field, c.Separator, c.SkipEmpty, c.InvalidUTF8, c.Ordered, c.ShuffleBuffer)
}

// filesFingerprint is a hash of how files are read, and of their names, without folders,
// their sizes and their times.
func (d *Data) filesFingerprint(files []corpus.File) string {
	type mark struct {
		Name string
		Size int64
		Time int64
	}
	marks := make([]mark, len(files))
	for i, f := range files {
		marks[i] = mark{filepath.Base(f.Path), f.Size, f.Time().UnixNano()}
	}
	return fingerprint(d.reading, marks)
}

func fingerprint(values ...any) string {
	b, err := json.Marshal(values)
	if err != nil {
		panic(err) // plain structs
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
