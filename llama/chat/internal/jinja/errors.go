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
