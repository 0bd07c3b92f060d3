package chart

import (
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
	"strconv"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

var (
	white = color.RGBA{0xff, 0xff, 0xff, 0xff}
	black = color.RGBA{0x20, 0x20, 0x20, 0xff}
	faint = color.RGBA{0xe4, 0xe4, 0xe4, 0xff} // of the grid
)

// Of the font, in pixels.
var (
	face      = basicfont.Face7x13
	charWidth = face.Advance
	lineSpace = face.Height + 5
)

// A canvas is an image under construction. Places are in pixels from the top left.
type canvas struct{ *image.RGBA }

func newCanvas(width, height int) canvas {
	c := canvas{image.NewRGBA(image.Rect(0, 0, width, height))}
	draw.Draw(c, c.Bounds(), image.NewUniform(white), image.Point{}, draw.Src)
	return c
}

func (c canvas) write(w io.Writer) error { return png.Encode(w, c) }

type point struct{ x, y float64 }

// stroke draws a line through points, with round corners and ends.
func (c canvas) stroke(points []point, thick float64, ink color.RGBA) {
	r := vector.NewRasterizer(c.Bounds().Dx(), c.Bounds().Dy())
	for i, p := range points {
		circle(r, p, thick/2)
		if i > 0 {
			bar(r, points[i-1], p, thick/2)
		}
	}
	r.Draw(c, c.Bounds(), image.NewUniform(ink), image.Point{})
}

// dots draws a disc at each point.
func (c canvas) dots(points []point, radius float64, ink color.RGBA) {
	r := vector.NewRasterizer(c.Bounds().Dx(), c.Bounds().Dy())
	for _, p := range points {
		circle(r, p, radius)
	}
	r.Draw(c, c.Bounds(), image.NewUniform(ink), image.Point{})
}

// bar adds the rectangle around a line. Shapes turn the same way, so that they add up
// where they overlap.
func bar(r *vector.Rasterizer, from, to point, half float64) {
	length := math.Hypot(to.x-from.x, to.y-from.y)
	if length == 0 {
		return
	}
	nx, ny := -(to.y-from.y)/length*half, (to.x-from.x)/length*half
	polygon(r, point{from.x + nx, from.y + ny}, point{from.x - nx, from.y - ny}, point{to.x - nx, to.y - ny}, point{to.x + nx, to.y + ny})
}

func circle(r *vector.Rasterizer, at point, radius float64) {
	const corners = 16
	var p [corners]point
	for i := range p {
		sin, cos := math.Sincos(2 * math.Pi * float64(i) / corners)
		p[i] = point{at.x + radius*cos, at.y + radius*sin}
	}
	polygon(r, p[:]...)
}

func polygon(r *vector.Rasterizer, points ...point) {
	for i, p := range points {
		if i == 0 {
			r.MoveTo(float32(p.x), float32(p.y))
		} else {
			r.LineTo(float32(p.x), float32(p.y))
		}
	}
	r.ClosePath()
}

// rule draws a straight line along an axis, one pixel wide.
func (c canvas) rule(x0, y0, x1, y1 int, ink color.RGBA) {
	draw.Draw(c, image.Rect(x0, y0, x1+1, y1+1), image.NewUniform(ink), image.Point{}, draw.Src)
}

// text writes a line whose baseline begins at (x, y), and ends there with right.
func (c canvas) text(s string, x, y int, right bool) {
	if right {
		x -= textWidth(s)
	}
	d := font.Drawer{Dst: c, Src: image.NewUniform(black), Face: face, Dot: fixed.P(x, y)}
	d.DrawString(s)
}

// textWidth is the width of a line in pixels.
func textWidth(s string) int { return font.MeasureString(face, s).Ceil() }

// An axis maps values to pixels.
type axis struct {
	from, to   float64 // values
	start, end int     // their pixels
	log        bool
}

func (a axis) at(v float64) float64 {
	from, to := a.from, a.to
	if a.log {
		v, from, to = math.Log(v), math.Log(from), math.Log(to)
	}
	return float64(a.start) + float64(a.end-a.start)*(v-from)/(to-from)
}

// A tick is a value with its label.
type tick struct {
	value float64
	label string
}

// ticks are about n round values of an axis that is not logarithmic.
func (a axis) ticks(n int) (list []tick) {
	raw := (a.to - a.from) / float64(n)
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*step >= raw {
			step *= m
			break
		}
	}
	digits := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	for i := math.Ceil(a.from/step - 1e-9); i*step <= a.to+1e-9*step && len(list) < 10*n; i++ {
		v := i*step + 0 // -0 becomes 0
		label := strconv.FormatFloat(v, 'f', digits, 64)
		if digits > 6 || math.Abs(v) >= 1e7 {
			label = strconv.FormatFloat(v, 'g', 4, 64)
		}
		list = append(list, tick{v, label})
	}
	return list
}

// powers are ticks at multiples of the powers of ten in a range.
func powers(from, to float64, multiples ...float64) (list []tick) {
	for e := math.Floor(math.Log10(from)); e <= math.Log10(to); e++ {
		for _, m := range multiples {
			if v := m * math.Pow(10, e); from <= v && v <= to {
				list = append(list, tick{v, strconv.FormatFloat(v, 'g', 6, 64)})
			}
		}
	}
	return list
}
