package probe

import (
	"slices"
	"sync"
	"time"
)

// Noticed is from which length on a time without an answer counts in Outage.Total: ten times what a probe waits
// between two attempts.
const Noticed = 10 * Every

// Track notes when one kind of call was answered.
type Track struct {
	mu       sync.Mutex
	answered []time.Time // in order
	failed   int
}

// Outage is how long something was not answered.
type Outage struct {
	Longest time.Duration // between two answers
	Total   time.Duration // of all that are longer than Noticed
	End     time.Time     // of the longest
}

func (t *Track) note(now time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failed++
		return
	}
	if n := len(t.answered); n > 0 && now.Before(t.answered[n-1]) { // two calls end at almost the same time
		now = t.answered[n-1]
	}
	t.answered = append(t.answered, now)
}

// since counts the answers after a time.
func (t *Track) since(begin time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, _ := slices.BinarySearchFunc(t.answered, begin, time.Time.Compare)
	return len(t.answered) - i
}

// Failed counts the calls that were not answered within their time.
func (t *Track) Failed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// Outage looks for times without an answer which end after begin.
func (t *Track) Outage(begin time.Time) Outage {
	t.mu.Lock()
	defer t.mu.Unlock()
	var o Outage
	for i := 1; i < len(t.answered); i++ {
		from, to := t.answered[i-1], t.answered[i]
		if to.Before(begin) {
			continue
		}
		gap := to.Sub(from)
		if gap > o.Longest {
			o.Longest, o.End = gap, to
		}
		if gap > Noticed {
			o.Total += gap
		}
	}
	return o
}
