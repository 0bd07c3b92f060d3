//go:build !noasm

package kernel

import (
	"errors"

	"github.com/klauspost/cpuid/v2"

	"github.com/herd-ml/herd/backend"
)

// AVX2 returns the kernels for AVX2, FMA and F16C, or why they do not run here.
func AVX2() (*Set, error) {
	if err := missing(cpuid.AVX2, cpuid.FMA3, cpuid.F16C); err != nil {
		return nil, err
	}
	s := Generic()
	s.name = "avx2"
	s.f32 = product[float32, float32]{{1, 6, f32AVX2}}
	s.f16 = product[float32, uint16]{{1, 6, f16AVX2}}
	s.bf16 = product[float32, uint16]{{1, 6, bf16AVX2}}
	s.bf16Pairs = product[float32, uint16]{{1, 6, bf16PairsAVX2}}
	s.roundI8 = roundAVX2

	s.widenF16, s.widenBF16, s.widenPairs = widenF16Vectors, widenBF16Vectors, widenPairsAVX2
	s.widenQ8, s.widenQ8Keys, s.ask = widenQ8Vectors, widenQ8KeysVectors, askVectors
	s.roundF16, s.roundBF16 = roundF16Vectors, roundBF16Vectors
	s.packWords, s.transposeWords, s.roundPairs = packWordsVectors, transposeWordsVectors, roundPairsVectors

	s.add, s.mul, s.scale, s.scaled, s.mix = addVectors, mulVectors, scaleVectors, scaledVectors, mixVectors
	s.swiglu, s.swigluBackward = swigluVectors, swigluBackwardVectors
	s.rotate, s.rotateBack = rotateVectors, rotateBackVectors
	s.addSquares, s.addNormSums, s.normBackward, s.adamW = addSquaresVectors, addNormSumsVectors, normBackwardVectors, adamWVectors
	s.measureScales = measureScalesVectors
	s.scaleMax, s.expSum, s.dot = scaleMaxVectors, expSumVectors, dotVectors
	s.maxInto, s.expInto, s.scoreGrads = maxIntoVectors, expIntoVectors, scoreGradsVectors

	s.read, s.readAhead = readAVX2, readAheadAVX2
	s.formats = (&products{
		x32: one(int8x32AVX2), x32Mins: one(int8x32MinsAVX2), x32Full: one(int8x32SignedAVX2),
		x256x32Mins: one(int8x256x32MinsAVX2), x256x32Full: one(int8x256x32SignedAVX2),
		x256x16: one(int8x256x16AVX2), x256x16Mins: one(int8x256x16MinsAVX2),
		x256x32: one(int8x256x32AVX2), x256x16Full: one(int8x256x16SignedAVX2), x32x16Full: one(int8x32x16SignedAVX2), signed: true,
		fused: fusedAVX2, books: booksAVX2,
	}).formats()
	s.peakF32, s.peakInt8 = Peak{12 * 8 * 2, peakF32AVX2}, Peak{12 * 32 * 2, peakInt8AVX2}
	return s, nil
}

// AVX512 returns the kernels for AVX-512 with VNNI, or why they do not run here.
func AVX512() (*Set, error) {
	if err := missing(cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL, cpuid.AVX512VNNI); err != nil {
		return nil, err
	}
	s, err := AVX2()
	if err != nil {
		return nil, err
	}
	s.name = "avx512"
	s.f32 = product[float32, float32]{{4, 1, f32x4AVX512}, {2, 12, f32x2AVX512}, {1, 12, f32AVX512}}
	s.f16 = product[float32, uint16]{{4, 1, f16x4AVX512}, {2, 12, f16x2AVX512}, {1, 12, f16AVX512}}
	s.bf16 = product[float32, uint16]{{4, 1, bf16x4AVX512}, {2, 12, bf16x2AVX512}, {1, 12, bf16AVX512}}
	s.bf16Pairs = product[float32, uint16]{{4, 1, bf16Pairsx4AVX512}, {2, 12, bf16Pairsx2AVX512}, {1, 12, bf16PairsAVX512}}
	s.f32Ahead, s.f16Ahead, s.bf16Ahead = f32AheadAVX512, f16AheadAVX512, bf16AheadAVX512
	s.q8Keys, s.q8Values = q8KeysAheadAVX512, q8ValuesAheadAVX512

	s.swiglu, s.swigluBackward, s.adamW = swigluAVX512, swigluBackwardAVX512, adamWWide
	s.scaleMax, s.expSum = scaleMaxAVX512, expSumAVX512
	s.expInto, s.scoreGrads, s.interleave = expIntoAVX512, scoreGradsAVX512, interleaveWide
	// BF16 is for what has it: Cooper Lake, Sapphire Rapids, Zen 4 and later.
	if cpuid.CPU.Has(cpuid.AVX512BF16) {
		s.bf16Dot = product[uint16, uint16]{{4, 1, bf16Dotx4AVX512}, {2, 12, bf16Dotx2AVX512}, {1, 12, bf16DotAVX512}}
		s.expPairs, s.scoreGrads16, s.scaleBF16 = expPairsAVX512, scoreGrads16AVX512, scaleBF16Wide
		s.peakBF16 = Peak{12 * 32 * 2, peakBF16AVX512}
	}

	s.formats = (&products{
		x32: two(int8x32AVX512, pairx32AVX512), x32Mins: two(int8x32MinsAVX512, pairx32MinsAVX512),
		x32Full:     two(int8x32AVX512, pairx32AVX512),
		x256x32Mins: two(int8x256x32MinsAVX512, pairx256x32MinsAVX512), x256x32Full: two(int8x256x32AVX512, pairx256x32AVX512),
		x256x16: two(int8x256x16AVX512, pairx256x16AVX512), x256x16Mins: two(int8x256x16MinsAVX512, pairx256x16MinsAVX512),
		x256x16Full: two(int8x256x16AVX512, pairx256x16AVX512),
		x256x32:     two(int8x256x32AVX512, pairx256x32AVX512), x32x16Full: two(int8x32x16AVX512, pairx32x16AVX512),
		fused: fusedAVX512, books: booksAVX512,
	}).formats()
	s.peakF32, s.peakInt8 = Peak{12 * 16 * 2, peakF32AVX512}, Peak{12 * 64 * 2, peakInt8AVX512}
	return s, nil
}

// missing names the first feature that the processor or the system lacks.
func missing(need ...cpuid.FeatureID) error {
	for _, f := range need {
		if !cpuid.CPU.Has(f) {
			return errors.New("kernel: no " + f.String())
		}
	}
	return nil
}

// products are the int8 products of a variant, by sub-block, minima and sign.
type products struct {
	x32, x32Mins, x32Full, x32x16Full, x256x32, x256x32Mins, x256x32Full, x256x16, x256x16Mins, x256x16Full recipe

	signed bool // of avx2: codes of 8 bits stay signed, else 128 is added
	fused  map[backend.DType]fusedRows
	books  map[backend.DType]unpackBook
}

// one is a recipe of avx2, two is one of avx512.
func one(product func(*int64)) recipe { return recipe{product: product, productRows: 2} }

func two(product, pair func(*int64)) recipe { return recipe{product, pair, 12, 6} }

type fusedRows = [2]func(*int64) // of one and of two rows

var fusedAVX2 = map[backend.DType]fusedRows{
	backend.Q4_0:   {fusedQ4_0AVX2, fusedTwoQ4_0AVX2},
	backend.Q4_1:   {fusedQ4_1AVX2, fusedTwoQ4_1AVX2},
	backend.Q5_0:   {fusedQ5_0AVX2, fusedTwoQ5_0AVX2},
	backend.Q5_1:   {fusedQ5_1AVX2, fusedTwoQ5_1AVX2},
	backend.Q8_0:   {fusedQ8_0AVX2, fusedTwoQ8_0AVX2},
	backend.IQ4_NL: {fusedIQ4_NLAVX2, fusedTwoIQ4_NLAVX2},
	backend.IQ4_XS: {fusedIQ4_XSAVX2, fusedTwoIQ4_XSAVX2},
	backend.Q2_K:   {fusedQ2_KAVX2, fusedTwoQ2_KAVX2},
	backend.Q3_K:   {fusedQ3_KAVX2, fusedTwoQ3_KAVX2},
	backend.Q4_K:   {fusedQ4_KAVX2, fusedTwoQ4_KAVX2},
	backend.Q5_K:   {fusedQ5_KAVX2, fusedTwoQ5_KAVX2},
	backend.Q6_K:   {fusedQ6_KAVX2, fusedTwoQ6_KAVX2},
	backend.TQ1_0:  {fusedTQ1_0AVX2, fusedTwoTQ1_0AVX2},
	backend.TQ2_0:  {fusedTQ2_0AVX2, fusedTwoTQ2_0AVX2},
	backend.MXFP4:  {fusedMXFP4AVX2, fusedTwoMXFP4AVX2},
}

var fusedAVX512 = map[backend.DType]fusedRows{
	backend.Q4_0:   {fusedQ4_0AVX512, fusedTwoQ4_0AVX512},
	backend.Q4_1:   {fusedQ4_1AVX512, fusedTwoQ4_1AVX512},
	backend.Q5_0:   {fusedQ5_0AVX512, fusedTwoQ5_0AVX512},
	backend.Q5_1:   {fusedQ5_1AVX512, fusedTwoQ5_1AVX512},
	backend.Q8_0:   {fusedQ8_0AVX512, fusedTwoQ8_0AVX512},
	backend.IQ4_NL: {fusedIQ4_NLAVX512, fusedTwoIQ4_NLAVX512},
	backend.IQ4_XS: {fusedIQ4_XSAVX512, fusedTwoIQ4_XSAVX512},
	backend.Q2_K:   {fusedQ2_KAVX512, fusedTwoQ2_KAVX512},
	backend.Q3_K:   {fusedQ3_KAVX512, fusedTwoQ3_KAVX512},
	backend.Q4_K:   {fusedQ4_KAVX512, fusedTwoQ4_KAVX512},
	backend.Q5_K:   {fusedQ5_KAVX512, fusedTwoQ5_KAVX512},
	backend.Q6_K:   {fusedQ6_KAVX512, fusedTwoQ6_KAVX512},
	backend.TQ1_0:  {fusedTQ1_0AVX512, fusedTwoTQ1_0AVX512},
	backend.TQ2_0:  {fusedTQ2_0AVX512, fusedTwoTQ2_0AVX512},
	backend.MXFP4:  {fusedMXFP4AVX512, fusedTwoMXFP4AVX512},
}

// formats lists what has kernels for codes.
func (p *products) formats() []*Format {
	full := func(f Format, signed, biased func([]byte, []float32, []byte, int)) Format {
		if p.signed {
			f.unpack, f.flip = signed, 0x80808080
		} else {
			f.unpack, f.Offset = biased, 128
		}
		return f
	}
	list := map[backend.DType]Format{
		backend.Q4_0:   {Sub: 32, Offset: 8, unpack: unpackQ4_0, recipe: p.x32},
		backend.Q4_1:   {Sub: 32, Mins: true, unpack: unpackQ4_1, recipe: p.x32Mins},
		backend.Q5_0:   {Sub: 32, Offset: 16, unpack: unpackQ5_0, recipe: p.x32},
		backend.Q5_1:   {Sub: 32, Mins: true, unpack: unpackQ5_1, recipe: p.x32Mins},
		backend.Q8_0:   full(Format{Sub: 32, recipe: p.x32Full}, unpackQ8_0, unpackQ8_0Biased),
		backend.IQ4_NL: full(Format{Sub: 32, recipe: p.x32Full}, unpackIQ4_NL, unpackIQ4_NLBiased),
		backend.IQ4_XS: full(Format{Sub: 32, recipe: p.x256x32Full}, unpackIQ4_XS, unpackIQ4_XSBiased),
		backend.Q2_K:   {Sub: 16, Mins: true, unpack: unpackQ2_K, recipe: p.x256x16Mins},
		backend.Q3_K:   {Sub: 16, Offset: 4, unpack: unpackQ3_K, recipe: p.x256x16},
		backend.Q4_K:   {Sub: 32, Mins: true, unpack: unpackQ4_K, recipe: p.x256x32Mins},
		backend.Q5_K:   {Sub: 32, Mins: true, unpack: unpackQ5_K, recipe: p.x256x32Mins},
		backend.Q6_K:   {Sub: 16, Offset: 32, unpack: unpackQ6_K, recipe: p.x256x16},
		backend.TQ1_0:  {Sub: 32, Offset: 1, unpack: unpackTQ1_0, recipe: p.x256x32},
		backend.TQ2_0:  {Sub: 32, Offset: 1, unpack: unpackTQ2_0, recipe: p.x256x32},
		backend.MXFP4:  full(Format{Sub: 32, recipe: p.x32Full}, unpackMXFP4, unpackMXFP4Biased),
		backend.NVFP4:  full(Format{Sub: 16, Group: 32, recipe: p.x32x16Full}, unpackNVFP4, unpackNVFP4Biased),
	}
	for t, unpack := range p.books {
		spread := withBook(unpack, t)
		f := full(Format{Sub: 32, recipe: p.x256x32Full}, spread, spread)
		if t == backend.IQ1_M || t == backend.IQ2_XS || t == backend.IQ2_S {
			f.Sub, f.recipe = 16, p.x256x16Full
		}
		list[t] = f
	}
	var fs []*Format
	for t, f := range list {
		for int(t) >= len(fs) {
			fs = append(fs, nil)
		}
		f.Block, f.Bytes, f.fused = t.BlockElems(), Panel*t.BlockBytes(), p.fused[t]
		f.tile = tileAVX2
		if f.Group == 0 {
			f.Group = f.Block
		}
		fs[t] = &f
	}
	return fs
}
