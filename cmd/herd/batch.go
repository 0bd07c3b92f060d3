package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
)

const (
	// defaultParallel is how many rows are generated at once.
	defaultParallel = 16
	// rowsAhead is how many rows, for each that is generated at once, are read before the
	// first of them is printed: a row that takes long does not stop the others at once.
	rowsAhead = 8
	// maxRow is how many bytes a row has at most.
	maxRow = 64 << 20
)

// batchRow is a row of --batch.
type batchRow struct {
	number int // among the rows, from 0
	end    int64
	prompt string
	others map[string]json.RawMessage // fields beside the prompt
	err    error

	done   chan struct{} // one comes once what follows is there
	result generated
}

// batch generates for all rows of a file, several at once, and prints a line for each in
// their order. One goroutine reads, some generate, one prints.
type batch struct {
	*generateFlags
	cmd    *cobra.Command
	m      *model
	params sample.Params

	in      lineReader
	size    int64 // of the file, 0 where it is not known
	work    chan *batchRow
	ordered chan *batchRow // those between reading and printing

	printed struct{ rows, failed, prompt, tokens int }
}

// runBatch is generate with --batch.
func (g *generateFlags) runBatch(cmd *cobra.Command, o llama.Options) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	in, closeInput, err := openInput(cmd, g.batch)
	if err != nil {
		return err
	}
	defer closeInput()
	m, err := g.generation.open(cmd, g.common, g.model, o)
	if err != nil {
		return err
	}
	defer m.close()
	params, err := g.params(cmd.Flags(), m.Model)
	if err != nil {
		return err
	}
	b := &batch{
		generateFlags: g, cmd: cmd, m: m, params: params,
		in:   lineReader{r: bufio.NewReaderSize(&cancelReader{ctx: ctx, r: in}, 64<<10), most: maxRow},
		work: make(chan *batchRow), ordered: make(chan *batchRow, rowsAhead*g.parallel),
	}
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			b.size = info.Size()
		}
	}
	start := time.Now()
	err = b.run(ctx, cancel)
	took, n := time.Since(start), &b.printed
	if err != nil && n.rows == 0 {
		return err
	}
	g.printSeed(cmd, params.Seed)
	g.note(cmd, "%d rows in %.1f s; prompts of %d tokens; generated %s", n.rows, took.Seconds(), n.prompt, speed(n.tokens, n.tokens, took))
	if err == nil && n.failed > 0 {
		err = fmt.Errorf(`%s: %d of %d rows failed: their lines say why in "error"`, g.batch, n.failed, n.rows)
	}
	return err
}

// run ends when all goroutines have. The first error cancels the others.
func (b *batch) run(ctx context.Context, cancel context.CancelCauseFunc) error {
	parts := []func(context.Context) error{b.read, b.print}
	for range b.parallel {
		parts = append(parts, b.answer)
	}
	err := parallel.Ranges(ctx, len(parts), len(parts), 1, func(_, i, _ int) (err error) {
		err = errors.New("ended without a return") // where it panics, which Ranges hands on
		defer func() {
			if err != nil {
				cancel(err)
			}
		}()
		err = parts[i](ctx)
		return err
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// read hands out the rows, as many as there is room for.
func (b *batch) read(ctx context.Context) error {
	defer close(b.ordered)
	defer close(b.work)
	var end int64
	rows := 0
	for line := 1; ; line++ {
		text, err := b.in.line()
		if err != nil && err != io.EOF && err != errLongLine {
			return unreadable(b.batch, err)
		}
		end += int64(len(text))
		if strings.TrimSpace(text) != "" || err == errLongLine {
			row := &batchRow{number: rows, end: end, done: make(chan struct{}, 1)}
			rows++
			if err == errLongLine {
				row.err = fmt.Errorf("longer than %s", size(maxRow))
			} else {
				row.err = row.parse(text)
			}
			if row.err != nil {
				row.err = fmt.Errorf("%s, line %d: %w", b.batch, line, row.err)
			}
			for _, to := range []chan *batchRow{b.ordered, b.work} {
				select {
				case to <- row:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

// parse reads a row's text, or says what is wrong with it.
func (r *batchRow) parse(text string) error {
	if err := jsontext.Unmarshal([]byte(text), &r.others); err != nil {
		return fmt.Errorf("want an object with prompt: %w", err)
	}
	var prompt *string
	raw, ok := r.others["prompt"]
	delete(r.others, "prompt")
	if ok {
		if err := jsontext.Unmarshal(raw, &prompt); err != nil {
			return jsontext.At("prompt", err)
		}
	}
	if prompt == nil {
		return errors.New("want an object with prompt, a text")
	}
	r.prompt = *prompt
	return nil
}

// answer generates for rows, one after the other, in a session that keeps what they have in
// common.
func (b *batch) answer(ctx context.Context) error {
	s, err := b.m.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	for row := range b.work {
		if row.err == nil {
			row.err = b.generateRow(ctx, s, row)
		}
		if err := ctx.Err(); err != nil && errors.Is(row.err, context.Canceled) {
			return err
		}
		row.done <- struct{}{}
	}
	return nil
}

func (b *batch) generateRow(ctx context.Context, s *llama.Session, row *batchRow) error {
	ids, err := b.m.Encode(row.prompt)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		return errors.New("the prompt has no tokens")
	}
	params := b.params
	params.Seed = rowSeed(params.Seed, row.number)
	before := s.Usage()
	r := &row.result
	*r = b.newGenerated(b.cmd, ids, params.Seed)
	if err := r.collect(b.tokens(ctx, s, ids, b.tokenOptions(b.cmd, b.m, params)), io.Discard); err != nil {
		return err
	}
	b.measure(r, b.m, before, s.Usage())
	return nil
}

// rowSeed is the seed of a row: it follows from its number alone, whatever runs beside it
// (the splittable generator of https://doi.org/10.1145/2714064.2660195). It has 53 bits, which every reader
// of JSON keeps exactly.
func rowSeed(seed uint64, row int) uint64 {
	x := seed + (uint64(row)+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x ^ x>>31) >> 11
}

// print prints rows in their order, until the first that is not finished when ctx ends.
func (b *batch) print(ctx context.Context) error {
	var bar *progress
	if b.size > 0 && !isTerminal(b.cmd.OutOrStdout()) {
		bar = b.bar(b.cmd, "generated for", true)
	}
	defer bar.stop()
	for {
		row, ok := next(ctx, b.ordered)
		if !ok {
			return ctx.Err()
		}
		if _, ok := next(ctx, row.done); !ok {
			return ctx.Err()
		}
		line, err := row.line()
		if err != nil {
			return err
		}
		if _, err := b.cmd.OutOrStdout().Write(line); err != nil {
			return err
		}
		b.printed.rows++
		if row.err != nil {
			b.printed.failed++
		}
		b.printed.prompt += len(row.result.PromptTokens)
		b.printed.tokens += len(row.result.Tokens)
		bar.set(row.end, b.size)
	}
}

// next receives from a channel, until ctx ends and nothing waits there.
func next[T any](ctx context.Context, from <-chan T) (v T, ok bool) {
	select {
	case v, ok = <-from:
		return v, ok
	case <-ctx.Done():
	}
	select {
	case v, ok = <-from:
	default:
	}
	return v, ok
}

// line is what is printed of a row: its result, or an error, and then the fields that came
// with the prompt, but for those whose names the result has.
func (r *batchRow) line() ([]byte, error) {
	var v any = r.result
	if r.err != nil {
		v = struct {
			Error string `json:"error"`
		}{r.err.Error() + advice(r.err)}
	}
	var line bytes.Buffer
	if err := printJSON(&line, v); err != nil {
		return nil, err
	}
	var own map[string]json.RawMessage
	if err := jsontext.Unmarshal(line.Bytes(), &own); err != nil {
		return nil, err
	}
	line.Truncate(line.Len() - len("}\n"))
	for _, key := range slices.Sorted(maps.Keys(r.others)) {
		if _, ok := own[key]; ok || key == "error" {
			continue
		}
		name, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		line.WriteString(",")
		line.Write(name)
		line.WriteString(":")
		line.Write(r.others[key])
	}
	line.WriteString("}\n")
	return line.Bytes(), nil
}
