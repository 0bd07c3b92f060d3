//go:build !noasm

package kernel

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// unpackBook unpacks blocks whose codes are entries of a codebook.
type unpackBook = func(codes []byte, scales []float32, src []byte, blocks int, book *uint32)

var booksAVX2 = map[backend.DType]unpackBook{
	backend.IQ1_S:   unpackIQ1_SAVX2,
	backend.IQ1_M:   unpackIQ1_MAVX2,
	backend.IQ2_XXS: unpackIQ2_XXSAVX2,
	backend.IQ2_XS:  unpackIQ2_XSAVX2,
	backend.IQ2_S:   unpackIQ2_SAVX2,
	backend.IQ3_XXS: unpackIQ3_XXSAVX2,
	backend.IQ3_S:   unpackIQ3_SAVX2,
}

var booksAVX512 = map[backend.DType]unpackBook{
	backend.IQ1_S:   unpackIQ1_SAVX512,
	backend.IQ1_M:   unpackIQ1_MAVX512,
	backend.IQ2_XXS: unpackIQ2_XXSAVX512,
	backend.IQ2_XS:  unpackIQ2_XSAVX512,
	backend.IQ2_S:   unpackIQ2_SAVX512,
	backend.IQ3_XXS: unpackIQ3_XXSAVX512,
	backend.IQ3_S:   unpackIQ3_SAVX512,
}

// withBook gives a function the codebook of a type.
func withBook(unpack unpackBook, t backend.DType) func(codes []byte, scales []float32, src []byte, blocks int) {
	book := codebook(t)
	return func(codes []byte, scales []float32, src []byte, blocks int) {
		unpack(codes, scales, src, blocks, &book[0])
	}
}

// codebook is a type's as its function takes it. An entry of 8 weights has the codes of
// weights i and 4+i in the low and the high half of byte i, one of 4 the magnitude of
// weight i in byte i.
func codebook(t backend.DType) []uint32 {
	from := block.Codebook(t)
	book := make([]uint32, len(from))
	for i, e := range from {
		e := uint32(e)
		for j := range 4 {
			switch t {
			case backend.IQ3_XXS:
				book[i] |= [8]uint32{4, 12, 20, 28, 36, 44, 52, 62}[e>>(4*j)&7] << (8 * j)
			case backend.IQ3_S:
				book[i] |= (2*(e>>(4*j)&7) + 1) << (8 * j)
			default:
				book[i] |= (e>>(2*j)&3 | e>>(2*j+8)&3<<4) << (8 * j)
			}
		}
	}
	return book
}
