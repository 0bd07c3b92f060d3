package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// tokenizeFlags are those of tokenize beyond the common ones.
type tokenizeFlags struct {
	*common
	model                          string
	special, addBOS, decode, jsonl bool
}

func newTokenize(c *common) *cobra.Command {
	t := &tokenizeFlags{common: c}
	cmd := &cobra.Command{
		Use:   "tokenize -m MODEL [TEXT]",
		Short: "Turn text into token ids and back",
		Long: `Tokenize prints the ids of a text, from the command line or stdin. MODEL may
also be a tokenizer.model, a tokenizer.json or a GGUF file with a vocabulary
only; weights are not read.

With --jsonl each line of stdin is {"text": ...} or {"bytes_b64": ...}, with
"special": true where special tokens count, and each line printed the array of
its ids.`,
		Args: t.args,
		RunE: t.run,
	}
	f := cmd.Flags()
	addModel(f, &t.model)
	f.BoolVar(&t.special, "special", false, "the text of special tokens becomes those tokens")
	f.BoolVar(&t.addBOS, "add-bos", false, "put in front what the model puts there")
	f.BoolVar(&t.decode, "decode", false, "turn ids into text")
	f.BoolVar(&t.jsonl, "jsonl", false, "one JSON text a line from stdin, one array of ids a line out")
	return cmd
}

func (t *tokenizeFlags) args(_ *cobra.Command, args []string) error {
	switch {
	case t.decode && t.jsonl:
		return usagef("--decode and --jsonl exclude each other")
	case t.jsonl && len(args) > 0:
		return usagef("--jsonl reads stdin, not %q", args[0])
	case !t.decode && len(args) > 1:
		return usagef("%d arguments: put quotes around the text", len(args))
	}
	return nil
}

func (t *tokenizeFlags) run(cmd *cobra.Command, args []string) error {
	if t.model == "" {
		return errNoModel
	}
	tok, err := tokenizer.Open(t.model)
	if err != nil {
		return err
	}
	if t.jsonl {
		return t.lines(cmd, tok)
	}
	var text string
	if len(args) > 0 {
		text = strings.Join(args, " ")
	} else if text, err = readInput(cmd, "-"); err != nil {
		return err
	}
	if t.decode {
		return t.decodeIDs(cmd, tok, text)
	}
	ids, err := tok.Encode(text, tokenizer.EncodeOptions{AddBOS: t.addBOS, Special: t.special})
	if err != nil {
		return err
	}
	if t.json {
		return printJSON(cmd.OutOrStdout(), list(ids))
	}
	w := bufio.NewWriter(cmd.OutOrStdout())
	for _, id := range ids {
		fmt.Fprintf(w, "%8d  %s\n", id, piece(tok.TokenBytes(id)))
	}
	return w.Flush()
}

// decodeIDs prints the text of ids; as JSON it is a string.
func (t *tokenizeFlags) decodeIDs(cmd *cobra.Command, tok *tokenizer.Tokenizer, s string) error {
	ids, err := parseIDs(s)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if n := tok.Info().Tokens; int(id) >= n {
			return fmt.Errorf("id %d is outside the vocabulary of %d tokens: check the ids and the model", id, n)
		}
	}
	text := tok.Decode(ids, tokenizer.DecodeOptions{})
	if t.json {
		return printJSON(cmd.OutOrStdout(), text)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// textLine is a line of --jsonl.
type textLine struct {
	Text    *string `json:"text"`
	Bytes   *string `json:"bytes_b64"`
	Special bool    `json:"special"`
}

// lines answers line by line, at once where the other side waits for it.
func (t *tokenizeFlags) lines(cmd *cobra.Command, tok *tokenizer.Tokenizer) error {
	in := &lineReader{r: bufio.NewReader(cmd.InOrStdin())}
	out := bufio.NewWriter(cmd.OutOrStdout())
	for n := 1; ; n++ {
		line, err := in.line()
		if err != nil && err != io.EOF {
			return err
		}
		if strings.TrimSpace(line) != "" {
			ids, err := t.line(tok, line)
			if err != nil {
				return errors.Join(out.Flush(), fmt.Errorf("stdin, line %d: %w", n, err))
			}
			if err := printJSON(out, ids); err != nil {
				return err
			}
		}
		if err == io.EOF || in.r.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func (t *tokenizeFlags) line(tok *tokenizer.Tokenizer, line string) ([]int32, error) {
	var l textLine
	if err := jsontext.Unmarshal([]byte(line), &l); err != nil {
		return nil, fmt.Errorf("want an object with text or bytes_b64: %w", err)
	}
	var text string
	switch {
	case (l.Text == nil) == (l.Bytes == nil):
		return nil, errors.New("want an object with text or bytes_b64")
	case l.Text != nil:
		text = *l.Text
	default:
		b, err := base64.StdEncoding.DecodeString(*l.Bytes)
		if err != nil {
			return nil, errors.New("bytes_b64 is not base64")
		}
		text = string(b)
	}
	ids, err := tok.Encode(text, tokenizer.EncodeOptions{AddBOS: t.addBOS, Special: t.special || l.Special})
	return list(ids), err
}
