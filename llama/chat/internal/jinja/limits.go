package jinja

// What a template may take, and the counting of it: every loop and everything that is
// made counts before it is done.

// Limits bound what a template may take; zero fields have defaults.
type Limits struct {
	Source int // bytes of source, 256 KB
	Depth  int // nesting of source and of calls, 100
	Steps  int // operations, 3 million
	String int // bytes of one string and of the output, 16 MB
	Bytes  int // bytes made in all, 24 MB and 128 for each byte of the variables
}

func (l Limits) resolved() Limits {
	for _, f := range []struct {
		at *int
		or int
	}{{&l.Source, 1 << 18}, {&l.Depth, 100}, {&l.Steps, 3 << 20}, {&l.String, 16 << 20}, {&l.Bytes, 24 << 20}} {
		if *f.at <= 0 {
			*f.at = f.or
		}
	}
	return l
}

// maxNest bounds how deep evaluation may go, and so the stack.
const maxNest = 3000

// step counts one step and n more.
func (in *interp) step(n int) {
	if in.steps += 1 + n; in.steps > in.limits.Steps {
		fail(limitError, "the template takes more than %d steps", in.limits.Steps)
	}
}

// looked counts a look at a whole value.
func (in *interp) looked(v Value) {
	if s, ok := v.(Str); ok {
		in.step(len(s.s) / 16)
	}
}

// enter begins a call, which leave ends.
func (in *interp) enter() {
	if in.depth++; in.depth > in.limits.Depth {
		fail(recursionError, "calls are nested deeper than %d", in.limits.Depth)
	}
}

func (in *interp) leave() { in.depth-- }

// into bounds how deep values are looked into.
func (in *interp) into() {
	if in.deep++; in.deep > maxJSON+50 {
		fail(limitError, "a value is nested deeper than %d", maxJSON+50)
	}
}

func (in *interp) outOf() { in.deep-- }

// made counts n bytes before they are made.
func (in *interp) made(n int) {
	if n > in.limits.String {
		in.tooLong()
	}
	if in.bytes += n; in.bytes > in.limits.Bytes {
		fail(limitError, "the template makes more than %d bytes", in.limits.Bytes)
	}
	in.step(n / 256)
}

func (in *interp) tooLong() { fail(limitError, "a value of more than %d bytes", in.limits.String) }

// listed counts the items of a new list.
func (in *interp) listed(n int) {
	if n > in.limits.String/16 {
		in.tooLong()
	}
	in.made(16 * n)
	in.step(n)
}

// items counts n strings that are made as values: 64 bytes each.
func (in *interp) items(n int) {
	if n > in.limits.Bytes/64 {
		fail(limitError, "the template makes more than %d bytes", in.limits.Bytes)
	}
	in.bytes += 64*n - 16
	in.made(16)
	in.step(n)
}
