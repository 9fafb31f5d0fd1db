package access

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
)

const (
	maxSources = 4096 // that are remembered; an attacker has many addresses

	failedEnrolments     = 20 // in a row, before a source has to wait
	failedEnrolmentEvery = 3 * time.Second

	refusalLines     = 50 // in a row, before a source's refusals are only counted
	refusalLineEvery = time.Second
)

// limit counts what is under way, by whose it is.
type limit struct {
	each, all int // the most of one, and of all together; 0 for any number

	mu    sync.Mutex
	total int
	by    map[string]int
}

// take counts one more, until release is called. It refuses where there are as many as may be.
func (l *limit) take(whose string) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each > 0 && l.by[whose] >= l.each || l.all > 0 && l.total >= l.all {
		return nil, false
	}
	if l.by == nil {
		l.by = make(map[string]int)
	}
	l.by[whose]++
	l.total++
	return sync.OnceFunc(func() { l.give(whose) }), true
}

func (l *limit) give(whose string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.by[whose]--; l.by[whose] == 0 {
		delete(l.by, whose)
	}
}

// budgets let each source do something so many times in a row, and then once in a while.
type budgets struct {
	most  int
	every time.Duration
	now   func() time.Time

	mu sync.Mutex
	by map[string]*budget
}

type budget struct {
	spent  time.Duration // how long it takes until all is there again, as of at
	at     time.Time
	missed int
}

func newBudgets(most int, every time.Duration, now func() time.Time) *budgets {
	return &budgets{most: most, every: every, now: now, by: make(map[string]*budget)}
}

// left tells whether a source has anything left.
func (b *budgets) left(source string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.by[source]
	return source == "" || known == nil || b.allows(known)
}

// spend takes one from a source's budget, and tells how many times there was nothing left before.
func (b *budgets) spend(source string) (missed int, ok bool) {
	if source == "" {
		return 0, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.by[source]
	if known == nil {
		b.makeRoom()
		known = &budget{at: b.now()}
		b.by[source] = known
	}
	if !b.allows(known) {
		known.missed++
		return 0, false
	}
	known.spent += b.every
	missed, known.missed = known.missed, 0
	return missed, true
}

// allows tells whether there is anything left, now. The caller holds mu.
func (b *budgets) allows(known *budget) bool {
	now := b.now()
	known.spent = max(0, known.spent-now.Sub(known.at))
	known.at = now
	return known.spent+b.every <= time.Duration(b.most)*b.every
}

// makeRoom forgets sources that have all of their budget, or all sources where that is not enough.
func (b *budgets) makeRoom() {
	if len(b.by) < maxSources {
		return
	}
	for source, known := range b.by {
		if b.allows(known) && known.spent == 0 {
			delete(b.by, source)
		}
	}
	if len(b.by) >= maxSources {
		clear(b.by)
	}
}

// sourceOf returns where a call comes from, empty for one that did not come over the network.
func sourceOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	return source(p.Addr)
}

// source returns what stands for a peer: its address or, since whoever has one IPv6 address has a whole network of
// them, that network.
func source(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.Network()
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.Is6() {
		if network, err := ip.WithZone("").Prefix(64); err == nil {
			return network.String()
		}
	}
	return ip.String()
}
