package live

import (
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// rateWindow is the time over which a rate is averaged.
const rateWindow = 5 * time.Second

// rates measures how fast each task moves bytes.
type rates map[string][]sample

type sample struct {
	at    time.Time
	bytes int64
}

func rateKey(t *requorumv1.TaskProgress) string { return t.GetStep() + "\x00" + t.GetNode() }

// note takes a task's progress at a time.
func (r rates) note(t *requorumv1.TaskProgress, at time.Time) {
	if t.GetTotalBytes() == 0 {
		return
	}
	key := rateKey(t)
	samples := r[key]
	if n := len(samples); n > 0 && t.GetDoneBytes() < samples[n-1].bytes {
		samples = nil // begun anew
	}
	samples = append(samples, sample{at, t.GetDoneBytes()})
	for len(samples) > 2 && at.Sub(samples[1].at) >= rateWindow {
		samples = samples[1:]
	}
	r[key] = samples
}

// of returns bytes per second up to now, 0 while not known.
func (r rates) of(t *requorumv1.TaskProgress, now time.Time) int64 {
	samples := r[rateKey(t)]
	if len(samples) < 2 {
		return 0
	}
	first, last := samples[0], samples[len(samples)-1]
	passed := last.at.Sub(first.at)
	// A task of which nothing is heard any more slows down on the screen, too.
	if silent := now.Sub(last.at); silent > rateWindow {
		passed += silent
	}
	if passed < time.Second/4 {
		return 0
	}
	return int64(float64(last.bytes-first.bytes) / passed.Seconds())
}
