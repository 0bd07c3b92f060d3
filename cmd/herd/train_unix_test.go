//go:build unix

package main

import (
	"syscall"
	"testing"
	"time"
)

// TestHangup: SIGHUP asks for a checkpoint and ends nothing.
func TestHangup(t *testing.T) {
	save, stop := hangups()
	defer stop()
	for range 2 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-save:
		case <-time.After(10 * time.Second):
			t.Fatal("no checkpoint is asked for")
		}
	}
}
