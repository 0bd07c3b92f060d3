// Package gguf reads and writes GGUF files, the container of llama.cpp's
// models: ordered metadata, then named tensors
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
//
// Reading. [Open] takes a path, [OpenFS] a file system, [New] any io.ReaderAt.
// Only the header is read, in time and memory linear in its length; nothing is
// memory-mapped and no tensor data is touched until [Tensor.ReadAt], so a file
// that shrinks while it is open gives an error. Versions 2 and 3 are read. The
// first part of a split set, name-00001-of-00003.gguf, opens all parts as one
// File.
//
// Writing. A [Writer] collects metadata and tensor sources and streams version
// 3 to an io.Writer or, atomically, to a path.
//
// Files are not trusted. Every count, length, dimension and offset is checked
// before memory is taken or data is read, and an [*Error] names the file, the
// key or tensor, and what was expected. A header is at most 64 MiB, with at
// most 65536 keys and 131072 tensors, several times the largest in use; arrays
// nest at most 8 deep; tensors may not overlap and no dimension is zero.
package gguf
