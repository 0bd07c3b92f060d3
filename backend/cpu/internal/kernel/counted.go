package kernel

import (
	"reflect"
	"unsafe"
)

// Work is a kind of what kernels do.
type Work uint8

const (
	Floats   Work = iota // multiplications of floats
	Codes                // multiplications of int8
	Elements             // elements of what is no product
)

// Counted returns the set with every run of a kernel told to count, before it, with how
// much it does. It is for tests of how much runs at once; calls become slow.
func Counted(s *Set, count func(kind Work, n int)) *Set {
	c := *s
	// Most functions do as many elements as the longest of their slices has, others what
	// these say.
	others := map[string]func(args []reflect.Value) int{
		"ask":            func([]reflect.Value) int { return 0 },
		"widenQ8":        func(a []reflect.Value) int { return a[0].Len() },
		"widenQ8Keys":    func(a []reflect.Value) int { return a[0].Len() },
		"roundI8":        func(a []reflect.Value) int { return a[3].Len() },
		"roundPairs":     func(a []reflect.Value) int { return 2 * a[2].Len() },
		"packWords":      func(a []reflect.Value) int { return int(a[3].Int()*a[4].Int()) * Panel },
		"transposeWords": func(a []reflect.Value) int { return int(a[4].Int()) * Panel },
	}
	fields := reflect.ValueOf(&c.functions).Elem()
	for i := range fields.NumField() {
		f, name := fields.Field(i), fields.Type().Field(i).Name
		if f.Kind() != reflect.Func {
			continue
		}
		f = reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem() // may be set, as we have the type
		run := reflect.ValueOf(f.Interface())
		f.Set(reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
			n := 0
			for _, a := range args {
				if a.Kind() == reflect.Slice {
					n = max(n, a.Len())
				}
			}
			if other := others[name]; other != nil {
				n = other(args)
			}
			count(Elements, n)
			return run.Call(args)
		}))
	}
	c.f32, c.f16 = countProducts(s.f32, 1, count), countProducts(s.f16, 1, count)
	c.bf16, c.bf16Pairs = countProducts(s.bf16, 1, count), countProducts(s.bf16Pairs, 2, count)
	c.bf16Dot = countProducts(s.bf16Dot, 1, count) // a pair takes as long as one multiplication of floats
	c.f32Ahead, c.f16Ahead, c.bf16Ahead = countAhead(s.f32Ahead, count), countAhead(s.f16Ahead, count), countAhead(s.bf16Ahead, count)
	c.q8Keys, c.q8Values = countQ8(s.q8Keys, count), countQ8(s.q8Values, count)
	c.formats = nil
	for _, f := range s.formats {
		c.formats = append(c.formats, f.counted(count))
	}
	return &c
}

// countProducts is Counted of products, of unit inputs a step.
func countProducts[X, W float32 | uint16](f product[X, W], unit int, count func(Work, int)) (c product[X, W]) {
	for _, t := range f {
		run, panels := t.run, t.panels
		t.run = func(out []float32, outStride int, x []X, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool) {
			count(Floats, rows*k*unit*panels*Panel)
			run(out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
		}
		c = append(c, t)
	}
	return c
}

func countAhead[W float32 | uint16](run aheadRun[W], count func(Work, int)) aheadRun[W] {
	if run == nil {
		return nil
	}
	return func(out []float32, outStride int, x []float32, xStride int, w []W, wStride, wStep int, next *byte, rows, k int, accumulate bool) {
		count(Floats, rows*k*aheadPanels*Panel)
		run(out, outStride, x, xStride, w, wStride, wStep, next, rows, k, accumulate)
	}
}

func countQ8(run q8Run, count func(Work, int)) q8Run {
	if run == nil {
		return nil
	}
	return func(out []float32, outStride int, x []float32, xStride int, w []int8, wStride, wStep int, scales []float32, scaleStride int, next *byte, rows, k int, accumulate bool) {
		count(Floats, rows*k*aheadPanels*Panel)
		run(out, outStride, x, xStride, w, wStride, wStep, scales, scaleStride, next, rows, k, accumulate)
	}
}

// counted is Counted of a format; nil stays nil.
func (f *Format) counted(count func(Work, int)) *Format {
	if f == nil {
		return nil
	}
	c := *f
	// wrap makes a function of call arguments one that counts what each says.
	wrap := func(run func(*int64), work func(a *callArgs) int) func(*int64) {
		if run == nil {
			return nil
		}
		return func(p *int64) {
			count(Codes, work((*callArgs)(unsafe.Pointer(p))))
			run(p)
		}
	}
	c.unpack = func(codes []byte, scales []float32, src []byte, blocks int) {
		count(Elements, blocks*f.Block*Panel)
		f.unpack(codes, scales, src, blocks)
	}
	c.tile = func(dst []float32, codes []byte, scales []float32, subs, groups, flip, offset, mins int) {
		count(Elements, subs*f.Sub*Panel)
		f.tile(dst, codes, scales, subs, groups, flip, offset, mins)
	}
	c.product = wrap(f.product, func(a *callArgs) int { return a.rows * a.blocks * f.Group * Panel })
	c.pair = wrap(f.pair, func(a *callArgs) int { return a.rows * a.blocks * f.Group * 2 * Panel })
	for i := range c.fused {
		c.fused[i] = wrap(f.fused[i], func(a *callArgs) int { return (i + 1) * a.rows * a.blocks * f.Block * Panel })
	}
	if f.tiled != nil {
		c.tiled = func(call *Call, g *Format, panels int) {
			count(Codes, call.c.rows*call.c.blocks*f.Group*panels*Panel)
			f.tiled(call, g, panels)
		}
	}
	return &c
}
