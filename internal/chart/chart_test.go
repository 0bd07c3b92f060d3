package chart

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"testing"
)

// render returns the figure of one dot.
func render(t *testing.T, d Dot) image.Image {
	t.Helper()
	var b bytes.Buffer
	if err := Ratios(&b, "title", "axis", []Group{{"group", []Dot{d}}}); err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// columns returns the first and the last column that have a colour.
func columns(img image.Image, c color.RGBA) (from, to int) {
	from, to = math.MaxInt, -1
	r := img.Bounds()
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			if color.RGBAModel.Convert(img.At(x, y)) == color.Color(c) {
				from, to = min(from, x), max(to, x)
			}
		}
	}
	return from, to
}

// TestRatios looks for the dot and its whisker right of the line at 1, left of it,
// and on both sides of it.
func TestRatios(t *testing.T) {
	for _, d := range []Dot{{"", 2, 3, 4}, {"", 0.25, 0.5, 0.75}, {"", 0.5, 1, 2}} {
		img := render(t, d)
		left, right := columns(img, ink)
		line, end := columns(img, even)
		if line > end || left > right {
			t.Fatalf("%v: line from column %d to %d, dot from %d to %d", d, line, end, left, right)
		}
		if d.Low > 1 && left <= end || d.High < 1 && right >= line {
			t.Errorf("%v: line from column %d to %d, dot from %d to %d", d, line, end, left, right)
		}
		if d.Median == 1 && (line-left < 50 || math.Abs(float64((line-left)-(right-end))) > 2) {
			t.Errorf("%v is not even about the line: line from column %d to %d, dot from %d to %d", d, line, end, left, right)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, d := range []Dot{{"", 0, 1, 2}, {"", 2, 1, 3}, {"", 1, math.NaN(), 2}, {"", 1, 2, math.Inf(1)}} {
		if err := Ratios(&bytes.Buffer{}, "", "", []Group{{"", []Dot{d}}}); err == nil {
			t.Errorf("%v is drawn", d)
		}
	}
	if err := Ratios(&bytes.Buffer{}, "", "", nil); err == nil {
		t.Error("nothing is drawn")
	}
}
