package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/etcdfile"
)

const (
	lockTimeout = 2 * time.Second // how long to wait for a process that is just ending
	lockPoll    = 20 * time.Millisecond
)

var (
	sealBucket = []byte("seal")
	sealKey    = []byte("records")
)

// File is an open file. Its methods are safe for concurrent use; what Update writes is durable when it returns.
type File struct {
	path   string
	advice string
	db     *bolt.DB
	file   *os.File                     // the database's
	broken atomic.Pointer[DamagedError] // set once bbolt panicked; it is not asked again, it may hold its locks
}

// Open opens the file at path and makes it, readable by its owner only, where there is none. Its directory must
// exist. Buckets that it lacks are made. advice is what a person has to do about damage: the error is a
// *DamagedError if the file is not whole, ErrLocked if another process has it open.
func Open(path, advice string, buckets ...string) (*File, error) {
	f := &File{path: path, advice: advice}
	err := f.make()
	if err == nil {
		err = f.guard(f.open)
	}
	if err == nil {
		err = f.View(func(tx *Tx) error { return tx.check() })
	}
	if err == nil {
		err = f.prepare(buckets)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// make makes an empty file under its name only when it is whole, so that one that is cut off never looks new.
func (f *File) make() (err error) {
	if _, err := os.Lstat(f.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	part, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.path)+".*"+durable.PartSuffix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, durable.Remove(part.Name())) }()
	if err := part.Close(); err != nil {
		return err
	}
	if err := sealEmpty(part.Name()); err != nil {
		return err
	}
	if err := os.Link(part.Name(), f.path); err != nil && !errors.Is(err, fs.ErrExist) { // then another process was first
		return err
	}
	return nil
}

func sealEmpty(path string) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(sealBucket)
		if err != nil {
			return err
		}
		return b.Put(sealKey, wrap(sealBucket, sealKey, new(seal).encode()))
	})
	return errors.Join(err, db.Close())
}

func (f *File) open() (err error) {
	f.db, err = bolt.Open(f.path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, OpenFile: f.openLocked})
	if err == nil || errors.Is(err, ErrLocked) {
		return err
	}
	var (
		damaged *DamagedError
		path    *fs.PathError
	)
	if errors.As(err, &damaged) || errors.As(err, &path) {
		return err
	}
	return f.damaged("%v", err)
}

// openLocked opens, locks and checks the file, before bbolt, which locks the same descriptor again, reads it.
func (f *File) openLocked(name string, flag int, perm fs.FileMode) (file *os.File, err error) {
	if f.file, err = os.OpenFile(name, flag, perm); err != nil {
		return nil, err
	}
	if err := f.lock(); err != nil {
		return nil, err
	}
	if err := f.file.Chmod(0o600); err != nil {
		return nil, err
	}
	var corrupt *etcdfile.CorruptError
	switch err := etcdfile.Whole(name); {
	case errors.As(err, &corrupt):
		return nil, f.damaged("%s", corrupt.Problems[0])
	case err != nil:
		return nil, err
	}
	return f.file, nil
}

func (f *File) lock() error {
	for end := time.Now().Add(lockTimeout); ; {
		err := unix.Flock(int(f.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.path, err)
		case time.Now().After(end):
			return fmt.Errorf("%s: %w", f.path, ErrLocked)
		}
		<-time.After(lockPoll)
	}
}

// prepare makes the buckets that are missing.
func (f *File) prepare(buckets []string) error {
	complete := false
	err := f.View(func(tx *Tx) error {
		complete = !slices.ContainsFunc(buckets, func(b string) bool { return tx.tx.Bucket([]byte(b)) == nil })
		return nil
	})
	if err != nil || complete {
		return err
	}
	return f.guard(func() error {
		return f.db.Update(func(tx *bolt.Tx) error {
			for _, b := range buckets {
				if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
					return fmt.Errorf("make bucket %s in %s: %w", b, f.path, err)
				}
			}
			return nil
		})
	})
}

func (f *File) damaged(format string, args ...any) *DamagedError {
	return &DamagedError{Path: f.path, Reason: fmt.Sprintf(format, args...), Advice: f.advice}
}

// guard turns panics of bbolt and faults of its memory map into a *DamagedError.
func (f *File) guard(do func() error) (err error) {
	if broken := f.broken.Load(); broken != nil {
		return broken
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // the disk failed, or the file was cut off meanwhile
			f.broken.Store(f.damaged("it cannot be read at all places"))
			err = f.broken.Load()
		default:
			f.broken.Store(f.damaged("%v", cause))
			err = f.broken.Load()
		}
	}()
	return do()
}

// View runs read in a transaction that sees one state of the file.
func (f *File) View(read func(*Tx) error) error {
	tx, err := f.begin(false)
	if err != nil {
		return err
	}
	return errors.Join(read(tx), tx.rollback())
}

// Update runs change in the only transaction that writes at the time. An error of change leaves no trace. It must
// not be called from within View or Update, which would wait for it forever.
func (f *File) Update(change func(*Tx) error) (err error) {
	tx, err := f.begin(true)
	if err != nil {
		return err
	}
	ended := false
	defer func() {
		if !ended { // change failed or panicked
			err = errors.Join(err, tx.rollback())
		}
	}()
	if err := change(tx); err != nil {
		return err
	}
	ended = true
	return tx.commit()
}

func (f *File) begin(writable bool) (*Tx, error) {
	tx := &Tx{file: f}
	err := f.guard(func() (err error) {
		tx.tx, err = f.db.Begin(writable)
		return err
	})
	return tx, err
}

// Close waits for running transactions and closes the file. Closing again does nothing.
func (f *File) Close() error {
	switch {
	case f.db == nil || f.broken.Load() != nil:
		return f.closeOnce()
	default:
		return f.db.Close()
	}
}

// closeOnce closes the file itself where bbolt cannot be asked to. bbolt's memory map outlives it and would keep
// the lock.
func (f *File) closeOnce() error {
	if f.file == nil {
		return nil
	}
	err := unix.Flock(int(f.file.Fd()), unix.LOCK_UN)
	if closed := f.file.Close(); errors.Is(closed, fs.ErrClosed) {
		return nil
	} else if closed != nil {
		return closed
	}
	return err
}
