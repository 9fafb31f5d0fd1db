package transfer

import (
	"testing"
	"time"
)

// link is a simulated connection: what is sent goes into a buffer, which drains at a rate while time passes.
type link struct {
	rate   float64 // bytes per second that leave the buffer
	buffer float64
	queued float64
}

func (l *link) pass(d time.Duration) { l.queued = max(0, l.queued-l.rate*d.Seconds()) }

// send returns how long it blocks.
func (l *link) send(wire int) time.Duration {
	over := l.queued + float64(wire) - l.buffer
	var blocked time.Duration
	if over > 0 {
		blocked = time.Duration(over / l.rate * float64(time.Second))
		l.pass(blocked)
	}
	l.queued += float64(wire)
	return blocked
}

// drive sends so many bytes the way that p says, and returns which part of them was compressed, and the
// time that it took.
func drive(p *pace, l *link, bytes int, ratio float64, compressRate float64) (compressed float64, took time.Duration) {
	var zstd int
	for sent := 0; sent < bytes; {
		raw := p.size()
		wire, compressing := raw, time.Duration(0)
		if p.compress() {
			zstd += raw
			wire = int(float64(raw) * ratio)
			compressing = time.Duration(float64(raw) / compressRate * float64(time.Second))
			l.pass(compressing)
		}
		blocked := l.send(wire)
		p.sent(raw, wire, compressing, blocked)
		took += compressing + blocked
		sent += raw
	}
	return float64(zstd) / float64(bytes), took
}

const (
	kB = 1e3
	mB = 1e6
	gB = 1e9
)

func TestPaceCompressesWhileThatIsFaster(t *testing.T) {
	for name, c := range map[string]struct {
		rate, buffer, ratio, compressRate float64
		want                              bool
	}{
		"slow link":                         {10 * mB, 1 * mB, 0.3, 400 * mB, true},
		"slow link with a large buffer":     {10 * mB, 4 * mB, 0.3, 400 * mB, true},
		"gigabit, good compression":         {117 * mB, 1 * mB, 0.3, 400 * mB, true},
		"gigabit, slow processor":           {117 * mB, 1 * mB, 0.3, 100 * mB, false},
		"gigabit, poor compression":         {117 * mB, 1 * mB, 0.9, 400 * mB, false},
		"ten gigabit":                       {1.17 * gB, 4 * mB, 0.3, 400 * mB, false},
		"loopback":                          {4 * gB, 4 * mB, 0.3, 400 * mB, false},
		"loopback that never blocks":        {1000 * gB, 64 * mB, 0.1, 400 * mB, false},
		"random bytes on a slow link":       {10 * mB, 1 * mB, 1.0001, 400 * mB, false},
		"compressed faster than it is sent": {10 * mB, 64 * kB, 0.01, 2 * gB, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, l := newPace(true), &link{rate: c.rate, buffer: c.buffer}
			drive(p, l, 256<<20, c.ratio, c.compressRate) // until it has settled
			part, _ := drive(p, l, 2<<30, c.ratio, c.compressRate)
			if c.want && part < 0.9 {
				t.Errorf("%.1f %% compressed, want nearly everything", 100*part)
			}
			if !c.want && part > 0.02 {
				t.Errorf("%.1f %% compressed, want next to nothing", 100*part)
			}
		})
	}
}

func TestPaceCostsLittleWhereCompressionDoesNotHelp(t *testing.T) {
	p, l := newPace(true), &link{rate: 10 * mB, buffer: 1 * mB}
	_, took := drive(p, l, 1<<30, 1.0001, 400*mB)
	if plain := time.Duration(float64(1<<30) / (10 * mB) * float64(time.Second)); took > plain*102/100 {
		t.Errorf("random bytes took %v, %v without any trial", took, plain)
	}
}

func TestPaceFollowsTheLink(t *testing.T) {
	p, l := newPace(true), &link{rate: 4 * gB, buffer: 1 * mB}
	if part, _ := drive(p, l, 512<<20, 0.3, 400*mB); part > 0.05 {
		t.Errorf("fast: %.1f %% compressed", 100*part)
	}
	l.rate = 10 * mB
	drive(p, l, 2<<30, 0.3, 400*mB)
	if part, _ := drive(p, l, 1<<30, 0.3, 400*mB); part < 0.9 {
		t.Errorf("slow: %.1f %% compressed", 100*part)
	}
	l.rate = 4 * gB
	drive(p, l, 2<<30, 0.3, 400*mB)
	if part, _ := drive(p, l, 1<<30, 0.3, 400*mB); part > 0.05 {
		t.Errorf("fast again: %.1f %% compressed", 100*part)
	}
}

func TestPaceNeverCompressesUnasked(t *testing.T) {
	if part, _ := drive(newPace(false), &link{rate: 1 * mB}, 64<<20, 0.1, 2*gB); part != 0 {
		t.Errorf("%.1f %% compressed", 100*part)
	}
}

func TestPaceKeepsChunksShortOnASlowLink(t *testing.T) {
	p, l := newPace(false), &link{rate: 20 * kB, buffer: 64 * kB}
	drive(p, l, 8<<20, 1, gB)
	if took := time.Duration(float64(p.size()) / l.rate * float64(time.Second)); took > slowChunk {
		t.Errorf("a chunk of %d bytes takes %v", p.size(), took)
	}
	l.rate = 100 * mB
	drive(p, l, 8<<20, 1, gB)
	if p.size() != maxChunk {
		t.Errorf("chunks stay at %d bytes", p.size())
	}
}
