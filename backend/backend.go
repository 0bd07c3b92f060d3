package backend

import (
	"context"
	"errors"
	"fmt"
)

// Backend is a device that holds weights and runs operations. It is safe for
// concurrent use.
type Backend interface {
	// Describe says what runs here: device, variant, workers.
	Describe() Description
	// Rounding tells how activations are rounded against a weight of type t
	// under PrecisionAuto. PrecisionF32 is RoundNone for every type.
	Rounding(t DType) Rounding
	// Supports returns nil where the operation is built, else an error that
	// wraps ErrUnsupported.
	Supports(op Op) error
	// Alloc returns zeroed memory that lives until Free.
	Alloc(bytes int64) (Buffer, error)
	// Upload copies bytes from the host into a buffer, off bytes from its start, and
	// Download copies from there to the host. Elements are little-endian, as files
	// have them. Both may be called at any time, within a step too, and return when
	// the copy is done. They wait for no step: the caller sees to it that no
	// operation uses the bytes meanwhile (in a step, Exec.Write and Read are in line
	// with its operations). They fail where the device does; bytes that the buffer
	// does not have panic with a *ShapeError.
	Upload(dst Buffer, off int64, src []byte) error
	Download(dst []byte, src Buffer, off int64) error
	// WeightBytes is what a packed weight holds (Weight.Bytes), before it is packed. It
	// fails for a type or size that Pack refuses.
	WeightBytes(t DType, rows, cols int) (int64, error)
	// PageBytes is the size of a page of keys and values, a multiple of 4.
	PageBytes(kv KV) int64
	// Scratch is how much of a step's arena an operation takes beside its operands, at
	// most. It looks at shapes, types and the layout, and at no memory.
	Scratch(op Op, a *Args) int64
	// ReadPage writes the numbers of a page to dst [Layers, 2, Heads, PageLen,
	// HeadDim], keys before values: for tests, and to keep pages elsewhere. It is
	// called as Download is.
	ReadPage(dst []float32, page Buffer, kv KV) error
	// Pack reads a matrix into an immutable packed weight. A panic of the source's
	// functions is the caller's own, in its goroutine.
	Pack(ctx context.Context, src WeightSource) (Weight, error)
	// Float wraps a mutable row-major F32 or BF16 matrix [rows, cols] as a
	// weight. The view's memory stays the caller's.
	Float(name string, v View) (Weight, error)
	// NewExec returns an execution context. Steps of all contexts of a
	// backend run one after the other, first come first served.
	NewExec() (Exec, error)
	// Close frees what the backend holds once no step runs.
	Close() error
}

// Exec is an execution context: it holds the backend's workers from Begin to
// End, and the step's arena. Operations of a step run in the order given.
// Between Begin and End it belongs to one goroutine.
type Exec interface {
	Backend() Backend
	// Begin waits in line for the workers and starts a step; the arena is
	// empty. It returns ctx's error where that ends the wait. A context that
	// is cancelled during the step stops it: operations then do nothing.
	Begin(ctx context.Context) error
	// End finishes the step and lets the next one in. It returns the error of
	// the context that stopped the step; results must then not be used. Where the
	// context ends after the last operation, either is right.
	End() error
	// Layout hands over a layout that operations of the step name in their operands:
	// it is checked, and brought to where the device wants it, once. It and its pages
	// must not change before End. It panics with *ShapeError where the layout's parts
	// do not fit each other; so do operations with a layout that was not handed over.
	Layout(l *Layout)
	// Alloc returns arena memory, contents undefined, valid until End.
	Alloc(t DType, s Shape) View
	// Mark remembers how much of the arena is taken, and Release gives back
	// what was taken since: a layer's activations in inference.
	Mark() int64
	Release(mark int64)
	// Run runs one operation. It panics with *ShapeError where the operands do
	// not fit, and hands on a panic of a worker. It keeps no reference to a.
	Run(op Op, a *Args)
	// Read copies a contiguous F32 view to host memory, Write the other way.
	Read(dst []float32, v View)
	Write(v View, src []float32)
	// WriteIDs copies to a contiguous I32 view.
	WriteIDs(v View, src []int32)
	// Reserve says, between steps, how much of the arena the largest step will take, so
	// that the arena is made that large at once and does not grow, with gaps, while a
	// step runs. It is advice: steps may take less or more.
	Reserve(bytes int64)
	// Scratch is the most arena memory that any step has used, in bytes.
	Scratch() int64
	// Close frees the arena.
	Close()
}

// Prober is a Backend that can measure itself.
type Prober interface {
	// Peak is the most floating-point operations a second that products of a
	// precision could do, measured in a step of its own.
	Peak(ctx context.Context, p Precision) (float64, error)
}

// WeightSource is a matrix in a file, as packing reads it.
type WeightSource struct {
	Name       string // for error messages
	Type       DType
	Rows, Cols int
	// ReadRows fills dst with rows [row, row+n) in the file's own encoding of
	// the row, n * Type.RowBytes(Cols) bytes, and keeps dst no longer than the call. It
	// is called concurrently.
	ReadRows func(dst []byte, row, n int) error
	// Progress, where set, is told the bytes read since the last call. It is
	// called concurrently.
	Progress func(bytes int64)
}

// Weight is a matrix [Rows, Cols] = [outputs, inputs] that MatMul multiplies
// with. A packed weight is immutable and holds the file's codes and scales
// unchanged; a float weight is a plain matrix that training changes.
//
// A packed type has five functions: Pack (Backend.Pack), Unpack, Row (the
// Embedding operation), Tile and MatMul (the operation).
type Weight interface {
	Name() string
	Type() DType
	Rows() int
	Cols() int
	Packed() bool
	// Version counts the changes of a float weight that Changed was told of; 0
	// for packed ones. What was computed with another version (keys and values
	// of a session, a packed snapshot) does not fit.
	Version() uint64
	// Changed is called after the values of a float weight were changed, by an
	// optimizer for one. It panics on a packed weight, whose values cannot.
	Changed()
	// Bytes is the memory held.
	Bytes() int64
	// Unpack writes rows [row, row+n) as the file had them.
	Unpack(dst []byte, row, n int)
	// Tile decodes columns [col, col+cols) of rows [row, row+rows) into dst
	// [rows, cols]. col and cols must be whole blocks of the type.
	Tile(dst []float32, row, rows, col, cols int)
	// Free returns the memory of a packed weight.
	Free()
}

// Rounding says how MatMul rounds its activations, and RoundBothBF16 its weights,
// before it multiplies.
type Rounding uint8

const (
	// RoundNone keeps activations in F32.
	RoundNone Rounding = iota
	// RoundI8x32 is the RoundI8 operation with groups of 32.
	RoundI8x32
	// RoundI8x256 is the RoundI8 operation with groups of 256.
	RoundI8x256
	// RoundToBF16 is the RoundBF16 operation.
	RoundToBF16
	// RoundI16x32 is RoundI8x32 twice: of the input x, and of what that leaves of
	// it, x - code*d in F32. It has 16 bits for twice the multiplications.
	RoundI16x32
	// RoundI16x256 is the same with groups of 256.
	RoundI16x256
	// RoundBothBF16 rounds the input and the weight to bfloat16, to nearest even:
	// training in mixed precision, whose weights are F32.
	RoundBothBF16
	// RoundToE4M3 is the RoundE4M3 operation.
	RoundToE4M3
)

// String names the rounding.
func (r Rounding) String() string {
	return [...]string{"none", "int8 per 32", "int8 per 256", "bf16", "int16 per 32", "int16 per 256", "bf16, weight too", "e4m3 per row"}[r]
}

// Group is the number of elements that share a scale, 0 where there is none.
func (r Rounding) Group() int {
	switch r {
	case RoundI8x32, RoundI16x32:
		return 32
	case RoundI8x256, RoundI16x256:
		return 256
	}
	return 0
}

// Twice reports whether what a first rounding leaves is rounded too.
func (r Rounding) Twice() bool { return r == RoundI16x32 || r == RoundI16x256 }

// To16 returns the rounding to 16 bits for one to 8: RoundI16x32 for RoundI8x32 and
// RoundI16x256 for RoundI8x256. It returns any other rounding unchanged.
func (r Rounding) To16() Rounding {
	switch r {
	case RoundI8x32:
		return RoundI16x32
	case RoundI8x256:
		return RoundI16x256
	}
	return r
}

// Precision says whether activations may be rounded for speed.
type Precision uint8

const (
	// PrecisionAuto lets MatMul round activations to the weight's partner
	// type, as Backend.Rounding says.
	PrecisionAuto Precision = iota
	// PrecisionF32 never rounds activations.
	PrecisionF32
	// PrecisionBF16 is mixed precision, for training and for sampling as one trains:
	// products with weights of a float type and with the output layer, and those of
	// attention and of gradients, round both operands to bfloat16; the rest is
	// PrecisionAuto.
	PrecisionBF16
)

// String is "auto", "f32" or "bf16".
func (p Precision) String() string { return [...]string{"auto", "f32", "bf16"}[p] }

// Description says which device and kernels run here.
type Description struct {
	Device  string   // "cpu", "ref"
	Variant string   // "generic", "avx2", ...
	CPU     string   // brand name, where known
	Workers int      // including the caller's goroutine
	Vector  []string // operations or weight types with vector kernels
	Scalar  []string // those on portable code, which are slow
}

// String is one line for a log.
func (d Description) String() string {
	s := fmt.Sprintf("%s/%s, %d workers", d.Device, d.Variant, d.Workers)
	if d.CPU != "" {
		s += " on " + d.CPU
	}
	return s
}

// ErrUnsupported is wrapped by errors about what is not built or not possible.
var ErrUnsupported = errors.New("not supported")

// ShapeError is the value of the panic where operands do not fit, which is a
// programmer's mistake.
type ShapeError struct {
	Op     string // the operation
	Detail string // what was given, both shapes
}

func (e *ShapeError) Error() string { return "backend: " + e.Op + ": " + e.Detail }

func shapeErr(op, format string, a ...any) *ShapeError {
	return &ShapeError{Op: op, Detail: fmt.Sprintf(format, a...)}
}

// String writes a shape as [2 3].
func (s Shape) String() string { return fmt.Sprint(s.Dim[:s.Rank]) }
