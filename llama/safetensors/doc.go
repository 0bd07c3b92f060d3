// Package safetensors reads and writes the tensor files of Hugging Face
// folders: one model.safetensors, or a set of shards with an index
// (https://github.com/huggingface/safetensors, section "Format").
//
// A file is eight bytes of header length N (little-endian), N bytes of JSON
// that name each tensor's type, shape and place, and the tensors' bytes,
// row-major and little-endian, without gaps.
//
// # Hostile files
//
// A header is read once, in time and memory linear in its length, and nothing
// is believed before it is checked: the length against the file and a limit of
// 100 MB, keys against repetition, each tensor's place against its type and
// shape, all places together against the data (no gap, no overlap, no rest).
// An index may name only files of its own folder. Tensors are read with
// ReadAt, so a file that shrinks while it is open gives an error.
package safetensors
