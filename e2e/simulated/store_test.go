//go:build faultinject

package simulated_test

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/requorum/requorum/controller/store"
)

// memory is a controller's disk. What was written is durable at once.
type memory struct {
	mu   sync.Mutex
	data map[store.Bucket]map[string][]byte
}

func newMemory() *memory {
	m := &memory{data: make(map[store.Bucket]map[string][]byte)}
	for _, b := range store.Buckets {
		m.data[b] = make(map[string][]byte)
	}
	return m
}

// copied is what a person gets who copies the data directory.
func (m *memory) copied() *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &memory{data: make(map[store.Bucket]map[string][]byte)}
	for b, keys := range m.data {
		c.data[b] = maps.Clone(keys)
	}
	return c
}

// opened is the disk as one controller has it open.
type opened struct {
	*memory
	p *process
}

func (o opened) View(f func(store.Tx) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.p.live(); err != nil {
		return err
	}
	return f(tx{o.data, nil})
}

func (o opened) Update(f func(store.Tx) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.p.live(); err != nil {
		return err
	}
	own := make(map[store.Bucket]bool)
	next := maps.Clone(o.data)
	if err := f(tx{next, own}); err != nil {
		return err
	}
	o.data = next
	return nil
}

func (o opened) Close() error { return nil }

// tx changes copies of the buckets, which own lists.
type tx struct {
	data map[store.Bucket]map[string][]byte
	own  map[store.Bucket]bool
}

func (t tx) writable(b store.Bucket) map[string][]byte {
	if !t.own[b] {
		t.data[b], t.own[b] = maps.Clone(t.data[b]), true
	}
	return t.data[b]
}

func (t tx) Get(b store.Bucket, key string) ([]byte, error) {
	found, ok := t.data[b][key]
	if !ok {
		return nil, store.ErrNotFound
	}
	return found, nil
}

func (t tx) Put(b store.Bucket, key string, content []byte) error {
	t.writable(b)[key] = slices.Clone(content)
	return nil
}

func (t tx) Delete(b store.Bucket, key string) error {
	delete(t.writable(b), key)
	return nil
}

func (t tx) Each(b store.Bucket, prefix string, f func(string, []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(t.data[b])) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := f(key, t.data[b][key]); err != nil {
			return err
		}
	}
	return nil
}

func (t tx) Down(b store.Bucket, before string, f func(string, []byte) error) error {
	for _, key := range slices.Backward(slices.Sorted(maps.Keys(t.data[b]))) {
		if before != "" && key >= before {
			continue
		}
		if err := f(key, t.data[b][key]); err != nil {
			return err
		}
	}
	return nil
}
