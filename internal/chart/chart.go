// Package chart draws figures as PNG: ratios for the documentation, losses of a training
// run. It does so itself, with lines and one small font: a plotting library would bring a
// dozen modules to everyone who builds the command.
package chart

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
)

// A Group is rows of a figure under a heading.
type Group struct {
	Name string
	Dots []Dot
}

// A Dot is a ratio above 0 with its quartiles.
type Dot struct {
	Label             string
	Low, Median, High float64
}

var (
	ink  = color.RGBA{0x1f, 0x4e, 0x8c, 0xff} // of dots and whiskers
	even = color.RGBA{0xb0, 0x30, 0x30, 0xff} // of the line at 1
)

// In pixels.
const (
	width = 960
	row   = 24
	edge  = 16 // around everything
)

// Ratios writes a PNG: a row for each dot, from the top, with a whisker from
// quartile to quartile, on a logarithmic axis with a line at 1.
func Ratios(w io.Writer, title, name string, groups []Group) error {
	x := axis{from: 1, to: 1, log: true, end: width - 2*edge}
	rows, labels := 0, 0
	for _, g := range groups {
		rows += 1 + len(g.Dots)
		labels = max(labels, textWidth(g.Name))
		for _, d := range g.Dots {
			if !(0 < d.Low && d.Low <= d.Median && d.Median <= d.High && !math.IsInf(d.High, 0)) {
				return fmt.Errorf("chart: %s: %s: %v, %v, %v are no quartiles of ratios", g.Name, d.Label, d.Low, d.Median, d.High)
			}
			labels = max(labels, textWidth(d.text()))
			x.from, x.to = min(x.from, d.Low), max(x.to, d.High)
		}
	}
	if rows == len(groups) {
		return errors.New("chart: no ratio to draw")
	}
	x.from, x.to, x.start = x.from/1.1, x.to*1.1, min(2*edge+labels, width/2)
	top := edge + lineSpace
	bottom := top + rows*row
	c := newCanvas(width, bottom+3*lineSpace)
	c.text(title, (width-textWidth(title))/2, edge+face.Ascent, false)
	c.bottom(x, powers(x.from, x.to, 1, 1.5, 2, 3, 5, 7), top, bottom, name)
	at := int(math.Round(x.at(1)))
	c.rule(at-1, top, at, bottom, even)
	y := top + row/2
	for _, g := range groups {
		c.text(g.Name, x.start-edge, y+face.Ascent/2, true)
		y += row
		for _, d := range g.Dots {
			c.text(d.text(), x.start-edge, y+face.Ascent/2, true)
			c.stroke([]point{{x.at(d.Low), float64(y)}, {x.at(d.High), float64(y)}}, 3, ink)
			c.dots([]point{{x.at(d.Median), float64(y)}}, 5.5, ink)
			y += row
		}
	}
	return c.write(w)
}

func (d Dot) text() string { return fmt.Sprintf("%s   %.2f", d.Label, d.Median) }

// bottom draws the grid of an axis from left to right, its labels and its name. Labels
// that would touch the one before are left out.
func (c canvas) bottom(x axis, ticks []tick, top, bottom int, name string) {
	free := 0
	for _, t := range ticks {
		at := int(math.Round(x.at(t.value)))
		c.rule(at, top, at, bottom, faint)
		if left := at - textWidth(t.label)/2; left >= free {
			c.text(t.label, left, bottom+lineSpace, false)
			free = left + textWidth(t.label) + charWidth
		}
	}
	c.rule(x.start, bottom, x.end, bottom, black)
	c.text(name, (x.start+x.end-textWidth(name))/2, bottom+2*lineSpace, false)
}
