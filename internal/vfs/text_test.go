package vfs

import "testing"

// TestText: the same text, however it was saved.
func TestText(t *testing.T) {
	for _, saved := range []string{"ä\n𝄞", "\xef\xbb\xbfä\r\n𝄞", "\xff\xfe\xe4\x00\r\x00\n\x00\x34\xd8\x1e\xdd", "\xfe\xff\x00\xe4\x00\r\x00\n\xd8\x34\xdd\x1e"} {
		if got := string(Lines([]byte(saved))); got != "ä\n𝄞" {
			t.Errorf("%q is read as %q", saved, got)
		}
	}
	for _, saved := range []string{"", "a", "\xef\xbb", "\xff", "a\rb", "a\xef\xbb\xbf"} {
		if got := string(Lines([]byte(saved))); got != saved {
			t.Errorf("%q is read as %q", saved, got)
		}
	}
}
