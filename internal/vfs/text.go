package vfs

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
)

// Text is text as people write it, in UTF-8 without a byte order mark: what editors and
// shells of Windows put in front of a file is taken off, and UTF-16 that begins with its
// mark is turned into UTF-8.
func Text(b []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		return b[3:]
	case bytes.HasPrefix(b, []byte("\xff\xfe")):
		order = binary.LittleEndian
	case bytes.HasPrefix(b, []byte("\xfe\xff")):
		order = binary.BigEndian
	default:
		return b
	}
	units := make([]uint16, (len(b)-2)/2)
	for i := range units {
		units[i] = order.Uint16(b[2+2*i:])
	}
	return []byte(string(utf16.Decode(units)))
}

// Lines is Text whose lines end in \n, where they ended in \r\n.
func Lines(b []byte) []byte { return bytes.ReplaceAll(Text(b), []byte("\r\n"), []byte("\n")) }
