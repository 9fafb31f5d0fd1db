// Package bolt keeps the controller's store in one bbolt file. It relies on bbolt for atomic, durable
// transactions and for the lock that keeps a second controller out, and on package boltfile to notice damage.
package bolt

import (
	"errors"
	"fmt"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/boltfile"
)

// advice is the way out of a damaged store.
const advice = "look for disk errors, put a backup of the controller's data directory in its place and start the controller once " +
	"with --epoch-at-least (docs/troubleshooting.md); etcd and the agents go on meanwhile"

// ErrLocked is in the error of Open when another process has the file open.
var ErrLocked = errors.New("another controller holds it")

// DamagedError says that the store's file cannot be used any more.
type DamagedError = boltfile.DamagedError

// Store is a store.Store in a bbolt file.
type Store struct{ file *boltfile.File }

// Open opens the store at path and creates it, readable by its owner only, where there is none. Its
// directory must exist. The error is ErrLocked when another controller holds the file, and a *DamagedError when
// the file is not exactly what was written to it.
func Open(path string) (*Store, error) {
	buckets := make([]string, len(store.Buckets))
	for i, b := range store.Buckets {
		buckets[i] = string(b)
	}
	file, err := boltfile.Open(path, advice, buckets...)
	switch {
	case errors.Is(err, boltfile.ErrLocked):
		return nil, fmt.Errorf("open store %s: %w; stop that controller or give this one a data directory of its own", path, ErrLocked)
	case err != nil:
		return nil, fmt.Errorf("open store: %w", err)
	}
	return &Store{file: file}, nil
}

// View runs f in a transaction that reads one state of the store.
func (s *Store) View(f func(store.Tx) error) error {
	return s.file.View(func(t *boltfile.Tx) error { return f(tx{t}) })
}

// Update runs f in the only transaction that writes at the time. It must not be called from within
// View or Update, which would wait for it forever.
func (s *Store) Update(f func(store.Tx) error) error {
	return s.file.Update(func(t *boltfile.Tx) error { return f(tx{t}) })
}

// Close waits for running transactions and closes the file. Closing again does nothing.
func (s *Store) Close() error { return s.file.Close() }

type tx struct{ *boltfile.Tx }

func (t tx) Get(b store.Bucket, key string) ([]byte, error) {
	value, found, err := t.Tx.Get(string(b), key)
	if err == nil && !found {
		err = store.ErrNotFound
	}
	return value, err
}

func (t tx) Put(b store.Bucket, key string, value []byte) error {
	return t.Tx.Put(string(b), key, value)
}

func (t tx) Delete(b store.Bucket, key string) error { return t.Tx.Delete(string(b), key) }

func (t tx) Each(b store.Bucket, prefix string, f func(key string, value []byte) error) error {
	return t.Tx.Each(string(b), prefix, f)
}

func (t tx) Down(b store.Bucket, before string, f func(key string, value []byte) error) error {
	return t.Tx.Down(string(b), before, f)
}
