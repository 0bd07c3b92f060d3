// Package chart draws figures: ratios for the documentation, losses of a training
// run. It is the only one that imports a plotting library.
package chart

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
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

const (
	width  = 8 * vg.Inch
	row    = 0.24 * vg.Inch
	around = 1.3 * vg.Inch // title and axis
)

// Ratios writes a PNG: a row for each dot, from the top, with a whisker from
// quartile to quartile, on a logarithmic axis with a line at 1.
func Ratios(w io.Writer, title, axis string, groups []Group) error {
	rows := 0
	for _, g := range groups {
		rows += len(g.Dots)
		for _, d := range g.Dots {
			if !(0 < d.Low && d.Low <= d.Median && d.Median <= d.High && !math.IsInf(d.High, 0)) {
				return fmt.Errorf("chart: %s: %s: %v, %v, %v are no quartiles of ratios", g.Name, d.Label, d.Low, d.Median, d.High)
			}
		}
	}
	if rows == 0 {
		return errors.New("chart: no ratio to draw")
	}
	f := newFigure(title, axis)
	y := float64(rows + len(groups))
	for _, g := range groups {
		f.labels = append(f.labels, plot.Tick{Value: y, Label: g.Name})
		y--
		for _, d := range g.Dots {
			f.add(d, y)
			y--
		}
	}
	return f.write(w, rows+len(groups))
}

// figure is a plot under construction.
type figure struct {
	*plot.Plot
	from, to float64 // of the axis
	labels   []plot.Tick
	err      error
}

func newFigure(title, axis string) *figure {
	f := &figure{Plot: plot.New(), from: 1, to: 1}
	f.Title.Text, f.X.Label.Text = title, axis
	f.Title.TextStyle.Font.Size = vg.Points(11)
	f.X.Scale = plot.LogScale{}
	f.Y.LineStyle.Width, f.Y.Tick.LineStyle.Width, f.Y.Tick.Length = 0, 0, 0
	f.Y.Tick.Label.XAlign = text.XRight
	return f
}

// add draws a dot in the row at height y.
func (f *figure) add(d Dot, y float64) {
	f.from, f.to = min(f.from, d.Low), max(f.to, d.High)
	f.labels = append(f.labels, plot.Tick{Value: y, Label: fmt.Sprintf("%s   %.2f", d.Label, d.Median)})
	whisker, err := plotter.NewLine(plotter.XYs{{X: d.Low, Y: y}, {X: d.High, Y: y}})
	if err != nil {
		f.err = errors.Join(f.err, err)
		return
	}
	whisker.Color, whisker.Width = ink, vg.Points(1.5)
	dot, err := plotter.NewScatter(plotter.XYs{{X: d.Median, Y: y}})
	if err != nil {
		f.err = errors.Join(f.err, err)
		return
	}
	dot.Color, dot.Radius, dot.Shape = ink, vg.Points(3.5), draw.CircleGlyph{}
	f.Add(whisker, dot)
}

func (f *figure) write(w io.Writer, rows int) error {
	line, err := plotter.NewLine(plotter.XYs{{X: 1, Y: 0}, {X: 1, Y: float64(rows + 1)}})
	if err := errors.Join(f.err, err); err != nil {
		return err
	}
	line.Color, line.Width = even, vg.Points(1)
	f.Add(line)
	f.X.Min, f.X.Max = f.from/1.1, f.to*1.1
	f.Y.Min, f.Y.Max = 0.25, float64(rows)+0.75
	f.X.Tick.Marker = plot.ConstantTicks(ticks(f.X.Min, f.X.Max))
	f.Y.Tick.Marker = plot.ConstantTicks(f.labels)
	c := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, row*vg.Length(rows)+around), vgimg.UseDPI(120))}
	f.Draw(draw.New(c))
	_, err = c.WriteTo(w)
	return err
}

// ticks are some of each power of ten in a range.
func ticks(from, to float64) (t []plot.Tick) {
	for e := math.Floor(math.Log10(from)); e <= math.Log10(to); e++ {
		for _, m := range []float64{1, 1.5, 2, 3, 5, 7} {
			if v := m * math.Pow(10, e); from <= v && v <= to {
				t = append(t, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 3, 64)})
			}
		}
	}
	return t
}
