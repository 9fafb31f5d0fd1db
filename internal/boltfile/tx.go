package boltfile

import (
	"bytes"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Tx is a transaction. Values that it returns are copies.
type Tx struct {
	file *File
	tx   *bolt.Tx
	seal *seal // of a transaction that has changed something
}

// Get returns a record's value. found is false where there is none.
func (t *Tx) Get(bucket, key string) (value []byte, found bool, err error) {
	err = t.in(bucket, func(b *bolt.Bucket) error {
		stored := b.Get([]byte(key))
		if found = stored != nil; !found {
			return nil
		}
		value, _, err = t.read(bucket, []byte(key), stored)
		return err
	})
	return value, found, err
}

// Put writes a record.
func (t *Tx) Put(bucket, key string, value []byte) error {
	return t.change(bucket, key, func(b *bolt.Bucket) error {
		stored := wrap([]byte(bucket), []byte(key), value)
		if err := b.Put([]byte(key), stored); err != nil {
			return fmt.Errorf("put %s/%s: %w", bucket, key, err)
		}
		t.seal.add(digest([]byte(bucket), []byte(key), value))
		return nil
	})
}

// Delete removes a record, which need not be there.
func (t *Tx) Delete(bucket, key string) error {
	return t.change(bucket, key, func(b *bolt.Bucket) error {
		if err := b.Delete([]byte(key)); err != nil {
			return fmt.Errorf("delete %s/%s: %w", bucket, key, err)
		}
		return nil
	})
}

// Each calls f for every key with the prefix, in the order of keys, until f returns an error. f may change the
// bucket.
func (t *Tx) Each(bucket, prefix string, f func(key string, value []byte) error) error {
	for at, first := prefix, true; ; first = false {
		key, value, found, err := t.next(bucket, at, first)
		if err != nil || !found || !bytes.HasPrefix([]byte(key), []byte(prefix)) {
			return err
		}
		if err := f(key, value); err != nil {
			return err
		}
		at = key
	}
}

// next returns the record after the key at, or at it if that counts too.
func (t *Tx) next(bucket, at string, inclusive bool) (key string, value []byte, found bool, err error) {
	err = t.in(bucket, func(b *bolt.Bucket) (err error) {
		c := b.Cursor()
		k, stored := c.Seek([]byte(at))
		if !inclusive && string(k) == at {
			k, stored = c.Next()
		}
		if found = k != nil; !found {
			return nil
		}
		key = string(k)
		value, _, err = t.read(bucket, k, stored)
		return err
	})
	return key, value, found, err
}

// Down calls f for every key before the one given, or for all where that is empty, the last key first, until f returns
// an error. f may change the bucket.
func (t *Tx) Down(bucket, before string, f func(key string, value []byte) error) error {
	for at := before; ; {
		key, value, found, err := t.previous(bucket, at)
		if err != nil || !found {
			return err
		}
		if err := f(key, value); err != nil {
			return err
		}
		at = key
	}
}

// previous returns the record before the key at, or the last one where at is empty.
func (t *Tx) previous(bucket, at string) (key string, value []byte, found bool, err error) {
	err = t.in(bucket, func(b *bolt.Bucket) (err error) {
		c := b.Cursor()
		k, stored := c.Last()
		if at != "" {
			if after, _ := c.Seek([]byte(at)); after != nil {
				k, stored = c.Prev()
			} else { // every key is before it
				k, stored = c.Last()
			}
		}
		if found = k != nil; !found {
			return nil
		}
		key = string(k)
		value, _, err = t.read(bucket, k, stored)
		return err
	})
	return key, value, found, err
}

// change runs write, which adds what it writes to the seal, once the record that is there is out of it.
func (t *Tx) change(bucket, key string, write func(*bolt.Bucket) error) error {
	return t.in(bucket, func(b *bolt.Bucket) error {
		if !t.tx.Writable() {
			return fmt.Errorf("%s/%s: the transaction only reads", bucket, key)
		}
		if err := t.unseal(); err != nil {
			return err
		}
		if stored := b.Get([]byte(key)); stored != nil {
			_, sum, err := t.read(bucket, []byte(key), stored)
			if err != nil {
				return err
			}
			t.seal.remove(sum)
		}
		return write(b)
	})
}

func (t *Tx) in(bucket string, f func(*bolt.Bucket) error) error {
	return t.file.guard(func() error {
		b := t.tx.Bucket([]byte(bucket))
		if b == nil {
			return fmt.Errorf("bucket %q is unknown", bucket)
		}
		return f(b)
	})
}

func (t *Tx) read(bucket string, key, stored []byte) (value []byte, sum uint64, err error) {
	value, sum, ok := unwrap([]byte(bucket), key, stored)
	if !ok {
		return nil, 0, t.file.damaged("record %s/%q is not what was written", bucket, key)
	}
	return value, sum, nil
}

// check reads everything once, so that damage is found now and not in the middle of an operation.
func (t *Tx) check() error {
	var found seal
	err := t.file.guard(func() error {
		return t.tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			switch {
			case b == nil:
				return t.file.damaged("%q is no bucket", name)
			case bytes.Equal(name, sealBucket):
				return nil
			}
			return b.ForEach(func(key, stored []byte) error {
				_, sum, err := t.read(string(name), key, stored)
				found.add(sum)
				return err
			})
		})
	})
	if err != nil {
		return err
	}
	if err := t.unseal(); err != nil {
		return err
	}
	if found != *t.seal {
		return t.file.damaged("it holds %d records, and not the %d that were written", found.count, t.seal.count)
	}
	return nil
}

// unseal reads the seal, once.
func (t *Tx) unseal() error {
	if t.seal != nil {
		return nil
	}
	return t.file.guard(func() error {
		b := t.tx.Bucket(sealBucket)
		if b == nil {
			return t.file.damaged("it is not a file of requorum's, or of another version")
		}
		value, _, err := t.read(string(sealBucket), sealKey, b.Get(sealKey))
		if err != nil {
			return err
		}
		s, ok := decodeSeal(value)
		if !ok {
			return t.file.damaged("the sum of its records is not readable")
		}
		t.seal = &s
		return nil
	})
}

func (t *Tx) commit() error {
	return t.file.guard(func() error {
		if t.seal != nil {
			err := t.tx.Bucket(sealBucket).Put(sealKey, wrap(sealBucket, sealKey, t.seal.encode()))
			if err != nil {
				return errors.Join(err, t.tx.Rollback())
			}
		}
		return t.tx.Commit()
	})
}

func (t *Tx) rollback() error { return t.file.guard(t.tx.Rollback) }
