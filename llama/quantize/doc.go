// Package quantize knows how a model is made small, and what that costs, without knowing
// the model: the mixes of types that llama.cpp has names for ([Mix], [Rules]), importance
// matrices in llama.cpp's two file formats ([Imatrix]), the errors of what was stored
// ([Fidelity]), and how far from each other what two models think of a text is
// ([Divergence]).
//
// Names of matrices are those of GGUF files: blk.0.attn_v.weight.
//
// The codes of the block types are package backend/block's, and files of models are read
// and written by package llama, whose function Quantize brings all of it together.
package quantize
