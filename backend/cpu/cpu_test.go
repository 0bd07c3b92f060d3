package cpu

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/backendtest"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

func open(t testing.TB, o Options) *Backend {
	t.Helper()
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// TestOracle checks every variant that runs here with three workers, and that
// one worker gives the same bits.
func TestOracle(t *testing.T) {
	for _, v := range kernel.Variants() {
		t.Run(v.Name, func(t *testing.T) {
			if v.Err != nil {
				t.Skip(v.Err)
			}
			t.Parallel()
			three := open(t, Options{Variant: v.Name, Workers: 3})
			backendtest.Run(t, three)
			t.Run("Same", func(t *testing.T) {
				backendtest.RunSame(t, open(t, Options{Variant: v.Name, Workers: 1}), three)
			})
		})
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Variant: "sse9"}, {Workers: -1}, {Workers: maxWorkers + 1}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	for _, v := range kernel.Variants() {
		b, err := New(Options{Variant: v.Name, Workers: 2})
		if v.Err != nil {
			if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), v.Err.Error()) {
				t.Errorf("%s: error %v, want what is missing: %v", v.Name, err, v.Err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		d, rounds := b.Describe(), b.Rounding(backend.Q8_0)
		if d.Variant != v.Name || d.Workers != 2 {
			t.Errorf("%s: described as %v", v.Name, d)
		}
		if generic := v.Name == "generic"; generic != (len(d.Vector) == 0) || generic != (rounds == backend.RoundNone) {
			t.Errorf("%s: vector kernels %v, rounding %v", v.Name, d.Vector, rounds)
		}
		if len(d.Vector) > 0 && !slices.Equal(d.Scalar, []string{"MatMul E4M3 (decoded to F32)"}) { // no type of GGUF
			t.Errorf("%s: slow operations %v", v.Name, d.Scalar)
		}
		b.Close()
	}
	for _, op := range backend.Ops() {
		if native[op] == nil {
			t.Errorf("no %v", op)
		}
	}
	if first, again := Default(), Default(); first != again || first.Close() != nil {
		t.Error("the default backend is not one")
	}
}

// TestExp compares with float64 on one in 4001 of all float32, and at the edges.
func TestExp(t *testing.T) {
	var worst float64
	check := func(x float32) {
		got, want := kernel.Exp(x), float32(math.Exp(float64(x)))
		if got == want || got != got && want != want {
			return
		}
		ulp := float64(math.Nextafter32(want, math.MaxFloat32) - want)
		off := math.Abs(float64(got)-math.Exp(float64(x))) / ulp
		if worst = max(worst, off); !(off < 2) {
			t.Fatalf("kernel.Exp(%g) = %g, want %g", x, got, want)
		}
	}
	for b := uint64(0); b < 1<<32; b += 4001 {
		check(math.Float32frombits(uint32(b)))
	}
	for x := float32(-104.5); x < 89.5; x += 0.001 {
		check(x)
	}
	for _, x := range []float32{0, -103.97, -103.98, -87.34, 88.72, 88.73, float32(math.Inf(1)), float32(math.Inf(-1))} {
		check(x)
	}
	t.Logf("largest error %.2f ulp", worst)
}
