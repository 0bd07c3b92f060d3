// Package house holds tests about the whole checkout: which package may import
// which, what the library never does, how long files and functions are, how
// many modules a consumer inherits, and whether the README's commands and
// programs do what it says.
package house
