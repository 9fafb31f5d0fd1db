package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	probeEvery  = 10 * time.Millisecond
	probeWithin = 200 * time.Millisecond // also how far a measurement may be off
	probeKey    = "probe"
)

// prober is a client that writes and reads all the time, as an application would, and notes when it could.
type prober struct {
	client *clientv3.Client
	cancel context.CancelFunc
	done   sync.WaitGroup
	puts   track
	reads  track
}

// track notes when one kind of call was answered.
type track struct {
	mu               sync.Mutex
	answered, failed int
	last             time.Time // of the last answer
	outage           gap       // the longest
}

// gap is a time without an answer, from the last answer before to the first one after it.
type gap struct{ from, to time.Time }

func (g gap) length() time.Duration { return g.to.Sub(g.from) }

// probe starts a prober.
func probe(ctx context.Context, endpoints []string) (*prober, error) {
	client, err := dial(endpoints...)
	if err != nil {
		return nil, err
	}
	p := &prober{client: client}
	ctx, p.cancel = context.WithCancel(ctx)
	put := func(ctx context.Context) error {
		_, err := client.Put(ctx, probeKey, time.Now().Format(time.RFC3339Nano))
		return err
	}
	read := func(ctx context.Context) error {
		_, err := client.Get(ctx, probeKey)
		return err
	}
	p.done.Go(func() { p.puts.run(ctx, put) })
	p.done.Go(func() { p.reads.run(ctx, read) })
	return p, nil
}

func (t *track) run(ctx context.Context, call func(context.Context) error) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, probeWithin)
		err := call(within)
		cancel()
		if ctx.Err() != nil {
			return
		}
		t.note(time.Now(), err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// note takes one answer, or none, into account.
func (t *track) note(now time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failed++
		return
	}
	if !t.last.IsZero() && now.Sub(t.last) > t.outage.length() {
		t.outage = gap{t.last, now}
	}
	t.answered++
	t.last = now
}

func (t *track) answeredSince(since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last.After(since)
}

// answeredSince returns once a write and a read were answered after since.
func (p *prober) answeredSince(ctx context.Context, since time.Time) error {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for !p.puts.answeredSince(since) || !p.reads.answeredSince(since) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the prober gets no answers: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
	return nil
}

// stop ends the prober. What it noted can be read then.
func (p *prober) stop() error {
	p.cancel()
	p.done.Wait()
	return p.client.Close()
}

func (t *track) String() string {
	return fmt.Sprintf("%d answered, %d not, longest gap %s", t.answered, t.failed, seconds(t.outage.length()))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
