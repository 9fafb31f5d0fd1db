package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/e2e/bench/probe"
	"github.com/requorum/requorum/e2e/bench/values"
)

const (
	loaders   = 8   // clients that write, each one put at a time
	loadKeys  = 200 // of each of them, written again and again
	quietTime = 3 * time.Second
)

// writes measures how many writes the cluster takes during a save, beside etcdctl's of a follower.
func writes(ctx context.Context, r *Report, b *Bed) (err error) {
	l, err := startLoad(ctx, b)
	if err != nil {
		return err
	}
	defer func() {
		if ended := l.stop(); err == nil {
			err = ended
		}
	}()
	var quiet, ours, base, cpu []float64
	for round := range r.Settings.Rounds {
		measures := []func() error{
			func() error { return l.rate(b, &ours, func() error { return b.saveOurs(ctx, round, &cpu) }) },
			func() error { return l.rate(b, &base, func() error { return b.saveByTool(ctx, &cpu) }) },
			func() error { return l.rate(b, &quiet, func() error { return pause(ctx, quietTime) }) },
		}
		for i := range measures {
			if err := measures[(i+round)%len(measures)](); err != nil {
				return err
			}
			if err := b.Clean(ctx); err != nil {
				return err
			}
		}
	}
	row := Row{Section: "writes", What: "writes in a second during a snapshot save", Size: b.Size, Unit: "1/s", AtLeast: true}
	r.Add(compare(row, "during etcdctl snapshot save of a follower", 0.95, ours, base))
	r.Add(compare(row, "without any save", 0, ours, quiet))
	return nil
}

// load is clients that write as fast as the cluster takes it.
type load struct {
	client *clientv3.Client
	cancel context.CancelFunc
	group  *errgroup.Group
	acks   atomic.Int64
}

func startLoad(ctx context.Context, b *Bed) (*load, error) {
	client, err := probe.Dial(b.Endpoints()...)
	if err != nil {
		return nil, err
	}
	l := &load{client: client}
	ctx, l.cancel = context.WithCancel(ctx)
	l.group, ctx = errgroup.WithContext(ctx)
	for i := range loaders {
		l.group.Go(func() error { return l.write(ctx, i, values.New(b.r.Settings.Seed, uint64(writers+i))) })
	}
	return l, nil
}

func (l *load) write(ctx context.Context, loader int, source *values.Values) error {
	for n := 0; ; n++ {
		_, err := l.client.Put(ctx, fmt.Sprintf("load/%d/%03d", loader, n%loadKeys), string(source.Next()))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("write under load: %w", err)
		}
		l.acks.Add(1)
	}
}

// rate adds how many writes were acknowledged in a second while something was done.
func (l *load) rate(b *Bed, to *[]float64, act func() error) error {
	b.Settle()
	begun, before := time.Now(), l.acks.Load()
	err := act()
	*to = append(*to, float64(l.acks.Load()-before)/time.Since(begun).Seconds())
	return err
}

func (l *load) stop() error {
	l.cancel()
	err := l.group.Wait()
	_ = l.client.Close() // says only that its context ended
	return err
}

// pause waits for a time.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
