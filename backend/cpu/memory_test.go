package cpu

import "testing"

// TestReserved: an arena is as large as was wanted from the first part on, and joins its
// chunks once; where what is wanted is not to be had, it takes what is needed.
func TestReserved(t *testing.T) {
	step := func(a *arena, parts ...int64) {
		a.reset()
		for _, n := range parts {
			a.take(n)
		}
	}
	a := arena{want: 10 << 20}
	defer a.free()
	for range 3 {
		step(&a, 1<<10, 1<<20, 4<<20, 10<<20-5<<20-1<<10)
		if len(a.chunks) != 1 || a.size() != 10<<20 || a.peak != 10<<20 {
			t.Fatalf("%d chunks of %d bytes, %d taken at most", len(a.chunks), a.size(), a.peak)
		}
	}
	a.want = 20 << 20
	step(&a, 1<<10)
	if len(a.chunks) != 1 || a.size() != 20<<20 {
		t.Errorf("%d chunks of %d bytes, 20 MiB are wanted", len(a.chunks), a.size())
	}
	var grown arena
	defer grown.free()
	step(&grown, 1<<20, 1<<20, 1<<20, 1<<20, 1<<20)
	size := grown.size()
	step(&grown, 1<<20, 4<<20)
	if len(grown.chunks) != 1 || grown.size() != size {
		t.Errorf("%d chunks of %d bytes, there were %d", len(grown.chunks), grown.size(), size)
	}
	none := arena{want: 1 << 62}
	defer none.free()
	step(&none, 1<<20)
	first := none.chunks[0]
	step(&none, 1<<20)
	if len(none.chunks) != 1 || none.chunks[0] != first || none.size() != 1<<20 {
		t.Errorf("%d chunks of %d bytes", len(none.chunks), none.size())
	}
}
