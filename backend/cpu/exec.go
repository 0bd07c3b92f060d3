package cpu

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
)

// exec is a backend.Exec. The tasks are fields so that a step allocates none.
type exec struct {
	b      *Backend
	ctx    context.Context // of the running step, nil between steps
	closed bool
	arena  arena

	rows    rowTask
	lines   lineTask
	matmul  matmulTask
	round   roundTask
	attend  attendTask
	squares sumTask
	norm    normTask
	layers  layerNormTask
	reduce  reduceTask
	batch   batchTask
	gemm    gemm

	rowPanels   rowPanels
	rowNorm     rowNormTask
	colPanels   colPanels
	operandRows operandRows
	turned      turned
	attendRows  rowAttention
	pagedRows   pagedRows
	loss        loss
	inner       backend.Args // of the MatMul in LogProb

	logitGradients logitGradients
}

// native are the operations, all that there are, indexed by Op.
var native = [...]func(*exec, *backend.Args){
	backend.MatMul:            (*exec).matMul,
	backend.MatMulBackward:    (*exec).matMulBackward,
	backend.MatMulAdd:         (*exec).matMulAdd,
	backend.MatMulSwiGLU:      (*exec).matMulSwiGLU,
	backend.RMSNorm:           (*exec).rmsNorm,
	backend.RMSNormBackward:   (*exec).rmsNormBackward,
	backend.LayerNorm:         (*exec).layerNorm,
	backend.LayerNormBackward: (*exec).layerNormBackward,
	backend.RoPETable:         (*exec).ropeTable,
	backend.RoPE:              (*exec).rope,
	backend.RoPEBackward:      (*exec).ropeBackward,
	backend.KVAppend:          (*exec).kvAppend,
	backend.Attention:         (*exec).attention,
	backend.AttentionBackward: (*exec).attentionBackward,
	backend.SwiGLU:            (*exec).swiGLU,
	backend.SwiGLUBackward:    (*exec).swiGLUBackward,
	backend.Embedding:         (*exec).embedding,
	backend.EmbeddingBackward: (*exec).embeddingBackward,
	backend.RowNorms:          (*exec).rowNorms,
	backend.LogProb:           (*exec).logProb,
	backend.LogProbBackward:   (*exec).logProbBackward,
	backend.CrossEntropy:      (*exec).crossEntropy,
	backend.RoundI8:           (*exec).roundI8,
	backend.RoundBF16:         (*exec).copy,
	backend.RoundE4M3:         (*exec).roundE4M3,
	backend.Unfold:            (*exec).unfold,
	backend.Fold:              (*exec).fold,
	backend.Add:               (*exec).add,
	backend.Mul:               (*exec).mul,
	backend.Exp:               (*exec).exp,
	backend.Log:               (*exec).log,
	backend.LogBackward:       (*exec).logBackward,
	backend.Sigmoid:           (*exec).sigmoid,
	backend.SigmoidBackward:   (*exec).sigmoidBackward,
	backend.Tanh:              (*exec).tanh,
	backend.TanhBackward:      (*exec).tanhBackward,
	backend.GELU:              (*exec).gelu,
	backend.GELUBackward:      (*exec).geluBackward,
	backend.Sum:               (*exec).sum,
	backend.Max:               (*exec).max,
	backend.MaxBackward:       (*exec).maxBackward,
	backend.Softmax:           (*exec).softmax,
	backend.SoftmaxBackward:   (*exec).softmaxBackward,
	backend.BatchMatMul:       (*exec).batchMatMul,
	backend.Gather:            (*exec).gather,
	backend.ScatterAdd:        (*exec).scatterAdd,
	backend.Copy:              (*exec).copy,
	backend.AdamW:             (*exec).adamW,
	backend.SumSquares:        (*exec).sumSquares,
}

func (e *exec) Backend() backend.Backend { return e.b }

func (e *exec) Begin(ctx context.Context) error {
	if err := e.b.pool.acquire(ctx); err != nil {
		return err
	}
	if e.closed {
		e.b.pool.release()
		return ErrClosed
	}
	e.ctx = ctx
	e.arena.reset()
	return nil
}

func (e *exec) End() error {
	if e.ctx == nil {
		return fmt.Errorf("cpu: End without Begin")
	}
	var err error
	if e.b.pool.stopped.Load() {
		err = ctxerr.Of(e.ctx)
	}
	e.ctx = nil
	e.b.pool.release()
	return err
}

func (e *exec) Alloc(t backend.DType, s backend.Shape) backend.View {
	if !t.Valid() || t.Quantized() {
		panic(&backend.ShapeError{Op: "Alloc", Detail: fmt.Sprintf("elements of type %v", t)})
	}
	n := int64(t.BlockBytes())
	for _, d := range s.Dim[:s.Rank] {
		if d < 0 || d > 0 && n > maxBytes/int64(d) {
			panic(&backend.ShapeError{Op: "Alloc", Detail: fmt.Sprintf("%v of %v", s, t)})
		}
		n *= int64(d)
	}
	c, at := e.arena.take(n)
	return backend.Contiguous(c, t, int(at/int64(t.BlockBytes())), s)
}

// maxBytes bounds a view, so that sizes derived from it do not overflow.
const maxBytes = 1 << 60

func (e *exec) Mark() int64        { return e.arena.mark() }
func (e *exec) Release(mark int64) { e.arena.release(mark) }
func (e *exec) Scratch() int64     { return e.arena.peak }

func (e *exec) Reserve(bytes int64) { e.arena.want = max(e.arena.want, bytes) }

func (e *exec) Run(op backend.Op, a *backend.Args) {
	if e.ctx == nil {
		panic(&backend.ShapeError{Op: op.String(), Detail: "run outside of Begin and End"})
	}
	backend.Check(op, a, e.b)
	if e.b.pool.halted() {
		return
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	native[op](e, a)
	runtime.KeepAlive(a)
}

// Layout implements backend.Exec: the check is all that there is to do.
func (e *exec) Layout(l *backend.Layout) { l.Check() }

func (e *exec) Read(dst []float32, v backend.View) {
	contiguous("Read", &v, backend.F32, len(dst))
	copy(dst, elems[float32](&v))
	runtime.KeepAlive(v.Buf)
}

func (e *exec) Write(v backend.View, src []float32) {
	contiguous("Write", &v, backend.F32, len(src))
	copy(elems[float32](&v), src)
	runtime.KeepAlive(v.Buf)
}

func (e *exec) WriteIDs(v backend.View, src []int32) {
	contiguous("WriteIDs", &v, backend.I32, len(src))
	copy(elems[int32](&v), src)
	runtime.KeepAlive(v.Buf)
}

func contiguous(what string, v *backend.View, t backend.DType, n int) {
	if v.Type != t || v.Shape.Elems() != n || !v.IsContiguous() {
		panic(&backend.ShapeError{Op: what, Detail: fmt.Sprintf("%d values of %v for a view of %v %v", n, t, v.Type, v.Shape)})
	}
}

func (e *exec) Close() {
	e.closed = true
	e.arena.free()
}
