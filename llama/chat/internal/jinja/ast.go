package jinja

// node is an expression or a statement; at is its place in the source.
type node struct {
	op   string
	at   int
	name string  // of names, attributes, filters, tests, operators, loops
	val  Value   // of literals
	kids []*node // operands; nil where a part is left out
	args *callArgs
	more []*node // bodies: of for the else, of if the branches' bodies
	sig  *signature
	not  bool // of tests: is not; of for: recursive
}

// callArgs are the arguments in a call.
type callArgs struct {
	pos     []*node
	names   []string
	named   []*node
	star    *node // *x
	twoStar *node // **x
}

// signature are the parameters of a macro.
type signature struct {
	names    []string
	defaults []*node // of the last ones
}

// The operations. Expressions:
//
//	const name tuple list dict(kids: key, value, ...) attr item slice call
//	filter test not neg pos and or if compare(kids, name: operators) binary
//
// Statements:
//
//	data output for if set setblock macro call filterblock with block
//	generation break continue load(include, import, extends)
