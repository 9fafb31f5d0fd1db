package operation_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/requorum/requorum/controller/store"
)

// errPower is what writes answer once the machine has lost its power.
var errPower = errors.New("power lost")

// memory is a store in memory that can lose its power at a write: with the write (it was durable, nobody
// was told) or before it. Then every write fails until power is back.
type memory struct {
	mu       sync.Mutex
	data     map[store.Bucket]map[string][]byte
	writes   int
	cutAt    int  // the write at which the power goes, counted from 1; 0 for never
	kept     bool // whether that write is durable
	off      bool
	failAt   int         // a write that fails alone, counted from 1; 0 for none
	failed   bool        // a write has failed
	onUpdate func(n int) // called before each write, may be nil
}

func newMemory() *memory {
	m := &memory{data: make(map[store.Bucket]map[string][]byte)}
	for _, b := range store.Buckets {
		m.data[b] = make(map[string][]byte)
	}
	return m
}

func (m *memory) View(f func(store.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(memoryTx{m.data})
}

func (m *memory) Update(f func(store.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		m.failed = true
		return errPower
	}
	m.writes++
	if m.onUpdate != nil {
		m.onUpdate(m.writes)
	}
	m.off = m.writes == m.cutAt
	m.failed = m.failed || m.off || m.writes == m.failAt
	if m.writes == m.failAt {
		return errPower
	}
	if m.off && !m.kept {
		return errPower
	}
	next := make(map[store.Bucket]map[string][]byte, len(m.data))
	for b, keys := range m.data {
		next[b] = maps.Clone(keys)
	}
	if err := f(memoryTx{next}); err != nil {
		return err
	}
	m.data = next
	if m.off {
		return errPower
	}
	return nil
}

func (m *memory) Close() error { return nil }

// restore gives the power back, until write cutAt from now on.
func (m *memory) restore(cutAt int, kept bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off, m.failed, m.writes, m.cutAt, m.kept, m.failAt = false, false, 0, cutAt, kept, 0
}

// failOnce makes one write fail, counted from now on.
func (m *memory) failOnce(at int) {
	m.restore(0, false)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failAt = at
}

// hasFailed tells whether a write has failed since restore.
func (m *memory) hasFailed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

type memoryTx struct {
	data map[store.Bucket]map[string][]byte
}

func (tx memoryTx) Get(b store.Bucket, key string) ([]byte, error) {
	value, ok := tx.data[b][key]
	if !ok {
		return nil, store.ErrNotFound
	}
	return value, nil
}

func (tx memoryTx) Put(b store.Bucket, key string, value []byte) error {
	tx.data[b][key] = slices.Clone(value)
	return nil
}

func (tx memoryTx) Delete(b store.Bucket, key string) error {
	delete(tx.data[b], key)
	return nil
}

func (tx memoryTx) Each(b store.Bucket, prefix string, f func(string, []byte) error) error {
	for _, key := range slices.Sorted(maps.Keys(tx.data[b])) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := f(key, tx.data[b][key]); err != nil {
			return err
		}
	}
	return nil
}

func (tx memoryTx) Down(b store.Bucket, before string, f func(string, []byte) error) error {
	for _, key := range slices.Backward(slices.Sorted(maps.Keys(tx.data[b]))) {
		if before != "" && key >= before {
			continue
		}
		if err := f(key, tx.data[b][key]); err != nil {
			return err
		}
	}
	return nil
}
