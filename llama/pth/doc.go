// Package pth reads and writes the checkpoints that Meta ships,
// consolidated.NN.pth: a zip archive as torch.save makes it since PyTorch 1.6.
// ROOT/data.pkl is a pickle of a dict from names to tensors, ROOT/data/KEY
// holds the bytes of one storage, and a tensor is a strided view of a storage
// (https://github.com/pytorch/pytorch/blob/main/docs/source/notes/serialization.rst).
//
// # Hostile files
//
// A pickle is a program. The machine here runs the few instructions that
// torch.save uses for tensors, knows the handful of names they refer to, and
// calls nothing: every other instruction or name is an error that names it.
// Instructions, stack, marks and memory are bounded. Archive entries must be
// stored, not compressed, lie inside the file, and not overlap, so a small
// file cannot unfold into a large one; storages are looked up among them, never
// in a file system. A view must lie inside its storage and have no more
// elements than that. Checksums of the archive are not verified: tensors are
// read in pieces, in any order.
package pth
