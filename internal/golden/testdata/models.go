// Package testdata embeds the committed model files, for the example that runs
// a model out of the program itself.
package testdata

import "embed"

// Models holds models/*/model.gguf.
//
//go:embed models/*/model.gguf
var Models embed.FS
