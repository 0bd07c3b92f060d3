//go:build amd64 && !noasm && !linux

package kernel

import "errors"

var errPermit = errors.New("kernel: no AMX from this system: built for Linux only")

// permitTiles says that how to ask this system for tiles is not built.
func permitTiles() error { return errPermit }
