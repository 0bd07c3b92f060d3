package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// The scanners below are the split expressions of the common models, written
// out by hand: one pass, no backtracking. Each returns the end of the word that
// starts at s[i]; every byte belongs to a word.

// class sorts characters as the split expressions do.
type class uint8

const (
	other  class = iota // neither of the below
	space               // \s without \r and \n
	line                // \r and \n, which are \s too
	letter              // \p{L}
	number              // \p{N}
)

// asciiClass is the class of the ASCII characters.
var asciiClass = [utf8.RuneSelf]class{
	'\t': space, '\n': line, '\v': space, '\f': space, '\r': line, ' ': space,
	'0': number, '1': number, '2': number, '3': number, '4': number, '5': number, '6': number, '7': number, '8': number, '9': number,
	'A': letter, 'B': letter, 'C': letter, 'D': letter, 'E': letter, 'F': letter, 'G': letter, 'H': letter, 'I': letter,
	'J': letter, 'K': letter, 'L': letter, 'M': letter, 'N': letter, 'O': letter, 'P': letter, 'Q': letter, 'R': letter,
	'S': letter, 'T': letter, 'U': letter, 'V': letter, 'W': letter, 'X': letter, 'Y': letter, 'Z': letter,
	'a': letter, 'b': letter, 'c': letter, 'd': letter, 'e': letter, 'f': letter, 'g': letter, 'h': letter, 'i': letter,
	'j': letter, 'k': letter, 'l': letter, 'm': letter, 'n': letter, 'o': letter, 'p': letter, 'q': letter, 'r': letter,
	's': letter, 't': letter, 'u': letter, 'v': letter, 'w': letter, 'x': letter, 'y': letter, 'z': letter,
}

// classAt returns the class and the width of the character at s[i]; past the
// end it is (other, 0).
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return other, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	switch {
	case unicode.IsLetter(r):
		return letter, n
	case unicode.IsNumber(r):
		return number, n
	case unicode.IsSpace(r):
		return space, n
	}
	return other, n
}

// skip returns the end of the run of class c that starts at s[i].
func skip(s string, i int, c class) int {
	for i < len(s) {
		if b := s[i]; b < utf8.RuneSelf {
			if asciiClass[b] != c {
				break
			}
			i++
			continue
		}
		k, n := classAt(s, i)
		if k != c {
			break
		}
		i += n
	}
	return i
}

// letters returns the end of the letters at s[i], where ASCII letters are there,
// perhaps after a space; else i. Most words of a text are such, to all scanners.
func letters(s string, i int) int {
	at := i
	if s[at] == ' ' {
		at++
	}
	if at == len(s) || s[at] >= utf8.RuneSelf || asciiClass[s[at]] != letter {
		return i
	}
	return skip(s, at+1, letter)
}

// spaces returns the end of a run of \s that starts at s[i], the end of its
// last \r or \n (0: none), and the start of its last character.
func spaces(s string, i int) (end, afterLine, last int) {
	for last = i; i < len(s); {
		k, n := classAt(s, i)
		if k != space && k != line {
			break
		}
		last = i
		i += n
		if k == line {
			afterLine = i
		}
	}
	return i, afterLine, last
}

// spaceWord applies `\s+(?!\S)|\s+`: a run of white space gives its last
// character to a word that follows.
func spaceWord(s string, start, end, last int) int {
	if end == len(s) || last == start {
		return end
	}
	return last
}

// scanLlama3 is the split of Llama 3 (and cl100k), with words of at most digits
// numbers: 3 there, 1 for Qwen2.
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
func scanLlama3(s string, i, digits int) int {
	if end := letters(s, i); end > i {
		return end
	}
	k, n := classAt(s, i)
	if s[i] == '\'' {
		if w := contraction(s[i+1:], true); w > 0 {
			return i + 1 + w
		}
	}
	switch k {
	case letter:
		return skip(s, i+n, letter)
	case number:
		for i += n; digits > 1; digits-- {
			if k, n = classAt(s, i); k != number {
				break
			}
			i += n
		}
		return i
	}
	next, w := classAt(s, i+n)
	if k != line && next == letter {
		return skip(s, i+n+w, letter)
	}
	if k == other || s[i] == ' ' && next == other && w > 0 {
		return skip(s, skip(s, i+n, other), line)
	}
	end, afterLine, last := spaces(s, i)
	if afterLine > 0 {
		return afterLine
	}
	return spaceWord(s, i, end, last)
}

// scanGPT2 is the split of GPT-2.
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func scanGPT2(s string, i int) int {
	if end := letters(s, i); end > i {
		return end
	}
	if s[i] == '\'' {
		if w := contraction(s[i+1:], false); w > 0 {
			return i + 1 + w
		}
	}
	k, n := classAt(s, i)
	at := i + n
	if s[i] == ' ' {
		if next, w := classAt(s, at); w > 0 && next != space && next != line {
			k, at = next, at+w
		}
	}
	if k != space && k != line {
		return skip(s, at, k)
	}
	end, _, last := spaces(s, i)
	return spaceWord(s, i, end, last)
}

// scanNumber cuts every \p{N} off by itself and leaves the rest together.
func scanNumber(s string, i int) int {
	k, n := classAt(s, i)
	if k == number {
		return i + n
	}
	for i += n; i < len(s); i += n {
		if k, n = classAt(s, i); k == number {
			break
		}
	}
	return i
}

// contraction returns the length of s|t|re|ve|m|ll|d at the start of s; fold
// ignores case, with U+017F as an s, as case folding has it.
func contraction(s string, fold bool) int {
	if len(s) == 0 {
		return 0
	}
	lower := func(c byte) byte {
		if fold && c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	second := byte(0)
	switch lower(s[0]) {
	case 's', 't', 'm', 'd':
		return 1
	case 'r', 'v':
		second = 'e'
	case 'l':
		second = 'l'
	default:
		if fold && len(s) > 1 && s[:2] == "ſ" {
			return 2
		}
		return 0
	}
	if len(s) > 1 && lower(s[1]) == second {
		return 2
	}
	return 0
}
