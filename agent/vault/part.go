package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/durable"
)

// Headroom is what has to stay free on the vault's file system, in bytes: etcd may live on it.
const Headroom = 64 << 20

// flushEvery is how much is written before the disk is told to write it.
const flushEvery = 8 << 20

// part is a partial file that is being written.
type part struct {
	v       *Vault
	name    string
	suffix  string   // of the complete copy's name
	f       *os.File // holds the lock against other processes
	digest  *digest
	flushed int64 // bytes handed to the disk
	noFlush bool  // the file system cannot be asked to
	err     error // the first failure; nothing is written afterwards
}

// openPart opens or makes the partial file of name, which the caller has claimed. What is in it stays.
func (v *Vault) openPart(name string) (*part, error) {
	path := v.partPath(name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, err
	}
	if err := lock(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &part{v: v, name: name, suffix: fileSuffix, f: f, digest: newDigest()}, nil
}

// lock takes the lock on a partial file and makes sure that the file is still the one at path: another
// process may have made it complete in between.
func lock(f *os.File, path string) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is locked by another process: %w", path, ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if !opened.Mode().IsRegular() {
		return fmt.Errorf("%s is %s instead of a file; remove it", path, kindOf(opened.Mode()))
	}
	there, err := os.Lstat(path)
	if err != nil || !os.SameFile(opened, there) {
		return fmt.Errorf("%s was taken away by another process: %w", path, ErrBusy)
	}
	return nil
}

// clear empties the file.
func (p *part) clear() error {
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, 0)
	p.digest, p.flushed = newDigest(), 0
	return err
}

// reserve makes sure that a file of size bytes fits, what is there already included.
func (p *part) reserve(size int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(p.f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", p.f.Name(), err)
	}
	missing := uint64(max(0, size-st.Blocks*512))
	free, err := p.v.FreeBytes()
	if err != nil {
		return err
	}
	if missing > 0 && free < missing+Headroom {
		return &NoSpaceError{Path: p.v.dir, Needed: missing + Headroom, Free: free}
	}
	err = unix.Fallocate(int(p.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	switch {
	case errors.Is(err, unix.ENOSPC):
		return p.noSpace(missing)
	case err == nil, errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EINTR):
		return nil // reserving is a courtesy, not every file system does it
	}
	return fmt.Errorf("reserve space for %s: %w", p.f.Name(), err)
}

// write appends to the file.
func (p *part) write(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.f.Write(b)
	p.digest.Write(b[:n]) //nolint:errcheck // a hash takes everything
	if err == nil {
		err = p.flush()
	}
	if errors.Is(err, unix.ENOSPC) {
		err = p.noSpace(uint64(len(b) - n))
	}
	if err != nil {
		p.err = fmt.Errorf("write snapshot %s: %w", p.name, err)
	}
	return n, p.err
}

// flush starts writing what has come since the last time and waits for what came before that, so that
// never more than twice flushEvery waits for the final fsync.
func (p *part) flush() error {
	if p.noFlush || p.digest.size-p.flushed < flushEvery {
		return nil
	}
	fd, from := int(p.f.Fd()), p.flushed
	err := unix.SyncFileRange(fd, from, p.digest.size-from, unix.SYNC_FILE_RANGE_WRITE)
	if err == nil && from > 0 {
		before := max(0, from-2*flushEvery)
		err = unix.SyncFileRange(fd, before, from-before,
			unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	}
	p.flushed = p.digest.size
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err // reported once: the fsync at the end would not see it again
	}
	p.noFlush = err != nil
	return nil
}

func (p *part) noSpace(missing uint64) error {
	free, err := p.v.FreeBytes()
	if err != nil {
		return errors.Join(unix.ENOSPC, err)
	}
	return &NoSpaceError{Path: p.v.dir, Needed: missing + Headroom, Free: free}
}

// commit makes the file durable and gives it its final name; between the two it calls before.
func (p *part) commit(before func() error) error {
	if err := p.f.Sync(); err != nil {
		return err
	}
	if err := before(); err != nil {
		return err
	}
	path := filepath.Join(p.v.dir, p.name+p.suffix)
	if err := makeWay(path); err != nil {
		return err
	}
	if err := durable.Rename(p.v.partPath(p.name), path); err != nil {
		return err
	}
	return p.v.keepOnly(p.name, path)
}

// keepOnly removes what a complete copy replaces that was sealed in another way.
func (v *Vault) keepOnly(name, path string) error {
	for _, other := range v.filePaths(name) {
		if other == path {
			continue
		}
		if err := durable.Remove(other); err != nil {
			return err
		}
	}
	return nil
}

// makeWay removes an empty directory in a copy's place, which a rename does not replace. What has something
// in it is somebody's.
func makeWay(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("%s is a directory where the snapshot's file belongs; move it away, then try again: %w", path, err)
	}
	return nil
}

// remove removes the file and what it is expected to become.
func (p *part) remove() error {
	return errors.Join(durable.Remove(p.v.partPath(p.name)), durable.Remove(p.v.expectedPath(p.name)))
}

// close gives the name free. The file stays.
func (p *part) close() error {
	err := p.f.Close()
	p.err = fmt.Errorf("snapshot %s: %w", p.name, ErrEnded)
	p.v.release(p.name)
	return err
}

func (p *part) facts() *agentv1.CopyFacts { return p.digest.facts() }
