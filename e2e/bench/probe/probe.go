package probe

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// Every is how often a put and a read begin.
	Every = 10 * time.Millisecond
	// Within is how long each of them may take. Others begin meanwhile, so that one which hangs in a member that
	// is not ready hides nothing.
	Within = 250 * time.Millisecond

	key = "bench/probe"
)

// Probe is a client that puts a key and, independently, reads it linearizably, both every 10 ms.
type Probe struct {
	client *clientv3.Client
	cancel context.CancelFunc
	done   sync.WaitGroup
	Puts   *Track
	Reads  *Track
}

// Start starts a probe of the cluster with these client URLs. It ends by Stop.
func Start(ctx context.Context, endpoints []string) (*Probe, error) {
	client, err := Dial(endpoints...)
	if err != nil {
		return nil, err
	}
	p := &Probe{client: client, Puts: new(Track), Reads: new(Track)}
	ctx, p.cancel = context.WithCancel(ctx)
	p.done.Go(func() {
		attempt(ctx, p.Puts, func(ctx context.Context) error {
			_, err := client.Put(ctx, key, time.Now().Format(time.RFC3339Nano))
			return err
		})
	})
	p.done.Go(func() {
		attempt(ctx, p.Reads, func(ctx context.Context) error {
			_, err := client.Get(ctx, key)
			return err
		})
	})
	return p, nil
}

// Dial connects to members. A connection that broke is tried again soon, so that what is measured is the cluster
// and not the client's patience.
func Dial(endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(), // what fails is what is measured
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		})},
	})
}

// attempt begins a call at every tick, whether or not those before have ended, until ctx ends.
func attempt(ctx context.Context, track *Track, call func(context.Context) error) {
	var calls sync.WaitGroup
	defer calls.Wait()
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	for {
		calls.Go(func() {
			within, cancel := context.WithTimeout(ctx, Within)
			defer cancel()
			err := call(within)
			if ctx.Err() == nil {
				track.note(time.Now(), err)
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Served returns once n puts and n reads have been answered after since.
func (p *Probe) Served(ctx context.Context, since time.Time, n int) error {
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	for p.Puts.since(since) < n || p.Reads.since(since) < n {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster does not serve: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
	return nil
}

// Stop ends the probe. What it noted stays.
func (p *Probe) Stop() {
	p.cancel()
	p.done.Wait()
	_ = p.client.Close() // says only that its context ended
}
