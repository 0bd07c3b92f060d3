package jinja

import "fmt"

// Error is a fault of a template, or what it raised.
type Error struct {
	Line, Column int    // in the source, from 1; 0 where unknown
	Kind         string // the reference's exception, "raise_exception" or "limit"
	Message      string
}

// Error says what and where.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// The kinds of errors.
const (
	syntaxError    = "TemplateSyntaxError"
	assertionError = "TemplateAssertionError"
	undefinedError = "UndefinedError"
	typeError      = "TypeError"
	valueError     = "ValueError"
	securityError  = "SecurityError"
	overflowError  = "OverflowError"
	zeroDivision   = "ZeroDivisionError"
	filterError    = "FilterArgumentError"
	runtimeError   = "TemplateRuntimeError"
	raised         = "raise_exception"
	recursionError = "RecursionError"
	limitError     = "limit"
)

// fail ends a rendering or a parse: it panics with an *Error, which Parse and
// Render return.
func fail(kind, format string, args ...any) {
	panic(&Error{Kind: kind, Message: fmt.Sprintf(format, args...)})
}

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
