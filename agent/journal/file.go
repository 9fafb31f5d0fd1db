package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockTimeout is how long to wait for another agent that has the journal open.
const lockTimeout = 2 * time.Second

// Journal is an agent's journal. Its methods are safe for concurrent use; what they write is durable
// when they return. They fail with a *DamagedError where the file cannot be read.
type Journal struct {
	path   string
	db     *bolt.DB
	file   *os.File                     // the database's
	broken atomic.Pointer[DamagedError] // set once bbolt panicked; it is not asked again, it may hold its locks
}

// DamagedError says that a journal's file cannot be used.
type DamagedError struct {
	Path   string
	Reason string
}

// Error says what to do.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("journal %s is damaged: %s; look for disk errors and bring the file back from a backup, "+
		"or move it away and enrol the node again with a fresh join token", e.Path, e.Reason)
}

// Open opens the journal at path, making it if needed. It fails with a *DamagedError if the file is not a
// whole journal.
func Open(path string) (*Journal, error) {
	j := &Journal{path: path}
	err := j.guard(j.openFile)
	if err == nil {
		err = j.view(j.check)
	}
	if err == nil {
		err = j.prepare()
	}
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func (j *Journal) openFile() (err error) {
	keep := func(name string, flag int, perm fs.FileMode) (*os.File, error) {
		j.file, err = os.OpenFile(name, flag, perm)
		return j.file, err
	}
	j.db, err = bolt.Open(j.path, 0o600, &bolt.Options{Timeout: lockTimeout, OpenFile: keep})
	var pathErr *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("journal %s: another agent uses it; stop that one first", j.path)
	case errors.As(err, &pathErr):
		return fmt.Errorf("journal: %w", err)
	}
	return &DamagedError{Path: j.path, Reason: err.Error()}
}

// check reads everything once, so that damage is found now and not in the middle of a restore.
func (j *Journal) check(tx *bolt.Tx) error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return &DamagedError{Path: j.path, Reason: fmt.Sprintf("it has %d bytes and should have %d: it was cut off", info.Size(), tx.Size())}
	}
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		return b.ForEach(func(_, value []byte) error {
			if value == nil {
				return &DamagedError{Path: j.path, Reason: fmt.Sprintf("%q holds what no journal does", name)}
			}
			return nil
		})
	})
}

// guard turns panics of bbolt and faults of its memory map into a *DamagedError.
func (j *Journal) guard(do func() error) (err error) {
	if broken := j.broken.Load(); broken != nil {
		return broken
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			broken := &DamagedError{Path: j.path, Reason: fmt.Sprint(cause)}
			j.broken.Store(broken)
			err = broken
		}
	}()
	return do()
}

func (j *Journal) view(read func(*bolt.Tx) error) error {
	return j.guard(func() error { return j.db.View(read) })
}

func (j *Journal) update(change func(*bolt.Tx) error) error {
	return j.guard(func() error { return j.db.Update(change) })
}

// Close closes the journal.
func (j *Journal) Close() error {
	switch {
	case j.broken.Load() != nil && j.file != nil:
		return j.file.Close()
	case j.db != nil:
		return j.db.Close()
	}
	return nil
}
