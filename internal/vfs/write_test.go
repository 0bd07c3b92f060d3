package vfs

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnwritten: what cannot be written is named by its own name, not by a temporary one.
func TestUnwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "file")
	for name, err := range map[string]error{
		"a file":   WriteBytes(path, nil),
		"a folder": WriteFolder(path, func(string) error { return nil }),
	} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), ".tmp") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
