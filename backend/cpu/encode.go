package cpu

import (
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// NewEncoder returns an encoder of rows of weights on the fastest kernels that run here. It
// writes the bytes of block.EncodeRow.
func NewEncoder() *block.Encoder { return &block.Encoder{Measure: kernel.Best().MeasureScales} }
