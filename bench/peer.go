package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strconv"
)

//go:embed peers/llamacpp.py
var llamacpp string

// request is one measurement of tokens.
type request struct {
	What  string `json:"what"`  // "prefill" or "decode"
	N     int    `json:"n"`     // tokens
	Depth int    `json:"depth"` // tokens before
}

// peer is a program that answers requests, one JSON line each.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startPeer runs a script with its arguments and waits until it is ready.
func startPeer(ctx context.Context, python, script string, args ...string) (*peer, error) {
	cmd := exec.CommandContext(ctx, python, append([]string{"-c", script}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &peer{cmd, in, bufio.NewScanner(out)}
	if _, err := p.answer(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func startLlamaCpp(ctx context.Context, python, model string, threads, context int) (*peer, error) {
	return startPeer(ctx, python, llamacpp, model, strconv.Itoa(threads), strconv.Itoa(context))
}

func (p *peer) answer() (rate float64, err error) {
	if !p.out.Scan() {
		return 0, fmt.Errorf("the peer ended: %v", p.cmd.Wait())
	}
	var a struct {
		OK   bool
		Rate float64
	}
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		return 0, fmt.Errorf("the peer answers %.80q: %w", p.out.Text(), err)
	}
	return a.Rate, nil
}

// measure returns tokens a second.
func (p *peer) measure(_ context.Context, r request) (float64, error) {
	line, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	return p.answer()
}

func (p *peer) close() {
	p.in.Close()
	_ = p.cmd.Wait()
}
