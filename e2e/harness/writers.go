package harness

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const putTimeout = 500 * time.Millisecond // after which a client goes on with another key

// Ack is a write that etcd acknowledged. Nobody writes the same key again.
type Ack struct {
	Key       string
	Revision  int64
	ClusterID uint64
	Node      string // whose member acknowledged it
}

// Writers are clients that write as fast as etcd lets them.
type Writers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	acked  []Ack
}

// StartWriters starts n clients, one after the other on each node, whose keys begin with prefix.
func (c *Cluster) StartWriters(prefix string, n int) *Writers {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writers{cancel: cancel}
	c.t.Cleanup(func() { w.Stop() })
	for i := range n {
		node := c.Nodes[i%len(c.Nodes)].Name
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.Endpoint(node)}, DialTimeout: Patience, Logger: zap.NewNop()})
		c.must(err)
		w.wg.Go(func() {
			defer client.Close()
			w.write(ctx, client, node, fmt.Sprintf("%s/%d", prefix, i))
		})
	}
	return w
}

// write puts one key after the other and keeps what is acknowledged. What is not may be there or not.
func (w *Writers) write(ctx context.Context, client *clientv3.Client, node, prefix string) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%s/%06d", prefix, n)
		once, cancel := context.WithTimeout(ctx, putTimeout)
		resp, err := client.Put(once, key, key)
		cancel()
		if err != nil {
			pause(ctx) // it may be down: what counts is to be there as soon as it is not
			continue
		}
		w.mu.Lock()
		w.acked = append(w.acked, Ack{key, resp.Header.Revision, resp.Header.ClusterId, node})
		w.mu.Unlock()
	}
}

func pause(ctx context.Context) {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Acked returns what was acknowledged so far.
func (w *Writers) Acked() []Ack {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}

// Stop ends the clients and returns all that was acknowledged.
func (w *Writers) Stop() []Ack {
	w.cancel()
	w.wg.Wait()
	return w.Acked()
}

// WaitAcked waits until n more writes are acknowledged than there were, and fails the test if they are not.
func (c *Cluster) WaitAcked(t testing.TB, w *Writers, n int) {
	t.Helper()
	want := len(w.Acked()) + n
	if err := c.Until("the clients cannot write", func() bool { return len(w.Acked()) >= want }); err != nil {
		t.Fatal(err)
	}
}
