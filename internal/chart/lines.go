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
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
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

// Lines writes a PNG of lines over one axis with a legend. A faint line has the
// colour of the next one that is not.
func Lines(w io.Writer, a Axes, lines []Line) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = a.Title, a.X, a.Y
	p.Title.TextStyle.Font.Size = vg.Points(11)
	p.Legend.Top, p.Legend.Padding, p.Legend.XOffs, p.Legend.YOffs = true, vg.Points(3), -vg.Points(8), -vg.Points(8)
	p.X.Padding, p.Y.Padding = 0, 0
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
	p.Add(grid)
	drawn, next := 0, 0
	for _, l := range lines {
		n, err := addLine(p, l, palette[next%len(palette)], a.LogX)
		if err != nil {
			return err
		}
		drawn += n
		if !l.Faint {
			next++
		}
	}
	if drawn == 0 {
		return errors.New("chart: no point to draw")
	}
	widen(&p.X)
	widen(&p.Y)
	if a.LogX {
		p.X.Scale = plot.LogScale{}
		p.X.Tick.Marker = plot.ConstantTicks(decades(p.X.Min, p.X.Max))
	}
	c := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, width*9/16), vgimg.UseDPI(120))}
	p.Draw(draw.New(c))
	_, err := c.WriteTo(w)
	return err
}

// decades are ticks at 1, 2 and 5 of each power of ten, or at the powers only where
// those are many.
func decades(from, to float64) (t []plot.Tick) {
	for e := math.Floor(math.Log10(from)); e <= math.Log10(to); e++ {
		for _, m := range []float64{1, 2, 5} {
			if v := m * math.Pow(10, e); from <= v && v <= to && (m == 1 || to/from < 1e4) {
				t = append(t, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', -1, 64)})
			}
		}
	}
	return t
}

// widen gives an axis of one value some room.
func widen(x *plot.Axis) {
	if x.Min == x.Max {
		room := max(math.Abs(x.Min)/10, 1e-6)
		x.Min, x.Max = x.Min-room, x.Max+room
	}
}

// addLine draws the finite runs of a line and returns how many points it has.
func addLine(p *plot.Plot, l Line, c color.RGBA, positive bool) (int, error) {
	if len(l.X) != len(l.Y) {
		return 0, fmt.Errorf("chart: %s: %d and %d coordinates", l.Name, len(l.X), len(l.Y))
	}
	thick := vg.Points(1.5)
	if l.Faint {
		c.R, c.G, c.B, thick = pale(c.R), pale(c.G), pale(c.B), vg.Points(0.75)
	}
	points := 0
	var run plotter.XYs
	flush := func() error {
		if len(run) == 0 {
			return nil
		}
		line, err := plotter.NewLine(run)
		if err != nil {
			return err
		}
		line.Color, line.Width = c, thick
		p.Add(line)
		if l.Dots || len(run) == 1 {
			dots, err := plotter.NewScatter(run)
			if err != nil {
				return err
			}
			dots.Color, dots.Radius, dots.Shape = c, vg.Points(2.5), draw.CircleGlyph{}
			p.Add(dots)
		}
		if points == 0 && l.Name != "" {
			p.Legend.Add(l.Name, line)
		}
		points, run = points+len(run), nil
		return nil
	}
	for i, y := range l.Y {
		x := l.X[i]
		if math.IsNaN(x) || math.IsInf(x, 0) || positive && x <= 0 {
			return 0, fmt.Errorf("chart: %s: a point at %v", l.Name, x)
		}
		if math.IsNaN(y) || math.IsInf(y, 0) {
			if err := flush(); err != nil {
				return 0, err
			}
			continue
		}
		run = append(run, plotter.XY{X: x, Y: y})
	}
	return points + len(run), flush()
}

// pale mixes a colour with white.
func pale(v uint8) uint8 { return uint8((int(v) + 2*255) / 3) }
