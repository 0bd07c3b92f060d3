package vfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/internal/lockfile"
	"github.com/herd-ml/herd/internal/vfs"
)

// TestPartial writes pieces in several goes.
func TestPartial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	folder := path + vfs.PartialSuffix
	begin := func(key string, pieces int) *vfs.Partial {
		t.Helper()
		p, err := vfs.OpenPartial(path, key)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Pieces) != pieces {
			t.Fatalf("%d pieces are there, want %d", len(p.Pieces), pieces)
		}
		return p
	}
	add := func(p *vfs.Partial, text, note string) {
		t.Helper()
		if _, err := p.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if note == "" {
			return
		}
		if err := p.Commit(note); err != nil {
			t.Fatal(err)
		}
	}
	p := begin("a", 0)
	add(p, "one ", "first")
	add(p, "half of", "")
	if _, err := vfs.OpenPartial(path, "a"); !errors.Is(err, lockfile.ErrHeld) {
		t.Errorf("while another writes: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = begin("a", 1)
	if string(p.Pieces[0].Note) != `"first"` || p.Pieces[0].End != 4 {
		t.Errorf("the piece is %+v", p.Pieces[0])
	}
	add(p, "two ", "second")
	add(p, "three", "third")
	if err := p.Finish(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "one two three" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}

	p = begin("b", 0)
	add(p, "one", "first")
	add(p, "two", "second")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "data"), []byte("oneTwo"), 0o644); err != nil {
		t.Fatal(err)
	}
	p = begin("b", 1) // the second is not what was written
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = begin("c", 0) // of another key nothing is taken
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "one two three" {
		t.Errorf("the file became %q, %v", b, err)
	}
}

// TestPartialInTheWay leaves a folder alone that is something else.
func TestPartialInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	folder := path + vfs.PartialSuffix
	if err := os.MkdirAll(filepath.Join(folder, "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := vfs.OpenPartial(path, "a"); err == nil {
		t.Error("a folder with something else is taken")
	}
	if _, err := os.Stat(filepath.Join(folder, "mine")); err != nil {
		t.Error(err)
	}
}
