package ref

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
)

// Run runs one operation. It panics with a *backend.ShapeError where the
// operands do not fit or an id is out of range. The operands' memory is the
// oracle's, or a Host. An output may be the
// same view as an input.
func Run(op backend.Op, a *backend.Args) {
	if a.Layout != nil {
		a.Layout.Check()
	}
	backend.Check(op, a, (*device)(nil))
	run(op, a)
}

func run(op backend.Op, a *backend.Args) {
	x := Load(a)
	x.Eval(op)
	x.Store()
}

// Eval runs the operation on x in float64. Operands are not checked.
func (x *Values) Eval(op backend.Op) { kernels[op](x) }

// kernels is indexed by Op.
var kernels = [...]func(*Values){
	backend.MatMul:            matMul,
	backend.MatMulBackward:    matMulBackward,
	backend.MatMulAdd:         matMulAdd,
	backend.MatMulSwiGLU:      matMulSwiGLU,
	backend.RMSNorm:           rmsNorm,
	backend.RMSNormBackward:   rmsNormBackward,
	backend.LayerNorm:         layerNorm,
	backend.LayerNormBackward: layerNormBackward,
	backend.RoPETable:         ropeTable,
	backend.RoPE:              rope,
	backend.RoPEBackward:      ropeBackward,
	backend.KVAppend:          kvAppend,
	backend.Attention:         attention,
	backend.AttentionBackward: attentionBackward,
	backend.SwiGLU:            swiGLU,
	backend.SwiGLUBackward:    swiGLUBackward,
	backend.Embedding:         embedding,
	backend.EmbeddingBackward: scatterInto,
	backend.RowNorms:          rowNorms,
	backend.LogProb:           logProb,
	backend.LogProbBackward:   logProbBackward,
	backend.CrossEntropy:      crossEntropy,
	backend.RoundI8:           roundI8,
	backend.RoundBF16:         copyOf,
	backend.RoundE4M3:         roundE4M3,
	backend.Unfold:            unfold,
	backend.Fold:              fold,
	backend.Add:               add,
	backend.Mul:               mul,
	backend.Exp:               exp,
	backend.Log:               log,
	backend.LogBackward:       logBackward,
	backend.Sigmoid:           sigmoid,
	backend.SigmoidBackward:   sigmoidBackward,
	backend.Tanh:              tanh,
	backend.TanhBackward:      tanhBackward,
	backend.GELU:              gelu,
	backend.GELUBackward:      geluBackward,
	backend.Sum:               sum,
	backend.Max:               maxOf,
	backend.MaxBackward:       maxBackward,
	backend.Softmax:           softmax,
	backend.SoftmaxBackward:   softmaxBackward,
	backend.BatchMatMul:       batchMatMul,
	backend.Gather:            gather,
	backend.ScatterAdd:        scatterAdd,
	backend.Copy:              copyOf,
	backend.AdamW:             adamW,
	backend.SumSquares:        sumSquares,
}

// index checks an id against n rows.
func index(op backend.Op, id float64, n int) int {
	if id < 0 || int(id) >= n {
		panic(&backend.ShapeError{Op: op.String(), Detail: fmt.Sprintf("id %d of %d rows", int(id), n)})
	}
	return int(id)
}
