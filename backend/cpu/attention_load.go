package cpu

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// half reports whether keys and values have 16 bits.
func (c *attending) half() bool {
	return c.s.Pages != nil && (c.a.KV.Type == backend.F16 || c.a.KV.Type == backend.BF16)
}

// coded reports whether keys and values are Q8_0, codes and scales.
func (c *attending) coded() bool { return c.s.Pages != nil && c.a.KV.Type == backend.Q8_0 }

// asCodes reports whether kernels multiply the Q8_0 codes from a slot of a page on as they
// are. They do so for few rows, from the start of a page, and where the head size is a
// multiple of MaxPanels panels. Other codes are widened to F32 first.
func (c *attending) asCodes(slot int) bool {
	return c.few && slot == 0 && c.hd%(kernel.MaxPanels*panel) == 0 && c.w.kernels.HasQ8()
}

// whole reports whether a product can read keys (0) or values (1) where they lie in a page.
// It reads whole panels. So values of heads that are no whole panels are copied first: the
// last panel would end beyond the page.
func (c *attending) whole(value int) bool {
	return c.s.Pages != nil && (value == 0 || c.hd%panel == 0)
}

// buffers takes scratch memory for keys and values that must be laid out in another order
// or widened before they are multiplied.
func (c *attending) buffers() {
	const slack = panel // a product of keys from the middle of a page reads beyond
	if c.coded() {
		c.scales = slice[float32](&c.w.scratch, c.hd*backend.PageLen/backend.Q8_0.BlockElems())
	}
	for i := range c.buf {
		b := &c.buf[i]
		if i == 1 && !c.whole(1) && c.half() {
			b.h = slice[uint16](&c.w.scratch, c.wide*backend.PageLen)
		}
		if !c.whole(i) && !c.half() || c.half() && !c.few || c.coded() {
			b.f = slice[float32](&c.w.scratch, c.wide*backend.PageLen+slack)
		}
	}
}

// keys returns keys [at, at+n), which lie in one page, as a matrix with a row for each of
// the head's numbers and a column for each key. next is the memory that is read after them.
func (c *attending) keys(at, n int, next []byte) columns {
	k := c.buf[0]
	k.stride = backend.PageLen
	if c.s.Pages == nil {
		in, stride := &c.a.In[1], c.a.In[1].RowStride()
		for t, x := 0, elems[float32](in)[at*stride+c.g*c.hd:]; t < n; t++ {
			for i, e := range x[t*stride:][:c.hd] {
				k.f[i*backend.PageLen+t] = e
			}
		}
		return k
	}
	page, from, slot := c.page(at), order(c.a.KV).offset(c.a.Layer, 0, c.g), at%backend.PageLen
	size := c.hd * backend.PageLen
	switch {
	case c.coded() && c.asCodes(slot):
		c.askScales(next)
		k.codes, k.scales = as[int8](page[from:]), c.scales
		c.w.kernels.WidenF16(k.scales, as[uint16](page[from+size:]))
	case c.coded():
		c.w.kernels.WidenQ8Keys(k.f[:size], as[int8](page[from:]), as[uint16](page[from+size:]), next)
		k.f = k.f[slot:]
	case !c.half():
		k.f = as[float32](page)[from+slot:]
	case c.few:
		k.h = as[uint16](page)[from+slot:]
	default:
		c.widen(k.f[:size], as[uint16](page)[from:])
		k.f = k.f[slot:]
	}
	return k
}

// values returns values [at, at+n), which lie in one page, as a matrix with a row for each
// key. next is the memory that is read after them.
func (c *attending) values(at, n int, next []byte) columns {
	v := c.buf[1]
	v.stride = c.wide
	if c.s.Pages == nil {
		in, stride := &c.a.In[2], c.a.In[2].RowStride()
		padRows(v.f, c.wide, elems[float32](in)[at*stride+c.g*c.hd:], stride, n, c.hd)
		return v
	}
	page, slot := c.page(at), at%backend.PageLen
	from := order(c.a.KV).at(c.a.Layer, 1, c.g, slot, 0)
	switch {
	case c.coded():
		scales := as[uint16](page[order(c.a.KV).scaleAt(c.a.Layer, 1, c.g, slot, 0):])
		if c.asCodes(0) {
			c.askScales(next)
			v.codes, v.scales = as[int8](page[from:]), c.scales[:n*(c.hd/backend.Q8_0.BlockElems())]
			c.w.kernels.WidenF16(v.scales, scales)
		} else {
			c.w.kernels.WidenQ8(v.f[:n*c.hd], as[int8](page[from:]), scales, next)
		}
		return v
	case !c.half() && c.whole(1):
		v.f = as[float32](page)[from:]
		return v
	case !c.half():
		padRows(v.f, c.wide, as[float32](page)[from:], c.hd, n, c.hd)
		return v
	case c.whole(1):
		v.h = as[uint16](page)[from:]
	default:
		padRows(v.h, c.wide, as[uint16](page)[from:], c.hd, n, c.hd)
	}
	if !c.few {
		c.widen(v.f[:n*c.wide], v.h)
		v.h = nil
	}
	return v
}

// askScales prefetches the scales of the codes that are read next. The kernels that
// multiply codes prefetch the codes themselves.
func (c *attending) askScales(next []byte) {
	codes := c.hd * backend.PageLen
	if n := codes / backend.Q8_0.BlockElems() * 2; len(next) >= codes+n {
		c.w.kernels.Ask(next[codes:][:n])
	}
}

// page is the memory of the page of a key row.
func (c *attending) page(at int) []byte { return memory(c.s.Pages[at/backend.PageLen]) }

// ahead returns the memory that the chunk reads after a page, so that kernels prefetch it
// while they multiply. A part [at, at+n) reads the keys (value 0) of its pages first, then
// their values (value 1); then comes the next part. off is the end of the page within the
// part. ahead returns nil at the end of the sequence. It also returns nil for many rows:
// they wait for arithmetic, not for memory.
func (c *attending) ahead(value, at, off, n int) []byte {
	if !c.few || c.s.Pages == nil {
		return nil
	}
	if off >= n && value == 0 {
		value, off = 1, 0
	} else if off >= n {
		value = 0
	}
	if (at+off)/backend.PageLen >= len(c.s.Pages) {
		return nil
	}
	from := order(c.a.KV).offset(c.a.Layer, value, c.g)
	if !c.coded() {
		from *= c.a.KV.Type.BlockBytes()
	}
	return c.page(at + off)[from:]
}

// widen widens 16-bit keys or values.
func (c *attending) widen(dst []float32, src []uint16) {
	if c.a.KV.Type == backend.F16 {
		c.w.kernels.WidenF16(dst, src)
	} else {
		c.w.kernels.WidenBF16(dst, src)
	}
}

// padRows copies n rows of hd to rows of wide, the rest zeros.
func padRows[T number](dst []T, wide int, src []T, stride, n, hd int) {
	for t := range n {
		row := dst[t*wide:][:wide]
		clear(row[copy(row, src[t*stride:][:hd]):])
	}
}
