package etcdfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockTimeout is how long to wait for a process that has the file open for writing.
	lockTimeout = time.Second
	lockRetry   = 50 * time.Millisecond
)

// read maps a file, takes bbolt's lock on it for reading, and calls do with the tree that the newest meta page
// points to.
func read(path string, p *progress, do func(s *structure) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // which ends the lock
	if err := lockShared(p.ctx, f); err != nil {
		return err
	}
	return mapped(f, p, do)
}

// mapped maps a file and calls do with it.
func mapped(f *os.File, p *progress, do func(s *structure) error) (err error) {
	data, err := mapFile(f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(data)) }()
	return guard(f.Name(), func() error { return do(newStructure(f.Name(), data, p)) })
}

// lockShared takes the lock that bbolt takes on a database that it opens for reading.
func lockShared(ctx context.Context, f *os.File) error {
	retry := time.NewTicker(lockRetry)
	defer retry.Stop()
	for until := time.Now().Add(lockTimeout); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		case time.Now().After(until):
			return fmt.Errorf("%s is open for writing in another process, such as etcd; stop that first: %w", f.Name(), err)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func mapFile(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", f.Name())
	}
	if info.Size() == 0 {
		return nil, corrupt(f.Name(), "it is empty")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return data, nil
}

// guard turns panics and faults of the memory map into errors: a file that is cut off or written to while it is
// read is not what was checked.
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
