package llama

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// identities are hashes of a model's numbers, computed when a session is first saved or
// loaded and kept until the numbers change. A hash is of every byte: fine-tuned models
// have the names, the shapes and most of the numbers of what they were made from.
type identities struct {
	turn    chan struct{} // holds an element while one call uses what follows
	known   bool
	version uint64                    // of the weights
	base    [sha256.Size]byte         // of the configuration and the model's own numbers
	sets    map[int][sha256.Size]byte // of each set of adapters
}

// hashed is a piece of what the hashes are of.
type hashed struct {
	set   int // of adapters, or -1
	head  string
	param *tensor.Param
	sum   [sha256.Size]byte
}

// identity is a hash of all numbers that keys and values follow from where the rows have
// these adapters, as in backend.Segment. The caller has begun.
func (m *Model) identity(ctx context.Context, adapters []int) (string, error) {
	d := &m.identities
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return "", ended(ctx)
	}
	if v := m.version.Load(); !d.known || d.version != v {
		d.known = false
		if err := m.identify(ctx, d); err != nil {
			return "", err
		}
		if d.version = v; m.version.Load() != v {
			return "", ErrStale
		}
		d.known = true
	}
	h := sha256.New()
	h.Write(d.base[:])
	rows := backend.Segment{Adapters: adapters}
	for _, set := range slices.Sorted(maps.Keys(d.sets)) {
		if sum := d.sets[set]; rows.Adapted(set) {
			h.Write(sum[:])
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// identify computes the hashes.
func (m *Model) identify(ctx context.Context, d *identities) error {
	var parts []hashed
	if err := m.step(ctx, func(ctx context.Context) error { // while no adapter is added
		parts = m.parts()
		return nil
	}); err != nil {
		return err
	}
	workers := runtime.GOMAXPROCS(0)
	scratch := make([][]byte, workers)
	err := parallel.Ranges(ctx, workers, len(parts), 1, func(w, i, _ int) (err error) {
		scratch[w], err = m.hash(ctx, &parts[i], scratch[w])
		return err
	})
	if err != nil {
		return cause(ctx, err)
	}
	base, sets := sha256.New(), map[int][]byte{}
	fmt.Fprintf(base, "%+v", m.config)
	for _, p := range parts {
		if p.set < 0 {
			base.Write(p.sum[:])
		} else {
			sets[p.set] = append(sets[p.set], p.sum[:]...)
		}
	}
	base.Sum(d.base[:0])
	d.sets = map[int][sha256.Size]byte{}
	for set, sums := range sets {
		d.sets[set] = sha256.Sum256(sums)
	}
	return nil
}

// parts lists the model's numbers, and what else tells how they are used.
func (m *Model) parts() (list []hashed) {
	adapter := map[*tensor.Param]bool{}
	add := func(set int, p *tensor.Param, head string, a ...any) {
		if p != nil {
			adapter[p] = set >= 0
			list = append(list, hashed{set: set, head: fmt.Sprintf(head, a...), param: p})
		}
	}
	adapted := func(name string, loras []*nn.LoRA) {
		for _, l := range loras {
			for i, p := range []*tensor.Param{l.A, l.B, l.Magnitude, l.Bias} {
				add(l.Set, p, "%s %d %v", name, i, l.Scale)
			}
		}
	}
	adapted("embedding", m.net.Embed.Adapters)
	for _, l := range nn.Linears(m.net) {
		adapted(l.Name, l.Linear.Adapters)
	}
	add(-1, m.net.RoPE.Freqs, "frequencies %v", m.net.RoPE.Factor)
	for _, p := range nn.Params(m.net) {
		if !adapter[p.Param] {
			add(-1, p.Param, "%s", p.Name)
		}
	}
	return list
}

// hash computes a part's hash with memory that it may use, and returns that memory.
func (m *Model) hash(ctx context.Context, p *hashed, scratch []byte) ([]byte, error) {
	const most = 1 << 20 // bytes at once
	h := sha256.New()
	fmt.Fprintf(h, "%s %v\n", p.head, p.param.Shape)
	if !p.param.Matrix() {
		v := p.param.Value().View()
		err := vfs.Copy(h, tensor.Reader(m.b, v), 4*int64(v.Shape.Elems()), nil)
		h.Sum(p.sum[:0])
		return scratch, err
	}
	w := p.param.Weight()
	fmt.Fprintf(h, "%v %v\n", w.Type(), m.b.Rounding(w.Type()))
	row, err := w.Type().RowBytes(int64(w.Cols()))
	if err != nil {
		return scratch, err
	}
	some := int(max(1, most/row))
	if n := some * int(row); cap(scratch) < n {
		scratch = make([]byte, n)
	}
	for from := 0; from < w.Rows(); from += some {
		if err := ended(ctx); err != nil {
			return scratch, err
		}
		n := min(some, w.Rows()-from)
		b := scratch[:n*int(row)]
		w.Unpack(b, from, n)
		h.Write(b)
	}
	h.Sum(p.sum[:0])
	return scratch, nil
}
