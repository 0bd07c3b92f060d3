package backendtest

import (
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// ofRoundedPages is wrong for attention that rounds and has pages, and for nothing else.
func ofRoundedPages(f func(a *backend.Args)) func(backend.Op, *backend.Args) {
	return on(backend.Attention, func(a *backend.Args) {
		if a.Round == backend.RoundBothBF16 && a.Layout.Segments[0].Pages != nil {
			f(a)
			return
		}
		ref.Run(backend.Attention, a)
	})
}

// cutRoundedPages changes the segments that attention of rounded pages sees.
func cutRoundedPages(f func(l *backend.Layout, i int)) func(backend.Op, *backend.Args) {
	return ofRoundedPages(func(a *backend.Args) {
		l := *a.Layout
		l.Segments = slices.Clone(l.Segments)
		for i := range l.Segments {
			l.Segments[i].Spans = slices.Clone(l.Segments[i].Spans)
			f(&l, i)
		}
		b := *a
		b.Layout = &l
		ref.Run(backend.Attention, &b)
	})
}

// roundedPagesMistakes are of attention that copies keys and values from pages to rows and
// rounds them.
func roundedPagesMistakes() []mistake {
	return []mistake{
		{"gap before a span forgotten", backend.Attention, cutRoundedPages(func(l *backend.Layout, i int) {
			for j := range l.Segments[i].Spans {
				if sp := &l.Segments[i].Spans[j]; sp.Start%backend.PageLen != 0 {
					sp.Start -= sp.Start % backend.PageLen
				}
			}
		})},
		{"pages of the segment before", backend.Attention, cutRoundedPages(func(l *backend.Layout, i int) {
			if i > 0 && len(l.Segments[i-1].Pages) >= len(l.Segments[i].Pages) {
				l.Segments[i].Pages = l.Segments[i-1].Pages
			}
		})},
		{"a key more", backend.Attention, cutRoundedPages(func(l *backend.Layout, i int) {
			s := &l.Segments[i]
			if last := &s.Spans[len(s.Spans)-1]; !s.Whole && last.Start+last.Len < len(s.Pages)*backend.PageLen {
				last.Len++
			}
		})},
		{"rounded to four bits less", backend.Attention, ofRoundedPages(func(a *backend.Args) {
			q := read(a.In[0])
			for i, v := range q {
				q[i] = math.Float64frombits((math.Float64bits(v) + 1<<48) &^ (1<<49 - 1)) // 3 bits
			}
			b := *a
			b.In[0] = backend.Contiguous(make(host, 4*len(q)), backend.F32, 0, a.In[0].Shape)
			write(b.In[0], q)
			ref.Run(backend.Attention, &b)
		})},
		{"values of the other heads", backend.Attention, ofRoundedPages(func(a *backend.Args) {
			ref.Run(backend.Attention, a)
			if n := a.In[0].Cols(); a.KV.Heads > 1 {
				y := read(a.Out[0])
				for r := 0; r < len(y); r += n {
					slices.Reverse(y[r : r+n])
				}
				write(a.Out[0], y)
			}
		})},
		{"lse forgotten", backend.Attention, ofRoundedPages(func(a *backend.Args) {
			b := *a
			b.Out[1] = backend.View{}
			ref.Run(backend.Attention, &b)
		})},
		{"a NaN reaches all rows of its segment", backend.Attention, ofRoundedPages(func(a *backend.Args) {
			ref.Run(backend.Attention, a)
			y, n := read(a.Out[0]), a.Out[0].Cols()
			for i := range a.Layout.Segments {
				s := &a.Layout.Segments[i]
				rows := y[s.Row*n : (s.Row+s.Rows)*n]
				if slices.ContainsFunc(rows, math.IsNaN) {
					for j := range rows {
						rows[j] = math.NaN()
					}
				}
			}
			write(a.Out[0], y)
		})},
	}

}

// Attention that rounds pages otherwise than rows is found.
func TestMutantOfPagesAsRows(t *testing.T) {
	m := newMutant(ofRoundedPages(func(a *backend.Args) {
		ref.Run(backend.Attention, a)
		change(a.Out[0], true, func(x float64) float64 { return x * (1 + 0x1p-20) })
	}))
	if err := checkPagesAsRows(m); err == nil {
		t.Error("attention that has other bits in pages is not found")
	}
	if err := checkPagesAsRows(ref.New()); err != nil {
		t.Error(err)
	}
}
