package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/e2e/harness"
)

const (
	writerPrefix = "/writer/"
	writeEvery   = 25 * time.Millisecond
	writeWaits   = 300 * time.Millisecond
)

// write is one that a cluster has acknowledged.
type write struct {
	key, value string
	cluster    uint64 // its ID
}

// writer writes as a client does that nobody has told of anything.
type writer struct {
	cluster *harness.Cluster
	cell    int
	stop    context.CancelFunc
	done    sync.WaitGroup
	acked   []write
}

func (b *bed) startWriter() *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{cluster: b.Cluster, cell: b.cell, stop: cancel}
	for _, n := range b.NodeNames() {
		b.Client(n) // from here, where a failure can be told
	}
	w.done.Go(func() { w.run(ctx) })
	return w
}

// run puts one key after the other, each through another member.
func (w *writer) run(ctx context.Context) {
	nodes := w.cluster.NodeNames()
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for i := 0; ; i++ {
		w.put(ctx, nodes[i%len(nodes)], i)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *writer) put(ctx context.Context, node string, i int) {
	ctx, cancel := context.WithTimeout(ctx, writeWaits)
	defer cancel()
	key, value := fmt.Sprintf("%s%04d/%06d", writerPrefix, w.cell, i), fmt.Sprintf("%d by %s", i, node)
	resp, err := w.cluster.Client(node).Put(ctx, key, value)
	if err == nil {
		w.acked = append(w.acked, write{key: key, value: value, cluster: resp.Header.ClusterId})
	}
}

// end ends the writing and returns what was acknowledged.
func (w *writer) end() []write {
	w.stop()
	w.done.Wait()
	return w.acked
}

// split takes the writer's keys out of a state.
func split(all harness.State) (rest, written harness.State) {
	rest, written = harness.State{}, harness.State{}
	for key, kv := range all {
		if strings.HasPrefix(key, writerPrefix) {
			written[key] = kv
		} else {
			rest[key] = kv
		}
	}
	return rest, written
}
