package backend

// The operand checks of the operations, one a function, named in the table in
// ops.go. Each panics with a *ShapeError that gives both shapes.

// matrix checks that v is present, of type t, with rows of contiguous elements.
func matrix(name, what string, v *View, t DType, rows, cols int) {
	if !v.Present() {
		panic(shapeErr(name, "%s is missing", what))
	}
	if v.Type != t {
		panic(shapeErr(name, "%s is %v, not %v", what, v.Type, t))
	}
	if v.Rows() != rows || v.Cols() != cols {
		panic(shapeErr(name, "%s is %v, not [%d %d]", what, v.Shape, rows, cols))
	}
	if v.Shape.Rank > 2 && !v.IsContiguous() || cols > 1 && v.Stride[v.Shape.Rank-1] != 1 {
		panic(shapeErr(name, "the rows of %s are not contiguous", what))
	}
}

// optional is matrix for an operand that may be absent.
func optional(name, what string, v *View, t DType, rows, cols int) {
	if v.Present() {
		matrix(name, what, v, t, rows, cols)
	}
}

// vector checks a one-axis operand of n elements.
func vector(name, what string, v *View, t DType, n int) {
	if v.Present() && v.Shape.Rank != 1 {
		panic(shapeErr(name, "%s is %v, not [%d]", what, v.Shape, n))
	}
	matrix(name, what, v, t, 1, n)
}

// same returns the check of an element-wise operation: in inputs and out
// outputs of one shape. Absent outputs after the first are allowed.
func same(in, out int) func(*Args, string) {
	return func(a *Args, name string) {
		shape := a.In[0].Shape
		for i := range in {
			sameShape(name, "input", &a.In[i], shape)
		}
		sameShape(name, "output", &a.Out[0], shape)
		for i := 1; i < out; i++ {
			if a.Out[i].Present() {
				sameShape(name, "output", &a.Out[i], shape)
			}
		}
	}
}

// distinct refuses an output that would write an element twice.
func distinct(name string, v *View) {
	if v.Shape.Elems() == 0 {
		return
	}
	for i := range v.Shape.Rank {
		if v.Shape.Dim[i] > 1 && v.Stride[i] == 0 {
			panic(shapeErr(name, "an output of %v repeats along axis %d", v.Shape, i))
		}
	}
}

func sameShape(name, what string, v *View, shape Shape) {
	if !v.Present() || v.Type != F32 {
		panic(shapeErr(name, "an %s is missing or not F32", what))
	}
	if v.Shape != shape {
		panic(shapeErr(name, "an %s is %v, the first input %v", what, v.Shape, shape))
	}
}

func checkWeights(a *Args, name string, k int) int {
	n := a.Weights()
	if n == 0 {
		panic(shapeErr(name, "no weight"))
	}
	for _, w := range a.W[:n] {
		if w.Cols() != k {
			panic(shapeErr(name, "x has %d columns, weight %s is [%d %d]", k, w.Name(), w.Rows(), w.Cols()))
		}
	}
	return n
}

// checkProduct checks the input and the weights of a product.
func checkProduct(a *Args, name string) (rows, weights int) {
	r, k := a.In[0].Rows(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, r, k)
	n := checkWeights(a, name, k)
	if g := a.Round.Group(); g > 0 && k%g != 0 {
		panic(shapeErr(name, "%d columns are not whole groups of %d", k, g))
	}
	return r, n
}

func checkMatMul(a *Args, name string) {
	r, n := checkProduct(a, name)
	for i := range n {
		matrix(name, "an output", &a.Out[i], F32, r, a.W[i].Rows())
	}
}

func checkMatMulAdd(a *Args, name string) {
	r, n := checkProduct(a, name)
	if n != 1 {
		panic(shapeErr(name, "%d weights", n))
	}
	matrix(name, "what is added to", &a.In[1], F32, r, a.W[0].Rows())
	matrix(name, "the output", &a.Out[0], F32, r, a.W[0].Rows())
}

func checkMatMulSwiGLU(a *Args, name string) {
	r, n := checkProduct(a, name)
	if n != 2 {
		panic(shapeErr(name, "%d weights", n))
	}
	if g, u := a.W[0], a.W[1]; g.Rows() != u.Rows() {
		panic(shapeErr(name, "gate %s is [%d %d], up %s [%d %d]", g.Name(), g.Rows(), g.Cols(), u.Name(), u.Rows(), u.Cols()))
	}
	matrix(name, "the output", &a.Out[0], F32, r, a.W[0].Rows())
}

func checkMatMulBackward(a *Args, name string) {
	r, k := a.In[0].Rows(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, r, k)
	checkGradientRound(a, name)
	n := checkWeights(a, name, k)
	optional(name, "dx", &a.Out[0], F32, r, k)
	for i := range n {
		matrix(name, "dy", &a.In[1+i], F32, r, a.W[i].Rows())
		optional(name, "dW", &a.Out[1+i], F32, a.W[i].Rows(), k)
	}
}

func checkRMSNorm(a *Args, name string) {
	r, d := a.In[0].Rows(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, r, d)
	vector(name, "w", &a.In[1], F32, d)
	matrix(name, "the output", &a.Out[0], F32, r, d)
}

func checkRMSNormBackward(a *Args, name string) {
	r, d := a.In[0].Rows(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, r, d)
	vector(name, "w", &a.In[1], F32, d)
	matrix(name, "dy", &a.In[2], F32, r, d)
	optional(name, "dx", &a.Out[0], F32, r, d)
	optional(name, "dw", &a.Out[1], F32, 1, d)
}

func checkLayerNorm(a *Args, name string) {
	checkRMSNorm(a, name)
	vector(name, "b", &a.In[2], F32, a.In[0].Cols())
}

func checkLayerNormBackward(a *Args, name string) {
	checkRMSNormBackward(a, name)
	optional(name, "db", &a.Out[2], F32, 1, a.In[0].Cols())
}

func checkRoPETable(a *Args, name string) {
	half, r := a.In[0].Cols(), a.Out[0].Rows()
	vector(name, "the frequencies", &a.In[0], F32, half)
	a.Layout.of(name, r)
	matrix(name, "the table", &a.Out[0], F32, r, 2*half)
}

func checkRoPE(a *Args, name string) {
	r, d, hd := a.In[0].Rows(), a.In[0].Cols(), a.In[1].Cols()
	matrix(name, "x", &a.In[0], F32, r, d)
	matrix(name, "the table", &a.In[1], F32, r, hd)
	if hd == 0 || hd%2 != 0 || d%hd != 0 {
		panic(shapeErr(name, "x is %v, the table %v", a.In[0].Shape, a.In[1].Shape))
	}
	matrix(name, "the output", &a.Out[0], F32, r, d)
}

func checkKV(a *Args, name string) {
	g := a.KV
	if g.Heads <= 0 || g.HeadDim <= 0 {
		panic(shapeErr(name, "keys and values of %d heads of %d", g.Heads, g.HeadDim))
	}
}

// checkPages checks the page geometry and the size of the pages.
func checkPages(a *Args, name string, b Backend) {
	g := a.KV
	if err := g.Err(); err != nil {
		panic(shapeErr(name, "%v", err))
	}
	if a.Layer < 0 || a.Layer >= g.Layers {
		panic(shapeErr(name, "layer %d of %d", a.Layer, g.Layers))
	}
	if size := b.PageBytes(g); a.Layout.facts.page < size {
		panic(shapeErr(name, "a page has %d bytes, not %d", a.Layout.facts.page, size))
	}
}

func checkKVAppend(a *Args, name string) {
	checkKV(a, name)
	r, c := a.In[0].Rows(), a.KV.Heads*a.KV.HeadDim
	matrix(name, "k", &a.In[0], F32, r, c)
	matrix(name, "v", &a.In[1], F32, r, c)
	a.Layout.attends(name, r)
	if !a.Layout.facts.all {
		panic(shapeErr(name, "a segment has no pages"))
	}
	if !a.Layout.facts.fits {
		panic(shapeErr(name, "a segment has more rows than its last span"))
	}
}

func checkAttention(a *Args, name string) {
	checkKV(a, name)
	r, d, kv := a.In[0].Rows(), a.In[0].Cols(), a.KV.Heads*a.KV.HeadDim
	if d == 0 || d%kv != 0 {
		panic(shapeErr(name, "q is %v, keys have %d heads of %d", a.In[0].Shape, a.KV.Heads, a.KV.HeadDim))
	}
	matrix(name, "q", &a.In[0], F32, r, d)
	a.Layout.attends(name, r)
	if a.Layout.facts.rows {
		matrix(name, "k", &a.In[1], F32, a.Layout.KeyRows(), kv)
		matrix(name, "v", &a.In[2], F32, a.Layout.KeyRows(), kv)
	}
	matrix(name, "the output", &a.Out[0], F32, r, d)
	optional(name, "lse", &a.Out[1], F32, r, d/a.KV.HeadDim)
	checkGradientRound(a, name)
}

func checkAttentionBackward(a *Args, name string) {
	checkAttentionRows(a, name)
	r, d, kv := a.In[0].Rows(), a.In[0].Cols(), a.KV.Heads*a.KV.HeadDim
	matrix(name, "y", &a.In[3], F32, r, d)
	matrix(name, "dy", &a.In[4], F32, r, d)
	optional(name, "lse", &a.In[5], F32, r, d/a.KV.HeadDim)
	checkGradientRound(a, name)
	optional(name, "dq", &a.Out[0], F32, r, d)
	optional(name, "dk", &a.Out[1], F32, a.Layout.KeyRows(), kv)
	optional(name, "dv", &a.Out[2], F32, a.Layout.KeyRows(), kv)
}

// checkAttentionRows checks q, k, v and a layout without pages.
func checkAttentionRows(a *Args, name string) {
	checkKV(a, name)
	r, d, kv := a.In[0].Rows(), a.In[0].Cols(), a.KV.Heads*a.KV.HeadDim
	if d == 0 || d%kv != 0 {
		panic(shapeErr(name, "q is %v, keys have %d heads of %d", a.In[0].Shape, a.KV.Heads, a.KV.HeadDim))
	}
	matrix(name, "q", &a.In[0], F32, r, d)
	a.Layout.attends(name, r)
	matrix(name, "k", &a.In[1], F32, a.Layout.KeyRows(), kv)
	matrix(name, "v", &a.In[2], F32, a.Layout.KeyRows(), kv)
	if a.Layout.facts.paged {
		panic(shapeErr(name, "a segment has pages: gradients are of rows"))
	}
}

func checkEmbedding(a *Args, name string) {
	r := a.In[0].Cols()
	vector(name, "ids", &a.In[0], I32, r)
	if a.Weights() != 1 {
		panic(shapeErr(name, "%d weights", a.Weights()))
	}
	matrix(name, "the output", &a.Out[0], F32, r, a.W[0].Cols())
}

func checkEmbeddingBackward(a *Args, name string) {
	r := a.In[0].Cols()
	vector(name, "ids", &a.In[0], I32, r)
	matrix(name, "dy", &a.In[1], F32, r, a.Out[0].Cols())
	matrix(name, "dW", &a.Out[0], F32, a.Out[0].Rows(), a.Out[0].Cols())
}

func checkRowNorms(a *Args, name string) {
	n := a.Weights()
	if n != 1 && n != 3 {
		panic(shapeErr(name, "%d weights, not 1 or 3", n))
	}
	w := a.W[0]
	if n == 3 {
		if first, second := a.W[1], a.W[2]; first.Cols() != w.Cols() || second.Rows() != w.Rows() || second.Cols() != first.Rows() {
			panic(shapeErr(name, "%s is [%d %d], its change [%d %d] by [%d %d]", w.Name(), w.Rows(), w.Cols(),
				second.Rows(), second.Cols(), first.Rows(), first.Cols()))
		}
	}
	for i, what := range [...]string{"the norms", "their inverses"} {
		if a.Out[i].Present() {
			vector(name, what, &a.Out[i], F32, w.Rows())
		}
	}
}

// checkGradientRound refuses what products of gradients cannot be rounded to.
func checkGradientRound(a *Args, name string) {
	if a.Round != RoundNone && a.Round != RoundBothBF16 {
		panic(shapeErr(name, "rounding %v, not %v or %v", a.Round, RoundNone, RoundBothBF16))
	}
}

// checkLogits checks the operands of logits and returns the rows.
func checkLogits(a *Args, name string) int {
	r, n := checkProduct(a, name)
	if n != 1 {
		panic(shapeErr(name, "%d weights", n))
	}
	vector(name, "ids", &a.In[1], I32, r)
	return r
}

func checkLogProb(a *Args, name string) {
	r := checkLogits(a, name)
	vector(name, "logp", &a.Out[0], F32, r)
	vector(name, "lse", &a.Out[1], F32, r)
	if a.Out[2].Present() {
		vector(name, "entropy", &a.Out[2], F32, r)
	}
}

func checkLogProbBackward(a *Args, name string) {
	r, k := checkLogits(a, name), a.In[0].Cols()
	checkGradientRound(a, name)
	vector(name, "lse", &a.In[2], F32, r)
	vector(name, "dlogp", &a.In[3], F32, r)
	for i, what := range [...]string{"dlse", "dentropy"} {
		if a.In[4+i].Present() {
			vector(name, what, &a.In[4+i], F32, r)
		}
	}
	optional(name, "dx", &a.Out[0], F32, r, k)
	optional(name, "dW", &a.Out[1], F32, a.W[0].Rows(), k)
}

func checkCrossEntropy(a *Args, name string) {
	r, k := checkLogits(a, name), a.In[0].Cols()
	checkGradientRound(a, name)
	vector(name, "c", &a.In[2], F32, r)
	if a.In[3].Present() {
		vector(name, "zc", &a.In[3], F32, r)
	}
	vector(name, "logp", &a.Out[0], F32, r)
	vector(name, "lse", &a.Out[1], F32, r)
	optional(name, "dx", &a.Out[2], F32, r, k)
	optional(name, "dW", &a.Out[3], F32, a.W[0].Rows(), k)
}

func checkRoundI8(a *Args, name string) {
	r, k, g := a.In[0].Rows(), a.In[0].Cols(), a.Round.Group()
	if a.Round.Twice() {
		g = 0 // RoundI8 itself rounds once
	}
	matrix(name, "x", &a.In[0], F32, r, k)
	if g == 0 || k%g != 0 {
		panic(shapeErr(name, "%d columns in groups of %d", k, g))
	}
	matrix(name, "the codes", &a.Out[0], I8, r, k)
	matrix(name, "the scales", &a.Out[1], F32, r, k/g)
	matrix(name, "the sums", &a.Out[2], I32, r, k/16)
}

func checkRoundBF16(a *Args, name string) {
	r, k := a.In[0].Rows(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, r, k)
	matrix(name, "the output", &a.Out[0], BF16, r, k)
}

func checkRoundE4M3(a *Args, name string) {
	r, k := a.In[0].Rows(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, r, k)
	matrix(name, "the codes", &a.Out[0], I8, r, k)
	matrix(name, "the scales", &a.Out[1], F32, r, 1)
}

// reduced is the shape that is left when axis is reduced to extent 1.
func reduced(name string, v *View, axis int) Shape {
	if axis < 0 || axis >= v.Shape.Rank {
		panic(shapeErr(name, "axis %d of %v", axis, v.Shape))
	}
	s := v.Shape
	if s.Dim[axis] == 0 {
		panic(shapeErr(name, "axis %d of %v has no elements", axis, s))
	}
	s.Dim[axis] = 1
	return s
}

func checkReduce(a *Args, name string) {
	sameShape(name, "input", &a.In[0], a.In[0].Shape)
	sameShape(name, "output", &a.Out[0], reduced(name, &a.In[0], a.Axis))
}

func checkMaxBackward(a *Args, name string) {
	s := reduced(name, &a.In[0], a.Axis)
	sameShape(name, "input", &a.In[0], a.In[0].Shape)
	sameShape(name, "input", &a.In[1], s)
	sameShape(name, "input", &a.In[2], s)
	sameShape(name, "output", &a.Out[0], a.In[0].Shape)
}

func checkBatchMatMul(a *Args, name string) {
	x, y, z := a.In[0].Shape, a.In[1].Shape, a.Out[0].Shape
	if x.Rank != 3 || y.Rank != 3 || x.Dim[0] != y.Dim[0] || x.Dim[2] != y.Dim[1] ||
		z != Dims(x.Dim[0], x.Dim[1], y.Dim[2]) {
		panic(shapeErr(name, "%v by %v into %v", x, y, z))
	}
	for _, v := range []*View{&a.In[0], &a.In[1], &a.Out[0]} {
		sameShape(name, "operand", v, v.Shape)
	}
}

func checkGather(a *Args, name string) {
	r, d := a.In[1].Cols(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, a.In[0].Rows(), d)
	vector(name, "the index", &a.In[1], I32, r)
	matrix(name, "the output", &a.Out[0], F32, r, d)
}

func checkScatterAdd(a *Args, name string) {
	r, d := a.In[1].Cols(), a.In[0].Cols()
	matrix(name, "x", &a.In[0], F32, r, d)
	vector(name, "the index", &a.In[1], I32, r)
	matrix(name, "the output", &a.Out[0], F32, a.Out[0].Rows(), d)
}

func checkCopy(a *Args, name string) {
	for _, v := range [2]*View{&a.In[0], &a.Out[0]} {
		if !v.Present() || !v.Type.Float() && v.Type != I32 {
			panic(shapeErr(name, "an operand is missing or of type %v", v.Type))
		}
	}
	if a.In[0].Shape != a.Out[0].Shape {
		panic(shapeErr(name, "%v into %v", a.In[0].Shape, a.Out[0].Shape))
	}
	if (a.In[0].Type == I32) != (a.Out[0].Type == I32) {
		panic(shapeErr(name, "%v into %v", a.In[0].Type, a.Out[0].Type))
	}
}

func checkAdamW(a *Args, name string) {
	for _, v := range [4]*View{&a.In[0], &a.Out[0], &a.Out[1], &a.Out[2]} {
		dense(name, v, a.In[0].Shape)
	}
}

func checkSumSquares(a *Args, name string) {
	dense(name, &a.In[0], a.In[0].Shape)
	vector(name, "the sum", &a.Out[0], F32, 1)
}

// dense is sameShape for an operand without gaps.
func dense(name string, v *View, shape Shape) {
	sameShape(name, "operand", v, shape)
	if !v.IsContiguous() {
		panic(shapeErr(name, "an operand of %v has gaps", v.Shape))
	}
}
