package objectstore

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Patience says how Retry tries again. Zero values stand for the defaults.
type Patience struct {
	Tries   uint          // in a row that move nothing. Default 5.
	First   time.Duration // longest first pause. Default 200 ms.
	Longest time.Duration // longest pause. Default 10 s.
	Notify  func(error)   // called before each further try; may be nil
}

func (p Patience) withDefaults() Patience {
	if p.Tries == 0 {
		p.Tries = 5
	}
	if p.First == 0 {
		p.First = 200 * time.Millisecond
	}
	if p.Longest == 0 {
		p.Longest = 10 * time.Second
	}
	if p.Notify == nil {
		p.Notify = func(error) {}
	}
	return p
}

// Retry returns a store that tries again what may go away by itself, with full-jitter pauses. A Get goes on where it
// was cut off.
func Retry(s Store, p Patience) Store { return &retrying{store: s, patience: p.withDefaults()} }

type retrying struct {
	store    Store
	patience Patience
}

// tries counts failures in a row.
type tries struct {
	patience Patience
	pause    *backoff.ExponentialBackOff
	failed   uint
}

func (r *retrying) tries() *tries {
	// The interval is the middle of what may come: anything from nothing to twice as much.
	pause := &backoff.ExponentialBackOff{InitialInterval: r.patience.First / 2, MaxInterval: r.patience.Longest / 2, Multiplier: 2, RandomizationFactor: 1}
	pause.Reset()
	return &tries{patience: r.patience, pause: pause}
}

// again waits and tells whether to try again after err.
func (t *tries) again(ctx context.Context, err error) bool {
	if t.failed++; Permanent(err) || t.failed >= t.patience.Tries || ctx.Err() != nil {
		return false
	}
	t.patience.Notify(err)
	timer := time.NewTimer(t.pause.NextBackOff())
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// moved notes that something was done, so that patience begins anew.
func (t *tries) moved() {
	t.failed = 0
	t.pause.Reset()
}

func (r *retrying) do(ctx context.Context, f func() error) error {
	for t := r.tries(); ; {
		err := f()
		if err == nil || !t.again(ctx, err) {
			return err
		}
	}
}

func (r *retrying) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	return r.do(ctx, func() error { return r.store.Put(ctx, key, write) })
}

func (r *retrying) Stat(ctx context.Context, key string) (info Info, err error) {
	err = r.do(ctx, func() (err error) {
		info, err = r.store.Stat(ctx, key)
		return err
	})
	return info, err
}

func (r *retrying) Delete(ctx context.Context, key string) error {
	return r.do(ctx, func() error { return r.store.Delete(ctx, key) })
}

// List goes on behind the last key that was passed on.
func (r *retrying) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		last := ""
		for t := r.tries(); ; {
			failed := r.listOn(ctx, prefix, &last, t, yield)
			if failed == nil {
				return
			}
			if !t.again(ctx, failed) {
				yield(Info{}, failed)
				return
			}
		}
	}
}

// listOn passes on what comes behind *last. It returns nil when there is nothing more to do.
func (r *retrying) listOn(ctx context.Context, prefix string, last *string, t *tries, yield func(Info, error) bool) error {
	for info, err := range r.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		if info.Key <= *last {
			continue
		}
		*last = info.Key
		t.moved()
		if !yield(info, nil) {
			return nil
		}
	}
	return nil
}

func (r *retrying) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	g := &resuming{ctx: ctx, from: r, key: key, offset: offset, tries: r.tries()}
	if err := g.open(); err != nil {
		return nil, err
	}
	return g, nil
}

// resuming reads an object over as many connections as it takes.
type resuming struct {
	ctx    context.Context
	from   *retrying
	key    string
	offset int64
	tries  *tries
	body   io.ReadCloser // nil once it could not be opened again
	err    error         // why not
}

// open opens the object at offset, with patience.
func (g *resuming) open() error {
	for {
		body, err := g.from.store.Get(g.ctx, g.key, g.offset)
		if err == nil {
			g.body = body
			return nil
		}
		if !g.tries.again(g.ctx, err) {
			return err
		}
	}
}

func (g *resuming) Read(p []byte) (int, error) {
	for g.err == nil {
		n, err := g.body.Read(p)
		if n > 0 {
			g.offset += int64(n)
			g.tries.moved()
		}
		switch {
		case err == nil, errors.Is(err, io.EOF):
			return n, err
		case n > 0:
			return n, nil // the failure comes again
		case !g.tries.again(g.ctx, err):
			return 0, err
		}
		g.err = g.reopen()
	}
	return 0, g.err
}

// reopen goes on where the object was cut off.
func (g *resuming) reopen() error {
	if err := g.Close(); err != nil {
		g.from.patience.Notify(err) // it is the connection that was cut off
	}
	return g.open()
}

func (g *resuming) Close() error {
	if g.body == nil {
		return nil
	}
	body := g.body
	g.body = nil
	return body.Close()
}
