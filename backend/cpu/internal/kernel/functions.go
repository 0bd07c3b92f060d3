package kernel

import "github.com/herd-ml/herd/backend/block"

// functions are what every variant has. Their operands have been checked by the method
// of Set that runs them: they hold more than no elements, and slices are as long as its
// comment says. A variant starts with the functions of a simpler one, at last those of
// Go, and puts its own in the place of some.
type functions struct {
	f32             product[float32, float32]
	f16             product[float32, uint16]
	bf16, bf16Pairs product[float32, uint16]
	roundI8         func(codes []int8, d []float32, sums []int32, x []float32, group int)

	widenF16, widenBF16, widenPairs func(dst []float32, src []uint16)
	widenQ8, widenQ8Keys            func(dst []float32, codes []int8, scales []uint16, next []byte)
	roundF16, roundBF16             func(dst []uint16, x []float32)
	scaleBF16                       func(y []uint16, x []float32, scale float32)
	ask                             func(mem []byte)

	packWords      func(dst, src []byte, stride, words, blocks, dstStep, srcStep int)
	transposeWords func(dst []byte, dstStride int, src []byte, stride, words int)
	roundPairs     func(dst []uint16, step int, a, b []float32)
	interleave     func(y, a, b []uint16)

	add, mul           func(y, a, b []float32)
	scale              func(y, x []float32, scale float32)
	scaled             func(y, x, w []float32, scale float32)
	mix                func(y, x []float32, p, q float32)
	swiglu             func(y, gate, up []float32)
	swigluBackward     func(dgate, dup, gate, up, dy []float32)
	rotate, rotateBack func(y, x, cos, sin []float32)
	addSquares         func(t *Sums, x []float32)
	addNormSums        func(t *[2]Sums, x, w, dy []float32)
	normBackward       func(dx, dw, x, w, dy []float32, scale, c float32)
	adamW              func(p AdamW, w, m, v, g []float32)
	measureScales      block.ScaleMeasure

	scaleMax     func(x []float32, scale float32) (top float32)
	expSum       func(x []float32, from float32) (sum float32)
	dot          func(a, b []float32) float32
	maxInto      func(m, x []float32)
	expInto      func(x, m, sum []float32)
	expPairs     func(pairs []uint16, a, b, m, sum []float32)
	scoreGrads   func(scores, ds, lse, d []float32)
	scoreGrads16 func(p, g []uint16, scores, ds, lse, d []float32)
}

// extras are what only some variants have: else they are nil, and who calls them does
// without.
type extras struct {
	bf16Dot   product[uint16, uint16]
	f32Ahead  aheadRun[float32]
	f16Ahead  aheadRun[uint16]
	bf16Ahead aheadRun[uint16]
	q8Keys    q8Run
	q8Values  q8Run

	// formats is indexed by backend.DType; nil for types on portable code.
	formats []*Format

	peakF32, peakBF16, peakInt8 Peak

	read      func(p *byte, stride, n int) // reads n bytes of each of 16 streams
	readAhead func(p *byte, n int)         // reads n bytes in order
}

// Generic returns the kernels in plain Go.
func Generic() *Set {
	return &Set{name: "generic", functions: functions{
		f32:       product[float32, float32]{{1, MaxRows, f32Generic}},
		f16:       product[float32, uint16]{{1, MaxRows, f16Generic}},
		bf16:      product[float32, uint16]{{1, MaxRows, bf16Generic}},
		bf16Pairs: product[float32, uint16]{{1, MaxRows, bf16PairsGeneric}},
		roundI8:   roundI8Generic,

		widenF16: widenF16Generic, widenBF16: widenBF16Generic, widenPairs: widenPairsGeneric,
		widenQ8: widenQ8Generic, widenQ8Keys: widenQ8KeysGeneric,
		roundF16: roundF16Generic, roundBF16: roundBF16Generic, scaleBF16: scaleBF16Generic,
		ask: func([]byte) {},

		packWords: packWordsGeneric, transposeWords: transposeWordsGeneric,
		roundPairs: roundPairsGeneric, interleave: interleaveGeneric,

		add: addGeneric, mul: mulGeneric, scale: scaleGeneric, scaled: scaledGeneric, mix: mixGeneric,
		swiglu: swigluGeneric, swigluBackward: swigluBackwardGeneric,
		rotate: rotateGeneric, rotateBack: rotateBackGeneric,
		addSquares: addSquaresGeneric, addNormSums: addNormSumsGeneric, normBackward: normBackwardGeneric, adamW: adamWGeneric,
		measureScales: block.MeasureScales,

		scaleMax: scaleMaxGeneric, expSum: expSumGeneric, dot: dotGeneric,
		maxInto: maxIntoGeneric, expInto: expIntoGeneric, expPairs: expPairsGeneric,
		scoreGrads: scoreGradsGeneric, scoreGrads16: scoreGrads16Generic,
	}}
}
