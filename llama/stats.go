package llama

// Stats says what a model is doing and has done. Counters run from its opening.
type Stats struct {
	Calls  int `json:"calls"`  // of sessions that are under way, paused in their caller's loop too
	Queued int `json:"queued"` // calls whose rows wait for a step

	// With Options.MemoryLimit: calls that wait for pages, were admitted, were refused.
	Waiting  int   `json:"waiting"`
	Admitted int64 `json:"admitted"`
	Refused  int64 `json:"refused"`

	Steps    int64 `json:"steps"`     // forward steps for calls of sessions
	Rows     int64 `json:"rows"`      // rows of them
	Joined   int64 `json:"joined"`    // calls that had rows in a step, added up over the steps
	LastRows int   `json:"last_rows"` // rows of the last step
	LastSize int   `json:"last_size"` // calls that had rows in it

	PagesUsed  int   `json:"pages_used"`  // of 64 positions, that sessions hold, shared ones once
	PagesIdle  int   `json:"pages_idle"`  // that are kept for prompts that begin alike
	PagesLimit int   `json:"pages_limit"` // that Options.MemoryLimit has room for; 0 without one
	PageBytes  int64 `json:"page_bytes"`

	PromptTokens int64 `json:"prompt_tokens"` // of prompts
	ReusedTokens int64 `json:"reused_tokens"` // of them that were not computed again
}

// BatchSize is the average number of calls in a step.
func (s Stats) BatchSize() float64 { return share(s.Joined, s.Steps) }

// HitRate is the share of the tokens of prompts that were not computed again.
func (s Stats) HitRate() float64 { return share(s.ReusedTokens, s.PromptTokens) }

// share is part of all, or 0 of nothing.
func share(part, all int64) float64 {
	if all == 0 {
		return 0
	}
	return float64(part) / float64(all)
}

// Stats may be asked for at any time, from any goroutine, and waits for no step. Of a
// closed model it has the counters.
func (m *Model) Stats() Stats {
	s := m.sched.stats()
	m.pages.stats(&s)
	return s
}
