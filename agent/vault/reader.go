package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/names"
)

// growth is how far a file being written has come. Readers wait on it.
type growth struct {
	mu      sync.Mutex
	file    *os.File // for reading; nil before the beginning and after the end
	written int64
	ended   bool
	err     error         // why it ended; nil for a complete file
	changed chan struct{} // closed and replaced with every change
}

func newGrowth() *growth { return &growth{changed: make(chan struct{})} }

// open opens the file at path, which must be f, for Readers.
func (g *growth) open(path string, f *os.File) error {
	file, err := openNoFollow(path)
	if err != nil {
		return err
	}
	a, errA := file.Stat()
	b, errB := f.Stat()
	if err := errors.Join(errA, errB); err != nil || !os.SameFile(a, b) {
		return errors.Join(fmt.Errorf("%s was replaced", path), err, file.Close())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.file = file
	return nil
}

func (g *growth) grow(written int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.written = written
	g.broadcast()
}

func (g *growth) end(cause error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended, g.err = true, cause
	g.broadcast()
	if g.file == nil {
		return nil
	}
	err := g.file.Close()
	g.file = nil
	return err
}

func (g *growth) broadcast() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *growth) now() (written int64, ended bool, changed <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.written, g.ended, g.changed, g.err
}

// dup returns a descriptor of the file, nil if the file is not or no longer being received.
func (g *growth) dup() (*os.File, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.file == nil {
		return nil, nil
	}
	fd, err := unix.FcntlInt(g.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s again: %w", g.file.Name(), err)
	}
	return os.NewFile(uintptr(fd), g.file.Name()), nil
}

// Reader reads a copy that is complete or is being received. It may be used by one goroutine and must be
// closed.
type Reader struct {
	f      *os.File
	size   int64
	growth *growth // nil for a copy that was complete from the beginning
}

// OpenReader opens the copy with that SHA-256 and size for reading: the one being received if it is that
// file, or else the complete one. It fails with ErrNotFound if neither is there, which may change, and
// with a *ConflictError if a complete copy of another file has the name. Without a manifest beside the
// complete copy only the size can be compared.
func (v *Vault) OpenReader(name, sha256 string, size int64) (*Reader, error) {
	if err := names.Check("snapshot", name); err != nil {
		return nil, err
	}
	if r := v.followed(name); r != nil && r.isFile(sha256, size) {
		f, err := r.growing().dup()
		if err != nil {
			return nil, err
		}
		if f != nil {
			return &Reader{f: f, size: size, growth: r.growing()}, nil
		}
	}
	return v.openComplete(name, sha256, size)
}

// OpenGrowing opens the file that a Writer writes under name, whatever it becomes, for a Reader that follows it. It
// fails with ErrNotFound if none does, which may change.
func (v *Vault) OpenGrowing(name string) (*Reader, error) {
	if err := names.Check("snapshot", name); err != nil {
		return nil, err
	}
	w, _ := v.followed(name).(*Writer)
	if w == nil {
		return nil, fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	}
	f, err := w.growth.dup()
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	}
	return &Reader{f: f, growth: w.growth}, nil
}

func (v *Vault) openComplete(name, sha256 string, size int64) (*Reader, error) {
	path, err := v.Path(name)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(v.manifestPath(name), name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if there := FileOf(m); err == nil && there.SHA256 != sha256 {
		return nil, &ConflictError{Name: name, Path: path, Detail: fmt.Sprintf("SHA-256 is %s, should be %s", there.SHA256, sha256)}
	}
	f, err := openNoFollow(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != size {
		err = &ConflictError{Name: name, Path: path, Detail: fmt.Sprintf("size is %d, should be %d", info.Size(), size)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Reader{f: f, size: size}, nil
}

// Available returns how many bytes can be read now.
func (r *Reader) Available() int64 {
	if r.growth == nil {
		return r.size
	}
	written, _, _, _ := r.growth.now()
	return written
}

// Wait waits until more than offset bytes can be read, or the whole file can, and returns how many can. It
// fails with ErrInterrupted or ErrDiscarded if the file will not become complete, and with the context's
// error when that ends.
func (r *Reader) Wait(ctx context.Context, offset int64) (int64, error) {
	if r.growth == nil {
		return r.size, nil
	}
	for {
		written, ended, changed, err := r.growth.now()
		switch {
		case err != nil:
			return written, err
		case ended, written > offset:
			return written, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return written, context.Cause(ctx)
		}
	}
}

// ReadAt reads bytes that Wait has announced. It returns io.EOF at the end of what can be read now.
func (r *Reader) ReadAt(p []byte, offset int64) (int, error) {
	limit := min(int64(len(p)), max(0, r.Available()-offset))
	n, err := r.f.ReadAt(p[:limit], offset)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Close ends the reading.
func (r *Reader) Close() error { return r.f.Close() }
