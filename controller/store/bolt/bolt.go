// Package bolt keeps the controller's store in one bbolt file. It relies on bbolt for atomic, durable
// transactions and for the lock that keeps a second controller out.
package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/durable"
)

// lockTimeout is how long Open waits for a controller that is just ending.
const lockTimeout = 2 * time.Second

// ErrLocked is in the error of Open when another process has the file open.
var ErrLocked = errors.New("another controller holds it")

// Store is a store.Store in a bbolt file.
type Store struct{ db *bbolt.DB }

// Open opens the store at path and creates it, readable by its owner only, where there is none. Its
// directory must exist. The error is ErrLocked when another controller holds the file.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, explain(path, err)
	}
	if err := prepare(db, path); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return &Store{db: db}, nil
}

func explain(path string, err error) error {
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("open store %s: %w; stop that controller or give this one a data directory of its own", path, ErrLocked)
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrVersionMismatch), errors.Is(err, bbolterrors.ErrChecksum):
		return fmt.Errorf("open store %s: the file is damaged or not a store (%w); move it aside and put a backup in its place", path, err)
	}
	return fmt.Errorf("open store %s: %w", path, err)
}

// prepare makes the buckets, and the file's name durable and private.
func prepare(db *bbolt.DB, path string) error {
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	if err := db.Update(makeBuckets); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, b := range store.Buckets {
		if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
			return fmt.Errorf("make bucket %s: %w", b, err)
		}
	}
	return nil
}

// View runs f in a transaction that reads one state of the store.
func (s *Store) View(f func(store.Tx) error) error {
	return s.db.View(func(t *bbolt.Tx) error { return f(tx{t}) })
}

// Update runs f in the only transaction that writes at the time. It must not be called from within
// View or Update, which would wait for it forever.
func (s *Store) Update(f func(store.Tx) error) error {
	return s.db.Update(func(t *bbolt.Tx) error { return f(tx{t}) })
}

// Close waits for running transactions and closes the file. Closing again does nothing.
func (s *Store) Close() error { return s.db.Close() }

type tx struct{ *bbolt.Tx }

func (t tx) bucket(b store.Bucket) (*bbolt.Bucket, error) {
	if found := t.Bucket([]byte(b)); found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("bucket %q is unknown", b)
}

func (t tx) Get(b store.Bucket, key string) ([]byte, error) {
	bucket, err := t.bucket(b)
	if err != nil {
		return nil, err
	}
	value := bucket.Get([]byte(key))
	if value == nil {
		return nil, store.ErrNotFound
	}
	return value, nil
}

// Put copies value, which bbolt would otherwise read only when the transaction commits.
func (t tx) Put(b store.Bucket, key string, value []byte) error {
	bucket, err := t.bucket(b)
	if err != nil {
		return err
	}
	if err := bucket.Put([]byte(key), append([]byte{}, value...)); err != nil {
		return fmt.Errorf("put %s/%s: %w", b, key, err)
	}
	return nil
}

func (t tx) Delete(b store.Bucket, key string) error {
	bucket, err := t.bucket(b)
	if err != nil {
		return err
	}
	if err := bucket.Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete %s/%s: %w", b, key, err)
	}
	return nil
}

// Each looks its place up again after every call of f, since f may change the bucket.
func (t tx) Each(b store.Bucket, prefix string, f func(key string, value []byte) error) error {
	bucket, err := t.bucket(b)
	if err != nil {
		return err
	}
	c := bucket.Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); {
		at := bytes.Clone(k)
		if err := f(string(at), v); err != nil {
			return err
		}
		if !t.Writable() {
			k, v = c.Next()
			continue
		}
		if k, v = c.Seek(at); bytes.Equal(k, at) {
			k, v = c.Next()
		}
	}
	return nil
}
