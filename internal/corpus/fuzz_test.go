package corpus

import (
	"io"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// tryAll reads a file whatever it holds: documents or an error, never a panic.
func tryAll(t *testing.T, name string, content []byte, o Options) {
	if len(content) == 0 {
		return
	}
	r, err := Open(t.Context(), write(t, name, content), o)
	if err != nil {
		return
	}
	defer r.Close()
	for range 1000 {
		d, err := r.Next(t.Context())
		if err == io.EOF {
			return
		}
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if d.Text == "" || int64(len(d.Text)) > 3*o.MaxBytes { // U+FFFD has 3 bytes
			t.Errorf("a document of %d bytes", len(d.Text))
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte(`{"text": "one"}`+"\n"), false)
	f.Add([]byte("\uFEFF\n{\"text\": null}\n"), true)
	f.Add([]byte(`{"text": "\ud800", "a": {"b": []}}`), false)
	f.Add([]byte("{\"text\": \"\xff\"}\r\n[[[["), true)
	f.Fuzz(func(t *testing.T, content []byte, lenient bool) {
		tryAll(t, "a.jsonl", content, Options{Field: "text", MaxBytes: 1 << 10, SkipEmpty: lenient, ReplaceInvalid: lenient})
		tryAll(t, "a.txt", content, Options{Separator: "\n\n", MaxBytes: 1 << 10, ReplaceInvalid: lenient})
	})
}

func FuzzPacked(f *testing.F) {
	f.Add(pack(f, ".gz", `{"text": "one"}`))
	f.Add(pack(f, ".zst", `{"text": "one"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		tryAll(t, "a.jsonl.gz", content, Options{Field: "text", MaxBytes: 1 << 10})
		tryAll(t, "a.jsonl.zst", content, Options{Field: "text", MaxBytes: 1 << 10})
	})
}

func FuzzParquet(f *testing.F) {
	f.Add(parquetFile(f, &parquet.Snappy, 1, ptr("one"), nil, ptr("two"), ptr("three")))
	f.Add(parquetFile(f, &parquet.Gzip, 2, ptr("one"), nil))
	f.Add(parquetFile(f, &parquet.Zstd, 2, ptr("one")))
	f.Add(parquetFile(f, &parquet.Uncompressed, 1, ptr("one"), ptr("one")))
	f.Fuzz(func(t *testing.T, content []byte) {
		tryAll(t, "a.parquet", content, Options{Field: "text", MaxBytes: 1 << 10, SkipEmpty: true, ReplaceInvalid: true})
		tryAll(t, "b.parquet", content, Options{Field: "inner.body", MaxBytes: 1 << 10, ReplaceInvalid: true})
	})
}

// TestBrokenParquet flips every byte of a small file in turn.
func TestBrokenParquet(t *testing.T) {
	content := parquetFile(t, &parquet.Snappy, 2, ptr("one"), ptr("two"), ptr("one"), nil)
	step := 1
	if testing.Short() {
		step = 7
	}
	for i := 0; i < len(content); i += step {
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			broken := append([]byte(nil), content...)
			broken[i] = v
			tryAll(t, "a.parquet", broken, Options{Field: "text", MaxBytes: 1 << 10, SkipEmpty: true, ReplaceInvalid: true})
		}
	}
}
