// Package backendtest checks any backend.Backend against the float64 oracle of
// package ref, over one table of cases: operation, shapes, types, memory
// layouts and edge values.
//
//	func TestBackend(t *testing.T)        { backendtest.Run(t, cpu.New(...)) }
//	func TestWorkers(t *testing.T)        { backendtest.RunSame(t, one, many) }
//	func TestGradients(t *testing.T)      { backendtest.Gradients(t, cpu.New(...)) }
//	func BenchmarkBackend(b *testing.B)   { backendtest.Benchmark(b, cpu.New(...)) }
//
// Every buffer is larger than the window that the operation gets and filled
// with NaN around it; after the operation all bytes but the outputs' elements
// must be as they were. How far an element may be from the oracle's is said in
// one table, tolerance.go, relative to a condition that is computed per
// element. What a backend does not support is skipped, by name, with its error.
package backendtest
