package tokenizer

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// words cuts text with a step.
func words(t testing.TB, s step, text string) []string {
	t.Helper()
	spans, err := s.cut(nil, text)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, w := range spans {
		out = append(out, text[w.start:w.end])
	}
	return out
}

// randomText mixes the characters that the split expressions tell apart.
func randomText(r *rand.Rand, n int) string {
	pieces := []string{" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "a", "B", "é", "中", "ǅ", "ʰ", "1", "٣", "½", "2024", ".", "!?", "'", "'s", "'LL",
		"'Re", "'ve", "'x", "'t", "\u0301", "\U0001f999", "-", "_", "/", "$", "the", " Word", "\u200b", "ß", "İ", "가", "あ", "«", "+=", "`", "\x00"}
	var b strings.Builder
	for range n {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

// TestScannersEqualExpressions compares every hand-written scanner with the
// expression it stands for, run by both engines.
func TestScannersEqualExpressions(t *testing.T) {
	const head, words3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`, `|[^\r\n\p{L}\p{N}]?\p{L}+|`
	const rest = `| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	const gpt2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
	patterns := []string{head + words3 + `\p{N}{1,3}` + rest, head + words3 + `\p{N}` + rest, gpt2, gpt2 + `|\s+`, `\p{N}`}
	r := rand.New(rand.NewPCG(3, 4))
	for _, pattern := range patterns {
		hand, name := known(pattern)
		if hand.end == nil {
			t.Fatalf("no scanner for %s", pattern)
		}
		quick, err := newFinder(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := quick.(fast); !ok {
			t.Errorf("%s does not run as RE2", name)
		}
		back := backtracking(t, pattern)
		for range 400 {
			text := randomText(r, 1+r.IntN(40))
			want := words(t, splitter{back, isolated, false}, text)
			if got := words(t, hand, text); !slices.Equal(got, want) {
				t.Fatalf("%s: scanner cuts %q\ninto %q\nwant %q", name, text, got, want)
			}
			if got := words(t, splitter{quick, isolated, false}, text); !slices.Equal(got, want) {
				t.Fatalf("%s: RE2 cuts %q\ninto %q\nwant %q", name, text, got, want)
			}
		}
	}
}

// backtracking compiles an expression for the other engine; the lookbehind,
// always true, keeps it from RE2.
func backtracking(t *testing.T, pattern string) finder {
	t.Helper()
	f, err := newFinder(`(?:` + pattern + `)(?<=)`)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := f.(slow); !ok {
		t.Fatalf("%s does not backtrack", pattern)
	}
	return f
}

// TestForeignExpressions runs the expressions of GGUF pre types, which have no
// scanner, with both engines.
func TestForeignExpressions(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, pre := range []string{"default", "falcon", "deepseek-llm", "deepseek-coder", "deepseek-v3", "tekken", "gpt-4o", "viking", "seed-coder", "bailingmoe", "chameleon", "smollm", "gpt-2"} {
		for _, pattern := range splitByPre(pre).patterns {
			f, err := newFinder(pattern)
			if err != nil {
				t.Fatalf("%s: %v", pre, err)
			}
			if _, ok := f.(fast); !ok {
				t.Errorf("%s: %s does not run as RE2", pre, pattern)
			}
			back := backtracking(t, pattern)
			for range 60 {
				text := randomText(r, 1+r.IntN(30))
				got, want := words(t, splitter{f, isolated, false}, text), words(t, splitter{back, isolated, false}, text)
				if !slices.Equal(got, want) {
					t.Fatalf("%s: %s cuts %q\ninto %q\nwant %q", pre, pattern, text, got, want)
				}
			}
		}
	}
	if splitByPre("no such name") != nil {
		t.Error("an unknown name has a split")
	}
}

// The expected words are those of the table in the documentation of
// SplitDelimiterBehavior in the tokenizers library.
func TestBehaviors(t *testing.T) {
	const text = "the-final--countdown"
	for _, c := range []struct {
		b      behavior
		invert bool
		want   []string
	}{
		{removed, false, []string{"the", "final", "countdown"}},
		{isolated, false, []string{"the", "-", "final", "-", "-", "countdown"}},
		{withBefore, false, []string{"the-", "final-", "-", "countdown"}},
		{withAfter, false, []string{"the", "-final", "-", "-countdown"}},
		{contiguous, false, []string{"the", "-", "final", "--", "countdown"}},
		{removed, true, []string{"-", "-", "-"}},
	} {
		if got := words(t, splitter{literal("-"), c.b, c.invert}, text); !slices.Equal(got, c.want) {
			t.Errorf("%s, invert %v: %q, want %q", c.b, c.invert, got, c.want)
		}
	}
}

// After ByteLevel a text is spelled in GPT-2's characters, where byte 0xB2, the
// second of "ò", is the digit "²".
func TestStepsAfterByteLevel(t *testing.T) {
	digits := splitter{runes(func(r rune) bool { return r == '²' || r >= '0' && r <= '9' }), contiguous, false}
	if got, want := words(t, mapped{digits}, "ò 12"), []string{"\xc3", "\xb2", " ", "12"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTranslate(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          []string
	}{
		{`\s`, "a\u00a0b\u0085c\u200bd\x1ce", []string{"\u00a0", "\u0085"}},
		{`[^\s]+`, "a\u3000b", []string{"a", "b"}},
		{`[\S]+`, "a\u2028b", []string{"a", "b"}},
		{`\d+`, "1٣½", []string{"1٣"}},
		{`\w+`, "a_é-1", []string{"a_é", "1"}},
		{`[\x41\u0042\x{43}]+`, "xABCx", []string{"ABC"}},
		{`\.|\-`, "a.b-c", []string{".", "-"}},
		{`[]a]+`, "x]a", []string{"]a"}},
		{`a(?=b)`, "abac", []string{"a"}},
		{`x$`, "x\nxy\nx", []string{"x", "x"}},
	} {
		f, err := newFinder(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		found, err := f.matches(nil, c.text)
		got := []string{}
		for _, m := range found {
			got = append(got, c.text[m.start:m.end])
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s in %q: %q, want %q, %v", c.pattern, c.text, got, c.want, err)
		}
	}
	for _, bad := range []string{`(`, `[a`, `a++`, `[a&&b]`, `[a[b]]`, `\`, `\p{Nonsense}`, `\pL`, `\x{110000}`, "\xff", `(?<=`} {
		var e *Error
		if _, err := newFinder(bad); !errors.As(err, &e) {
			t.Errorf("%q: %v, want an *Error", bad, err)
		}
	}
}

// A hostile expression must give up in time, with its named error.
func TestSplitTimeLimit(t *testing.T) {
	f, err := newFinder(`(a+)+(?!b)$`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.matches(nil, strings.Repeat("a", 40)+"b"); !errors.Is(err, ErrSplitTime) {
		t.Errorf("%v, want ErrSplitTime", err)
	}
}

// TestMergesAgree compares the heap with the scan for short words.
func TestMergesAgree(t *testing.T) {
	words := newTexts(13)
	m := &bpe{bytes: true, text: newIndex(words, 13), unk: -1}
	for c := range m.first {
		m.first[c] = -1
	}
	r := rand.New(rand.NewPCG(7, 8))
	for i, s := range []string{"a", "b", "c", "aa", "ab", "ba", "abc", "aab", "cc", "ccc", "aaaa", "bab", "caa"} {
		words.add(s)
		m.text.add(int32(i))
		m.max = max(m.max, len(s))
		if len(s) == 1 {
			m.first[s[0]] = int32(i)
		}
		m.rank = append(m.rank, uint32(r.IntN(8))) // ties too
	}
	for range 300 {
		word := make([]byte, 1+r.IntN(60))
		for i := range word {
			word[i] = "abc"[r.IntN(3)]
		}
		s := new(scratch)
		m.symbols(string(word), s)
		m.mergeShort(string(word), s)
		short := m.emit(nil, string(word), s)
		m.symbols(string(word), s)
		m.mergeLong(string(word), s)
		if long := m.emit(nil, string(word), s); !slices.Equal(short, long) {
			t.Fatalf("%s: scan %v, heap %v", word, short, long)
		}
	}
}

func TestByteSpelling(t *testing.T) {
	seen := map[rune]bool{}
	for c := range 256 {
		r := byteChar(byte(c))
		if back, ok := charByte(r); !ok || int(back) != c || seen[r] {
			t.Errorf("byte %#x is spelled %q, which reads as %#x, %v", c, r, back, ok)
		}
		seen[r] = true
	}
	if raw, ok := charsToBytes("ĠtheĊé"); !ok || raw != " the\n\xe9" {
		t.Errorf("%q, %v", raw, ok)
	}
}
