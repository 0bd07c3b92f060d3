// Package ref is the oracle of the backends: every operation of package
// backend, forward and backward, as plain loops that accumulate in float64.
// It is written to be read and compared against, and is slow.
//
// Run runs one operation on operands in memory of the host. New returns a whole Backend, so that a model can run
// on the oracle. Values gives the same operations on float64 operands, which
// finite differences need.
//
// Nothing is rounded between the operands and the results, except where the
// operation itself says so: RoPETable, RoundI8, RoundBF16, RoundE4M3, MatMul with a
// Rounding, KVAppend into F16 and BF16 pages. Results are rounded once, to the nearest
// value of the output's type.
package ref
