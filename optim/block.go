package optim

import (
	"fmt"
	"io"
	"strings"
)

// blockReader computes numbers a block at a time for a reader of bytes.
type blockReader struct {
	raw []byte // from byte at on
	at  int64
}

// blockElems is how many numbers are moved at once.
const blockElems = 1 << 16

// read is ReadAt for total numbers of width bytes; fill writes n of them from one on.
func (r *blockReader) read(p []byte, off int64, width, total int, fill func(raw []byte, from, n int) error) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= int64(width)*int64(total) {
			return done, io.EOF
		}
		if at < r.at || at >= r.at+int64(len(r.raw)) {
			from := int(at / int64(width) / blockElems * blockElems)
			n := min(blockElems, total-from)
			if cap(r.raw) < n*width {
				r.raw = make([]byte, n*width)
			}
			r.raw, r.at = r.raw[:n*width], int64(from)*int64(width)
			if err := fill(r.raw, from, n); err != nil {
				r.raw = r.raw[:0]
				return done, err
			}
		}
		done += copy(p[done:], r.raw[at-r.at:])
	}
	return done, nil
}

// maxListed bounds an error message.
const maxListed = 20

// listed joins what differs, as much as one can read.
func listed(differs []string) string {
	rest := ""
	if n := len(differs) - maxListed; n > 0 {
		differs, rest = differs[:maxListed], fmt.Sprintf("; and %d more", n)
	}
	return strings.Join(differs, "; ") + rest
}
