package etcdfile

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockTimeout is how long to wait for a process that has the file open for writing.
const lockTimeout = time.Second

// view checks the file's structure and calls read within a read-only transaction.
func view(path string, p *progress, read func(tx *bolt.Tx, inUse int64) error) (err error) {
	return guard(path, func() error {
		inUse, err := checkStructure(path, p)
		if err != nil {
			return err
		}
		db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: lockTimeout})
		if errors.Is(err, bolterrors.ErrTimeout) {
			return fmt.Errorf("%s is open for writing in another process, such as etcd; stop that first: %w", path, err)
		}
		if err != nil {
			return corrupt(path, "%v", err)
		}
		err = db.View(func(tx *bolt.Tx) error { return read(tx, inUse) })
		return errors.Join(err, db.Close())
	})
}

// guard turns panics of bbolt and faults of the memory map into errors.
func guard(path string, read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // a fault: the disk failed, or the file was cut off meanwhile
			err = corrupt(path, "it cannot be read at all places; look for disk errors in the kernel's log")
		default:
			err = corrupt(path, "%v", cause)
		}
	}()
	return read()
}
