// Package tfevents writes the event files that TensorBoard reads, with scalars
// only.
//
// A file is a sequence of records: the length of the data (8 bytes, little
// endian), the masked CRC-32C of those 8 bytes, the data, the masked CRC-32C of
// the data. Data is a protocol buffer Event.
//
// https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
// https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto
// https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/summary.proto
package tfevents

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const prefix, suffix = "events.out.tfevents.", ".herd"

// IsName says whether Create gives such names.
func IsName(name string) bool {
	return strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix)
}

// A Scalar is one value under a name; names with a slash are grouped.
type Scalar struct {
	Tag   string
	Value float64 // kept as float32
}

// Writer appends to one event file. It serves one goroutine.
type Writer struct {
	f   *os.File
	buf []byte
}

// Create starts an event file in a folder that exists. Its name holds the time in
// seconds, or the next second that no file there has. firstStep is the step that
// comes next: of older files in the folder, TensorBoard then leaves out what they
// have from that step on.
func Create(dir string, now time.Time, firstStep int64) (*Writer, error) {
	var f *os.File
	for second := now.Unix(); f == nil; second++ {
		var err error
		f, err = os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%010d%s", prefix, second, suffix)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	w := &Writer{f: f}
	w.record(event(now, 0, versionField, []byte("brain.Event:2")))
	if firstStep > 0 {
		w.record(event(now, firstStep, sessionField, appendVarint(nil, statusField<<3|wireVarint, sessionStart)))
	}
	if err := w.flush(); err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// Add writes scalars of a step, in one write. Values may be NaN or infinite:
// TensorBoard marks them.
func (w *Writer) Add(now time.Time, step int64, scalars ...Scalar) error {
	var summary []byte
	for _, s := range scalars {
		value := appendBytes(nil, tagField, []byte(s.Tag))
		value = appendVarint(value, simpleField<<3|wire32)
		value = binary.LittleEndian.AppendUint32(value, math.Float32bits(float32(s.Value)))
		summary = appendBytes(summary, valueField, value)
	}
	w.record(event(now, step, summaryField, summary))
	return w.flush()
}

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

// Name returns the path of the file.
func (w *Writer) Name() string { return w.f.Name() }

// maxRecord bounds a record that is read: one of scalars has some hundred bytes.
const maxRecord = 1 << 20

// Mend cuts what follows the last whole record of a file, which a writer that was killed
// may have left. Readers would stop there.
func Mend(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	in, end := bufio.NewReader(f), int64(0)
	for n, ok := wholeRecord(in); ok; n, ok = wholeRecord(in) {
		end += n
	}
	info, err := f.Stat()
	if err == nil && info.Size() > end {
		err = f.Truncate(end)
	}
	return errors.Join(err, f.Close())
}

// wholeRecord reads a record and returns its length in bytes, or false where none is
// there or its checksums are wrong.
func wholeRecord(r io.Reader) (int64, bool) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || binary.LittleEndian.Uint32(head[8:]) != masked(head[:8]) {
		return 0, false
	}
	n := binary.LittleEndian.Uint64(head[:8])
	if n > maxRecord {
		return 0, false
	}
	data := make([]byte, n+4)
	if _, err := io.ReadFull(r, data); err != nil || binary.LittleEndian.Uint32(data[n:]) != masked(data[:n]) {
		return 0, false
	}
	return int64(len(head) + len(data)), true
}

// Numbers of fields and wire types.
// https://protobuf.dev/programming-guides/encoding/
const (
	wallField    = 1 // of Event: double wall_time
	stepField    = 2 // int64 step
	versionField = 3 // string file_version
	summaryField = 5 // Summary summary
	sessionField = 7 // SessionLog session_log

	valueField  = 1 // of Summary: repeated Value value
	tagField    = 1 // of Value: string tag
	simpleField = 2 // float simple_value

	statusField  = 1 // of SessionLog: SessionStatus status
	sessionStart = 1 // START

	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// event encodes an Event with one field of what happened.
func event(now time.Time, step int64, field uint64, what []byte) []byte {
	b := appendVarint(nil, wallField<<3|wire64)
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(now.UnixMicro())/1e6))
	b = appendVarint(b, stepField<<3|wireVarint, uint64(step))
	return appendBytes(b, field, what)
}

func appendVarint(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func appendBytes(b []byte, field uint64, data []byte) []byte {
	b = appendVarint(b, field<<3|wireBytes, uint64(len(data)))
	return append(b, data...)
}

// record frames data.
func (w *Writer) record(data []byte) {
	start := len(w.buf)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(len(data)))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, masked(w.buf[start:]))
	w.buf = append(w.buf, data...)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, masked(data))
}

func (w *Writer) flush() error {
	_, err := w.f.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked rotates a checksum right by 15 bits and adds a constant, so that the
// checksum of data that holds checksums is no special case.
func masked(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}
