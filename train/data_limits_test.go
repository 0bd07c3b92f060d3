package train

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
)

// FuzzPosition restores positions that nobody saved: an error, or an iterator that
// gives whole batches or errors.
func FuzzPosition(f *testing.F) {
	dir := mixed(f, 30)
	d, err := OpenData(DataConfig{Files: []string{dir}, Separator: "\n", ShuffleBuffer: 5, Epochs: 2}, letters(f, "</s>"))
	if err != nil {
		f.Fatal(err)
	}
	it, err := d.Train(2, 16, 3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(savedPosition(f, it))
	for range 10 {
		collect(f, it, 1)
		f.Add(savedPosition(f, it))
	}
	own := it.Position()
	f.Fuzz(func(t *testing.T, saved []byte) {
		var p Position
		if json.Unmarshal(saved, &p) != nil {
			return
		}
		p.Files, p.Settings, p.Seed = own.Files, own.Settings, own.Seed
		it, err := d.Train(2, 16, 3)
		if err != nil {
			t.Fatal(err)
		}
		defer it.Close()
		if it.Restore(t.Context(), p) != nil {
			return
		}
		for range 3 {
			b, err := it.Next(t.Context())
			if err != nil {
				return
			}
			sum := 0
			for _, n := range b.Docs {
				sum += n
			}
			if len(b.IDs) != 32 || len(b.Targets) != 32 || sum != 32 {
				t.Fatalf("%+v", b)
			}
		}
	})
}

// TestConcurrent: one Data serves iterators of several goroutines.
func TestConcurrent(t *testing.T) {
	d, err := OpenData(DataConfig{Files: []string{mixed(t, 60)}, Separator: "\n", Holdout: 0.2, Epochs: 2}, letters(t, "</s>"))
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan []*Batch)
	for i := range 4 {
		go func() {
			it, err := d.Train(1, 32, 1)
			if i >= 2 {
				it, err = d.Eval(1, 32)
			}
			var all []*Batch
			for err == nil {
				var b *Batch
				if b, err = it.Next(context.Background()); err == nil {
					all = append(all, b)
				}
			}
			results <- all
		}()
	}
	sizes := map[int]int{}
	for range 4 {
		sizes[len(<-results)]++
	}
	if len(sizes) != 2 || sizes[0] > 0 {
		t.Errorf("batches of four iterators: %v", sizes)
	}
}

// TestBufferMemory: documents of 96 MiB altogether, in a buffer of 1024 documents
// that holds 64 MiB and in one that holds four documents.
func TestBufferMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 96 MiB several times")
	}
	var content strings.Builder
	for range 96 {
		content.WriteString(strings.Repeat("a", 1<<20) + "\n")
	}
	dir := folder(t, map[string]string{"a.txt": content.String()})
	content.Reset()
	for _, c := range []struct{ buffer, most int }{{1024, 64 << 20}, {4, 4 << 20}} {
		d, err := OpenData(DataConfig{Files: []string{dir}, Separator: "\n", ShuffleBuffer: c.buffer}, letters(t, "</s>"))
		if err != nil {
			t.Fatal(err)
		}
		s := newDocuments(d, d.train, false, 1)
		defer s.close()
		for range 200 {
			if _, err := s.next(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.bytes > c.most {
				t.Fatalf("%d bytes in a buffer of %d", s.bytes, c.most)
			}
		}
	}
}
