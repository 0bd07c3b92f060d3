package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// report is a file of results: each run adds itself.
type report struct {
	Runs []run `json:"runs"`
}

// run is what one call of the harness measured.
type run struct {
	CPU     string    `json:"cpu"`
	Kernel  string    `json:"kernel"`
	Workers int       `json:"workers"`
	Go      string    `json:"go"`
	OS      string    `json:"os"`
	Time    time.Time `json:"time"`
	Results []result  `json:"results"`
}

// result is one comparison.
type result struct {
	Kind     string  `json:"kind"`           // prefill, decode, lookup, streams, shared, arrivals, gemm, tokenize, load, memory, train, trainmemory
	What     string  `json:"what"`           // how much of it
	On       string  `json:"on,omitempty"`   // the file
	Peer     string  `json:"peer,omitempty"` // with its version; empty: none took part
	Unit     string  `json:"unit"`           // of the next two
	Herd     float64 `json:"herd"`           // median
	Other    float64 `json:"peer_value,omitempty"`
	Ratio    *spread `json:"ratio"` // of rates, herd's to the peer's, pair by pair: above 1 herd is faster; null without a peer
	Pairs    int     `json:"pairs"`
	Repeated int     `json:"repeated,omitempty"` // pairs thrown away because the probes beside them differed
	Share    *share  `json:"share"`              // of what the machine gave; null where that is not known
}

// share is how much of a limit herd took.
type share struct {
	spread
	Limit float64 `json:"limit"` // median; bytes or operations a second, for memory bytes
	Of    string  `json:"of"`
}

// readReport reads a file of results. Of one that does not exist it returns an
// empty report and an error that wraps os.ErrNotExist.
func readReport(path string) (*report, error) {
	r := &report{}
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // what is not understood would be lost when the file is written again
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("%s is no file of results: %w", path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is no file of results: something follows them", path)
	}
	return r, nil
}

// write replaces the file as a whole.
func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
