package chart

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"slices"
	"testing"
)

func renderLines(t *testing.T, a Axes, lines ...Line) image.Image {
	t.Helper()
	var b bytes.Buffer
	if err := Lines(&b, a, lines); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// heights returns the mean row of a colour in the left and in the right third of
// an image, and how many of its columns have it.
func heights(img image.Image, c color.RGBA) (left, right float64, columns int) {
	r := img.Bounds()
	var sum, n [3]float64
	for x := r.Min.X; x < r.Max.X; x++ {
		seen := false
		for y := r.Min.Y; y < r.Max.Y; y++ {
			if color.RGBAModel.Convert(img.At(x, y)) == color.Color(c) {
				third := 3 * x / r.Dx()
				sum[third], n[third], seen = sum[third]+float64(y), n[third]+1, true
			}
		}
		if seen {
			columns++
		}
	}
	return sum[0] / n[0], sum[2] / n[2], columns
}

// TestLines looks for a line that falls and one that rises, each in its colour.
func TestLines(t *testing.T) {
	x := []float64{1, 2, 3, 4}
	for _, logX := range []bool{false, true} {
		img := renderLines(t, Axes{Title: "title", X: "x", Y: "y", LogX: logX},
			Line{X: x, Y: []float64{4, 3, 2, 1}}, Line{X: x, Y: []float64{1, 2, 3, 4}, Dots: true})
		left, right, _ := heights(img, palette[0])
		if left >= right { // rows count from the top
			t.Errorf("the falling line is at row %.0f on the left, %.0f on the right", left, right)
		}
		left, right, _ = heights(img, palette[1])
		if left <= right {
			t.Errorf("the rising line is at row %.0f on the left, %.0f on the right", left, right)
		}
	}
}

// TestGap: a line is broken where a value is missing, and a faint line is pale.
func TestGap(t *testing.T) {
	x := []float64{0, 1, 2, 3}
	_, _, whole := heights(renderLines(t, Axes{}, Line{X: x, Y: []float64{1, 1, 2, 2}}), ink)
	_, _, broken := heights(renderLines(t, Axes{}, Line{X: x, Y: []float64{1, math.NaN(), 2, 2}}), ink)
	if broken < whole/4 || broken > whole*3/4 {
		t.Errorf("%d columns of a whole line, %d of a broken one", whole, broken)
	}
	_, _, n := heights(renderLines(t, Axes{}, Line{X: x, Y: []float64{1, 1, 2, 2}, Faint: true}), ink)
	if n != 0 {
		t.Errorf("a faint line has the full colour in %d columns", n)
	}
}

func TestLinesRefused(t *testing.T) {
	for name, l := range map[string]Line{
		"nothing":     {},
		"no value":    {X: []float64{1}, Y: []float64{math.Inf(1)}},
		"two lengths": {X: []float64{1, 2}, Y: []float64{1}},
		"no place":    {X: []float64{math.NaN()}, Y: []float64{1}},
		"log of 0":    {X: []float64{0}, Y: []float64{1}},
	} {
		if err := Lines(&bytes.Buffer{}, Axes{LogX: true}, []Line{l}); err == nil {
			t.Errorf("%s is drawn", name)
		}
	}
	renderLines(t, Axes{}, Line{X: []float64{5}, Y: []float64{5}}) // one point
	renderLines(t, Axes{LogX: true}, Line{X: []float64{5}, Y: []float64{0}})
}

// TestTicks: round values within the axis, with as many digits as they need.
func TestTicks(t *testing.T) {
	for _, c := range []struct {
		from, to float64
		want     []string
	}{
		{0, 10, []string{"0", "2", "4", "6", "8", "10"}},
		{2.03, 5.7, []string{"3", "4", "5"}},
		{0.61, 0.64, []string{"0.61", "0.62", "0.63", "0.64"}},
		{-1, 1, []string{"-1.0", "-0.5", "0.0", "0.5", "1.0"}},
		{1, 300, []string{"100", "200", "300"}},
		{0, 4e8, []string{"0", "1e+08", "2e+08", "3e+08", "4e+08"}},
	} {
		var got []string
		for _, tick := range (axis{from: c.from, to: c.to}).ticks(5) {
			if tick.value < c.from-1e-9 || tick.value > c.to*(1+1e-9) {
				t.Errorf("%v lies outside of %v to %v", tick.value, c.from, c.to)
			}
			got = append(got, tick.label)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v to %v: %v, want %v", c.from, c.to, got, c.want)
		}
	}
	var got []string
	for _, tick := range powers(0.3, 30, 1, 2, 5) {
		got = append(got, tick.label)
	}
	if want := []string{"0.5", "1", "2", "5", "10", "20"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
