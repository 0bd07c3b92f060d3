package backend

// MaxRank is the largest number of axes a View may have.
const MaxRank = 4

// Buffer is memory that belongs to a backend. It lies outside the Go heap
// where the platform can, 64-byte aligned.
//
// Nothing above a backend looks at memory: Backend.Upload and Download move bytes,
// Exec.Read and Write the numbers of a step.
type Buffer interface {
	// Size is the number of bytes.
	Size() int64
	// Free returns the memory. A second call does nothing.
	Free()
}

// Shape is the extent of each axis; row-major, the last axis contiguous.
type Shape struct {
	Rank int
	Dim  [MaxRank]int
}

// Dims makes a Shape. More than MaxRank axes panic.
func Dims(d ...int) Shape {
	var s Shape
	if len(d) > MaxRank {
		panic(&ShapeError{Op: "Dims", Detail: "more axes than MaxRank"})
	}
	s.Rank = len(d)
	copy(s.Dim[:], d)
	return s
}

// Elems is the number of elements; 1 for a scalar.
func (s Shape) Elems() int {
	n := 1
	for _, d := range s.Dim[:s.Rank] {
		n *= d
	}
	return n
}

// View is a strided window of a Buffer. Its zero value is an absent operand.
type View struct {
	Buf    Buffer
	Off    int // elements from the buffer's start
	Type   DType
	Shape  Shape
	Stride [MaxRank]int // elements; 0 repeats, as broadcasting does
}

// Contiguous returns a row-major View of a buffer, off elements from its start.
func Contiguous(b Buffer, t DType, off int, s Shape) View {
	v := View{Buf: b, Off: off, Type: t, Shape: s}
	n := 1
	for i := s.Rank - 1; i >= 0; i-- {
		v.Stride[i] = n
		n *= s.Dim[i]
	}
	return v
}

// Present reports whether v is an operand at all.
func (v View) Present() bool { return v.Buf != nil }

// Rows and Cols read a View as a matrix: the last axis is the columns and all
// others together the rows. A vector is one row.
func (v View) Rows() int {
	if v.Shape.Rank == 0 {
		return 1
	}
	n := 1
	for _, d := range v.Shape.Dim[:v.Shape.Rank-1] {
		n *= d
	}
	return n
}

// Cols is the extent of the last axis.
func (v View) Cols() int {
	if v.Shape.Rank == 0 {
		return 1
	}
	return v.Shape.Dim[v.Shape.Rank-1]
}

// RowStride is the distance in elements between the rows of a matrix.
func (v View) RowStride() int {
	if v.Shape.Rank < 2 {
		return v.Cols()
	}
	return v.Stride[v.Shape.Rank-2]
}

// Slice narrows an axis to [from, from+n).
func (v View) Slice(axis, from, n int) View {
	if axis < 0 || axis >= v.Shape.Rank || from < 0 || n < 0 || from+n > v.Shape.Dim[axis] {
		panic(shapeErr("Slice", "axis %d [%d:%d] of %v", axis, from, from+n, v.Shape))
	}
	v.Off += from * v.Stride[axis]
	v.Shape.Dim[axis] = n
	return v
}

// Transpose exchanges two axes without moving data.
func (v View) Transpose(a, b int) View {
	if a < 0 || b < 0 || a >= v.Shape.Rank || b >= v.Shape.Rank {
		panic(shapeErr("Transpose", "axes %d and %d of %v", a, b, v.Shape))
	}
	v.Shape.Dim[a], v.Shape.Dim[b] = v.Shape.Dim[b], v.Shape.Dim[a]
	v.Stride[a], v.Stride[b] = v.Stride[b], v.Stride[a]
	return v
}

// IsContiguous reports whether the elements lie row-major without gaps.
func (v View) IsContiguous() bool {
	n := 1
	for i := v.Shape.Rank - 1; i >= 0; i-- {
		if v.Shape.Dim[i] > 1 && v.Stride[i] != n {
			return false
		}
		n *= v.Shape.Dim[i]
	}
	return true
}

// Reshape gives a contiguous View another shape of the same size.
func (v View) Reshape(s Shape) View {
	if !v.IsContiguous() || s.Elems() != v.Shape.Elems() {
		panic(shapeErr("Reshape", "%v to %v", v.Shape, s))
	}
	return Contiguous(v.Buf, v.Type, v.Off, s)
}
