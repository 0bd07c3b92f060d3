package train

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"strconv"

	"github.com/herd-ml/herd/internal/jsontext"
)

// A Row is a line of a metrics file: what a step, or an evaluation after it, gave.
type Row struct {
	Step int64
	Eval bool // an evaluation: only Step, Loss and Tokens

	Loss            float64 // mean over the targets that count, in nats
	GradNorm        float64 // of all gradients, before clipping
	LR              float64
	Tokens          int64 // trained on so far; of an evaluation its targets
	TokensPerSecond float64
	MFU             float64 // share of the machine's peak, 0 to 1
}

// maxRow is the most bytes of a line of a metrics file.
const maxRow = 64 << 10

// appendJSON writes the row as a line of JSON. What is not finite becomes null.
func (r Row) appendJSON(b []byte) []byte {
	b = append(b, `{"step":`...)
	b = strconv.AppendInt(b, r.Step, 10)
	if r.Eval {
		b = appendNumber(append(b, `,"eval_loss":`...), r.Loss)
		b = strconv.AppendInt(append(b, `,"eval_tokens":`...), r.Tokens, 10)
		return append(b, "}\n"...)
	}
	b = appendNumber(append(b, `,"loss":`...), r.Loss)
	b = appendNumber(append(b, `,"grad_norm":`...), r.GradNorm)
	b = appendNumber(append(b, `,"lr":`...), r.LR)
	b = strconv.AppendInt(append(b, `,"tokens":`...), r.Tokens, 10)
	b = appendNumber(append(b, `,"tokens_per_s":`...), r.TokensPerSecond)
	b = appendNumber(append(b, `,"mfu":`...), r.MFU)
	return append(b, "}\n"...)
}

func appendNumber(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// parseRow reads a line; null becomes NaN.
func parseRow(line []byte) (Row, error) {
	var in struct {
		Step       *int64   `json:"step"`
		EvalLoss   *float64 `json:"eval_loss"`
		EvalTokens *int64   `json:"eval_tokens"`
		Loss       *float64 `json:"loss"`
		GradNorm   *float64 `json:"grad_norm"`
		LR         *float64 `json:"lr"`
		Tokens     int64    `json:"tokens"`
		PerSecond  *float64 `json:"tokens_per_s"`
		MFU        *float64 `json:"mfu"`
	}
	if err := jsontext.Unmarshal(line, &in); err != nil {
		return Row{}, err
	}
	if in.Step == nil || *in.Step < 0 {
		return Row{}, errors.New("it has no step")
	}
	number := func(v *float64) float64 {
		if v == nil {
			return math.NaN()
		}
		return *v
	}
	if in.EvalTokens != nil {
		return Row{Step: *in.Step, Eval: true, Loss: number(in.EvalLoss), Tokens: *in.EvalTokens}, nil
	}
	return Row{Step: *in.Step, Loss: number(in.Loss), GradNorm: number(in.GradNorm), LR: number(in.LR),
		Tokens: in.Tokens, TokensPerSecond: number(in.PerSecond), MFU: number(in.MFU)}, nil
}

// Metrics appends rows to a file of JSON lines, each with one write, so that a
// run that is killed leaves at most half a line. It serves one goroutine.
type Metrics struct {
	f   *os.File
	end int64 // of the last whole line
	buf []byte
}

// OpenMetrics opens a metrics file, or makes it, to go on after a step. It removes the
// rows of later steps, which a run wrote before it was cut off, and half a line at the
// end. With step 0 it removes all rows.
func OpenMetrics(path string, step int64) (*Metrics, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	keep := int64(0)
	if step > 0 {
		if keep, err = keptRows(f, step); err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := f.Truncate(keep); err != nil {
		f.Close()
		return nil, err
	}
	return &Metrics{f: f, end: keep}, nil
}

// keptRows returns the length of the rows up to a step.
func keptRows(r io.Reader, step int64) (keep int64, err error) {
	for row, err := range rows(r) {
		if err != nil {
			return 0, err
		}
		if row.Step > step {
			break
		}
		keep = row.end
	}
	return keep, nil
}

// Add writes a row. Where that fails (the disk is full), the next row goes to the
// same place.
func (m *Metrics) Add(r Row) error {
	m.buf = r.appendJSON(m.buf[:0])
	n, err := m.f.WriteAt(m.buf, m.end)
	if err == nil {
		m.end += int64(n)
	}
	return err
}

// Close cuts half a line that could not be written, writes the file to the disk
// and closes it.
func (m *Metrics) Close() error { return errors.Join(m.f.Truncate(m.end), m.f.Sync(), m.f.Close()) }

// ReadMetrics returns the rows of a metrics file in order; null is NaN. It leaves out half a
// line at the end. A broken line before that is an error, which ends the sequence.
func ReadMetrics(path string) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(Row{}, err)
			return
		}
		defer f.Close()
		for row, err := range rows(f) {
			if err != nil {
				err = fmt.Errorf("%s: %w", path, err)
			}
			if !yield(row.Row, err) {
				return
			}
		}
	}
}

// placed is a row and where its line ends in the file.
type placed struct {
	Row
	end int64
}

// rows reads the whole lines of a metrics file.
func rows(r io.Reader) iter.Seq2[placed, error] {
	return func(yield func(placed, error) bool) {
		in := bufio.NewReaderSize(r, maxRow)
		end := int64(0)
		for n := 1; ; n++ {
			line, err := in.ReadSlice('\n')
			switch {
			case err == io.EOF:
				return // half a line
			case err == bufio.ErrBufferFull:
				err = fmt.Errorf("more than %d bytes", maxRow)
			case err == nil:
				end += int64(len(line))
				var row Row
				if row, err = parseRow(bytes.TrimSpace(line)); err == nil {
					if !yield(placed{row, end}, nil) {
						return
					}
					continue
				}
			}
			yield(placed{}, fmt.Errorf("line %d is no row of metrics: %w", n, err))
			return
		}
	}
}
