//go:build !linux || !amd64 || noasm

package kernel

// emulatedTiles changes nothing: tiles are emulated on Linux only.
func emulatedTiles(list []Variant) []Variant { return list }
