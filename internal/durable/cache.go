package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// DropCache writes a file to the disk and asks the kernel to forget what it keeps of it in memory: the next read goes
// to the disk, and until then the memory is there for others. Pages that a process has mapped stay, and so does
// everything where a file system cannot do this.
func DropCache(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	if err == nil || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return fmt.Errorf("drop cached pages of %s: %w", f.Name(), err)
}

// DropCacheOf is DropCache of the file at path.
func DropCacheOf(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(DropCache(f), f.Close())
}
