// Package backend holds the data types and the interface between the layers
// above and the devices below. It runs nothing itself: backend/cpu and
// backend/ref do, and backend/backendtest checks any of them.
//
// Experimental: this interface may change with any release.
//
// # How work goes through it
//
// A Backend packs weights and makes execution contexts. A step is
//
//	exec.Begin(ctx)   wait in line, take the workers, empty the arena
//	exec.Alloc, exec.Write, exec.Run, exec.Read ...
//	exec.End()        let the next step in
//
// and Step is the function that begins and ends one, so that none is left open.
//
// Activations are rows [R, width]: no batch axis, no padding. The Layout says
// what each row is, and it is the only thing that differs between the uses:
//
//   - Prefill of one prompt. R rows of one Segment with the session's page table
//     and one span [0, n), n the length after this step. Each row sees the keys
//     up to its own: the span is cut by causality. Layout.Logits holds the last
//     row only, so the output layer runs on one row.
//   - A step of 16 sessions. 16 rows, 16 segments of one row, each with its own
//     page table and span [0, n_i). All weights are read once for the 16 rows.
//     Prefill chunks of other sessions may be further segments of the same step.
//   - A packed training batch. Each document is a segment without pages whose
//     one span is its own rows; key row i is row i of the step. Responses that
//     share a prompt have two spans: the prompt's rows, whole, and their own,
//     cut. Backward operations walk the same segments.
//   - An encoder. Each picture or utterance is a segment with Whole: its rows see all of
//     it. A convolution slides a Window over the rows of each segment.
//   - Cross-attention. The rows of a text in a second layout, whose spans number key rows
//     of a picture: rows of k and v, Layout.Keys of them, or slots of the picture's own
//     page table, of a geometry of its own. KVAppend fills these once, in the layout of
//     the picture's rows; steps that follow only attend. Rows before the picture see
//     nothing, and get zeros.
//   - A GPU. Buffers are device memory, Run enqueues, Read synchronises; outside of
//     steps Upload and Download copy. Nothing above a backend looks at memory, so no
//     caller changes.
//   - LoRA over a quantised base. MatMul multiplies x with the packed base; two
//     small products with float weights A and B and an Add give the update; in
//     training MatMulBackward of the base has no dW output and decodes the
//     weight block by block, as Tile does. Nothing else knows of adapters.
//
// # Weights
//
// A packed weight holds panels of 16 output rows with the file's own codes and
// scales, the last panel filled with zeros. A float weight is a plain matrix,
// packed on the fly while it is multiplied. See Weight.
//
// # Numbers
//
// Results depend on neither the number of workers nor on how rows are grouped
// into steps: each output of MatMul is one sum over k in ascending order, and
// Attention cuts its sum over keys in pages at fixed multiples of the key row (256 in
// backend/cpu), and over keys in rows at multiples from the start of the span, whatever
// the rows of the step. Rounding of activations is an
// operation with an exact formula (RoundI8, RoundBF16, RoundE4M3), so a rounded product can
// be checked against the reference to the last bits.
//
// # Mistakes and failures
//
// Operands that do not fit are a programmer's mistake and panic with a
// *ShapeError. What files and machines do wrong is an error.
package backend
