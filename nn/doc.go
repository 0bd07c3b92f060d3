// Package nn holds the layers of a decoder-only transformer: Linear,
// Embedding, RMSNorm, RoPE, Attention and FeedForward, and LoRA, the low-rank
// adapter of a Linear; and those of encoders of pictures and sound and of what joins them
// to it: LayerNorm, MLP, Conv, DepthwiseConv and CrossAttention. The same layers serve
// prefill, decoding, scoring and training: a layer knows neither files nor
// tokens nor whether a tape listens.
//
// Experimental: this interface may change with any release.
//
// Layers are structs of parameters. The `name` tag of a field is its part of
// the parameter's dotted name; Params walks them. Forward panics on operands
// that do not fit, as package tensor does.
//
// Where adapters differ by segment, a layer asks the step's layout which of its rows have
// them. Whoever runs a layer on other rows, some of the step's or those of an encoder, says
// so by tensor.Context.SetRows.
//
// Letters in shapes: R rows of the step, D width, H query heads, G key-value
// heads, hd head size, F feed-forward width, V vocabulary.
package nn
