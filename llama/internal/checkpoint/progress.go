package checkpoint

import "sync"

// Progress is how far loading or converting is.
type Progress struct {
	Done, Total int64 // bytes of weights
}

// A Meter adds up bytes for a function that is told of progress.
type Meter struct {
	Total int64          // bytes that there will be
	Told  func(Progress) // called from one goroutine at a time; nil is nobody

	mu   sync.Mutex
	done int64
}

// Add counts n more bytes. It is safe for concurrent use.
func (m *Meter) Add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if m.Told != nil {
		m.Told(Progress{Done: m.done, Total: m.Total})
	}
}
