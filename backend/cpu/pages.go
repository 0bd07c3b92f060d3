package cpu

import (
	"fmt"
	"math"
	"runtime"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// order says where the numbers of a page lie: for each layer, keys then values, for each
// key-value head a block: of keys [HeadDim, PageLen], of values [PageLen, HeadDim]. So
// both products of attention read rows of what they sum over, and neither has to
// transpose.
//
// The codes of a block of Q8_0 come first, as elements of other types do, then its
// scales: of keys [HeadDim/32, PageLen], of values [PageLen, HeadDim/32].
type order backend.KV

// offset is where a head's block starts, in elements, or bytes for Q8_0. value is
// 0 for keys and 1 for values.
func (g order) offset(layer, value, head int) int {
	n := backend.PageLen * g.HeadDim
	if g.Type == backend.Q8_0 {
		n = n / backend.Q8_0.BlockElems() * backend.Q8_0.BlockBytes()
	}
	return ((layer*2+value)*g.Heads + head) * n
}

// at is where element i of a position of a head's keys or values lies, counted as
// offset does.
func (g order) at(layer, value, head, slot, i int) int {
	if value == 0 {
		return g.offset(layer, value, head) + i*backend.PageLen + slot
	}
	return g.offset(layer, value, head) + slot*g.HeadDim + i
}

// scaleAt is the byte of Q8_0 where the scale of that element lies.
func (g order) scaleAt(layer, value, head, slot, i int) int {
	n, block := backend.Q8_0.BlockElems(), g.offset(layer, value, head)+backend.PageLen*g.HeadDim
	if value == 0 {
		return block + 2*(i/n*backend.PageLen+slot)
	}
	return block + 2*(slot*(g.HeadDim/n)+i/n)
}

// element reads one of a page.
func (g order) element(page []byte, layer, value, head, slot, i int) float32 {
	at := g.at(layer, value, head, slot, i)
	switch g.Type {
	case backend.F32:
		return as[float32](page)[at]
	case backend.F16:
		return block.F16ToF32(as[uint16](page)[at])
	case backend.BF16:
		return block.BF16ToF32(as[uint16](page)[at])
	}
	d := as[uint16](page[g.scaleAt(layer, value, head, slot, i):])[0]
	return float32(as[int8](page)[at]) * block.F16ToF32(d)
}

// PageBytes implements backend.Backend. It is what the file types take.
func (b *Backend) PageBytes(kv backend.KV) int64 {
	head := int64(backend.PageLen) * int64(kv.HeadDim) * int64(kv.Type.BlockBytes()) / int64(kv.Type.BlockElems())
	return int64(kv.Layers) * 2 * int64(kv.Heads) * head
}

// ReadPage implements backend.Backend.
func (b *Backend) ReadPage(dst []float32, page backend.Buffer, kv backend.KV) error {
	if n := b.PageBytes(kv); len(dst) != kv.Elems() || n > math.MaxInt {
		panic(&backend.ShapeError{Op: "ReadPage", Detail: fmt.Sprintf("%d numbers for a page of %d", len(dst), kv.Elems())})
	}
	mem := within("ReadPage", page, 0, int(b.PageBytes(kv)))
	for layer := range kv.Layers {
		for value := range 2 {
			for head := range kv.Heads {
				for slot := range backend.PageLen {
					for i := range kv.HeadDim {
						dst[0], dst = order(kv).element(mem, layer, value, head, slot, i), dst[1:]
					}
				}
			}
		}
	}
	runtime.KeepAlive(page)
	return nil
}
