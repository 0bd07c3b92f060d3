package chart

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
)

// A Line is points (X[i], Y[i]), X ascending. Points whose Y is not finite are
// left out, and the line is broken there.
type Line struct {
	Name  string // in the legend; empty: not there
	X, Y  []float64
	Faint bool // thin and pale: the raw values behind a smoothed line
	Dots  bool // a dot at each point
}

// Axes name a figure of lines.
type Axes struct {
	Title, X, Y string
	LogX        bool // needs X above 0
}

// palette are the colours of lines, blue and orange first: they differ for
// everyone.
var palette = []color.RGBA{
	ink, {0xd9, 0x5f, 0x02, 0xff}, {0x1b, 0x7f, 0x5c, 0xff}, {0x7a, 0x3d, 0x8f, 0xff}, even,
}

const height = width * 9 / 16

// Lines writes a PNG of lines over one axis with a legend. A faint line has the
// colour of the next one that is not.
func Lines(w io.Writer, a Axes, lines []Line) error {
	top, bottom := edge+2*lineSpace, height-edge-2*lineSpace
	x := axis{from: math.Inf(1), to: math.Inf(-1), end: width - 2*edge, log: a.LogX}
	y := axis{from: math.Inf(1), to: math.Inf(-1), start: bottom, end: top}
	for _, l := range lines {
		if err := l.measure(&x, &y); err != nil {
			return err
		}
	}
	if x.from > x.to {
		return errors.New("chart: no point to draw")
	}
	x.widen()
	y.widen()
	labels := 0
	for _, t := range y.ticks(6) {
		labels = max(labels, textWidth(t.label))
	}
	x.start = edge + labels + charWidth

	c := newCanvas(width, height)
	c.text(a.Title, (width-textWidth(a.Title))/2, edge+face.Ascent, false)
	c.text(a.Y, edge, edge+lineSpace+face.Ascent, false)
	across := x.ticks(8)
	if a.LogX {
		across = powers(x.from, x.to, 1, 2, 5)
		if x.to/x.from >= 1e4 {
			across = powers(x.from, x.to, 1)
		}
	}
	c.bottom(x, across, top, bottom, a.X)
	for _, t := range y.ticks(6) {
		at := int(math.Round(y.at(t.value)))
		c.rule(x.start, at, x.end, at, faint)
		c.text(t.label, x.start-charWidth, at+face.Ascent/2, true)
	}
	c.rule(x.start, top, x.start, bottom, black)
	c.rule(x.start, bottom, x.end, bottom, black)
	next := 0
	for _, l := range lines {
		l.draw(c, x, y, l.colour(next))
		if !l.Faint {
			next++
		}
	}
	c.legend(lines, x.end, top)
	return c.write(w)
}

// measure widens axes to the points of a line.
func (l Line) measure(x, y *axis) error {
	if len(l.X) != len(l.Y) {
		return fmt.Errorf("chart: %s: %d and %d coordinates", l.Name, len(l.X), len(l.Y))
	}
	for i, v := range l.X {
		if math.IsNaN(v) || math.IsInf(v, 0) || x.log && v <= 0 {
			return fmt.Errorf("chart: %s: a point at %v", l.Name, v)
		}
		if finite(l.Y[i]) {
			x.from, x.to = min(x.from, v), max(x.to, v)
			y.from, y.to = min(y.from, l.Y[i]), max(y.to, l.Y[i])
		}
	}
	return nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// widen gives an axis of one value some room.
func (a *axis) widen() {
	if a.from == a.to {
		room := max(math.Abs(a.from)/10, 1e-6)
		a.from, a.to = a.from-room, a.to+room
	}
}

// colour is that of a line after n that are not faint.
func (l Line) colour(n int) color.RGBA {
	c := palette[n%len(palette)]
	if l.Faint {
		c.R, c.G, c.B = pale(c.R), pale(c.G), pale(c.B)
	}
	return c
}

// pale mixes a colour with white.
func pale(v uint8) uint8 { return uint8((int(v) + 2*255) / 3) }

func (l Line) thick() float64 {
	if l.Faint {
		return 1.25
	}
	return 2.5
}

// draw draws the finite runs of a line.
func (l Line) draw(c canvas, x, y axis, ink color.RGBA) {
	var run []point
	flush := func() {
		c.stroke(run, l.thick(), ink)
		if l.Dots || len(run) == 1 {
			c.dots(run, 4, ink)
		}
		run = nil
	}
	for i, v := range l.Y {
		if finite(v) {
			run = append(run, point{x.at(l.X[i]), y.at(v)})
		} else {
			flush()
		}
	}
	flush()
}

// legend names the lines at the top right.
func (c canvas) legend(lines []Line, right, top int) {
	widest, next := 0, 0
	for _, l := range lines {
		widest = max(widest, textWidth(l.Name))
	}
	const sample = 24
	left := right - edge - widest - sample - charWidth
	y := top + lineSpace
	for _, l := range lines {
		if ink := l.colour(next); l.Name != "" && len(l.X) > 0 {
			c.stroke([]point{{float64(left), float64(y)}, {float64(left + sample), float64(y)}}, l.thick(), ink)
			c.text(l.Name, left+sample+charWidth, y+face.Ascent/2, false)
			y += lineSpace
		}
		if !l.Faint {
			next++
		}
	}
}
