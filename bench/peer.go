package main

// The processes of the others: scripts that answer requests.

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// scripts run the peers.
//
//go:embed peers/*.py
var scripts embed.FS

// peer is a program that answers requests, one JSON line each. Its first line
// says that it is ready, or that what it runs is not installed.
type peer struct {
	name string // with the version
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
}

// answer is a line of a peer.
type answer struct {
	Name    string  `json:"name"`    // in the first line
	Missing string  `json:"missing"` // in the first line, of a peer that is not installed
	Rate    float64 `json:"rate"`
	Tokens  int     `json:"tokens"`
	Loss    float64 `json:"loss"`
	Peak    int64   `json:"peak"`  // bytes
	Delay   float64 `json:"delay"` // seconds between two tokens
}

// missingError says that a peer is not installed.
type missingError struct{ what string }

func (e *missingError) Error() string { return e.what + " is not installed" }

// startPeer runs a script with its arguments and waits until it is ready.
func startPeer(ctx context.Context, python, script string, args ...string) (*peer, error) {
	text, err := scripts.ReadFile("peers/" + script)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, append([]string{"-c", string(text)}, args...)...)
	cmd.Stderr = os.Stderr
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
	p := &peer{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	a, err := p.answer()
	if err == nil && a.Missing != "" {
		err = &missingError{a.Missing}
	}
	if err != nil {
		p.close()
		return nil, err
	}
	p.name = a.Name
	return p, nil
}

func (p *peer) answer() (a answer, err error) {
	if !p.out.Scan() {
		return a, fmt.Errorf("the peer ended: %v", p.cmd.Wait())
	}
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("the peer answers %.80q: %w", p.out.Text(), err)
	}
	return a, nil
}

// ask sends a request and waits for its answer.
func (p *peer) ask(request any) (answer, error) {
	line, err := json.Marshal(request)
	if err != nil {
		return answer{}, err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return answer{}, err
	}
	return p.answer()
}

// side asks the same each time. A peer that is not there is no side.
func (p *peer) side(request any) side {
	if p == nil {
		return nil
	}
	return func(context.Context, int) (float64, error) {
		a, err := p.ask(request)
		return a.Rate, err
	}
}

// label is the name, or nothing.
func (p *peer) label() string {
	if p == nil {
		return ""
	}
	return p.name
}

func (p *peer) close() {
	if p == nil {
		return
	}
	p.in.Close()
	_ = p.cmd.Wait()
}
