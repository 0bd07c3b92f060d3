package llama

import "github.com/herd-ml/herd/llama/internal/checkpoint"

// Config is the resolved shape of a model: what the files say, in one
// vocabulary.
type Config = checkpoint.Config

// RopeScaling stretches the rotation frequencies for long contexts. The zero
// value leaves them as they are.
type RopeScaling = checkpoint.RopeScaling
