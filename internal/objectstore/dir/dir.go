// Package dir keeps objects as files in a directory, such as one that is mounted over NFS.
//
// A file is written under a hidden name, made durable and renamed, and so is the directory made durable that it is in:
// a crash leaves a hidden file at most, which the next Put of its key removes, and Delete. Files are 0600 and directories 0700.
//
// A file system that is not mounted leaves a directory that looks like an empty one. So the first Put leaves a marker, a hidden
// file with an identifier, and whoever knows it can ask for it from then on.
package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/internal/objectstore"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600

	partSuffix = ".part"
	copyBuffer = 256 << 10
)

// Store keeps objects below one directory.
type Store struct {
	path string
	root *os.Root // keeps every name inside, and stays on the file system that was there when it was opened

	mu     sync.Mutex
	marker string // empty while there is none
}

// Open opens the store in a directory. It is not made: a path that is missing is more likely a file system that is not
// mounted. With a marker it fails with a *MarkerError unless the directory has that one.
func Open(dir, marker string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, &objectstore.Error{Store: "directory " + dir, Doing: "open", Kind: kindOfOpening(err), Cause: err}
	}
	s := &Store{path: dir, root: root}
	if err := s.expect(marker); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

func kindOfOpening(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return objectstore.ErrNoStore
	}
	return kind(err)
}

// Close closes the store.
func (s *Store) Close() error { return s.root.Close() }

func kind(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return objectstore.ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		return objectstore.ErrDenied
	}
	return nil
}

// fail makes a failure one of this store.
func (s *Store) fail(ctx context.Context, doing, key string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &objectstore.Error{Store: "directory " + s.path, Doing: doing + " " + key, Kind: kind(err), Cause: err}
}

// Put implements objectstore.Store.
func (s *Store) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	if err := objectstore.CheckKey(key); err != nil {
		return s.invalid(key, err)
	}
	if err := s.mark(ctx); err != nil {
		return err
	}
	if err := s.makeDir(path.Dir(key)); err != nil {
		return s.fail(ctx, "make the directory of", key, err)
	}
	part := path.Join(path.Dir(key), "."+path.Base(key)+"."+rand.Text()+partSuffix)
	f, err := s.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return s.fail(ctx, "make", part, err)
	}
	began, err := f.Stat()
	if err != nil {
		return errors.Join(s.fail(ctx, "look at", part, err), f.Close(), s.removeIfThere(part))
	}
	err = s.fill(ctx, f, key, write)
	if err == nil {
		err = s.fail(ctx, "rename", part, s.root.Rename(part, key))
	}
	if err != nil {
		return errors.Join(err, s.removeIfThere(part))
	}
	if err := s.removeParts(key, began.ModTime()); err != nil {
		return s.fail(ctx, "remove what is left of", key, err)
	}
	return s.fail(ctx, "make durable", key, s.syncDir(path.Dir(key)))
}

// removeParts removes what a Put of the key that died has left: a hidden file that nobody has written to since began, by
// the clock of the file system.
func (s *Store) removeParts(key string, began time.Time) error {
	entries, err := fs.ReadDir(s.root.FS(), path.Dir(key))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !isPartOf(entry.Name(), path.Base(key)) {
			continue
		}
		info, err := entry.Info()
		if err == nil && info.ModTime().Before(began) {
			err = s.removeIfThere(path.Join(path.Dir(key), entry.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// fill writes a file and makes it durable.
func (s *Store) fill(ctx context.Context, f *os.File, key string, write func(io.Writer) error) error {
	w := &writer{ctx: ctx, f: f}
	err := write(w)
	switch {
	case w.err != nil:
		err = s.fail(ctx, "write", key, w.err)
	case err != nil:
		err = &objectstore.SourceError{Err: err}
	default:
		err = s.fail(ctx, "write", key, f.Sync())
	}
	if err == nil && ctx.Err() != nil { // also if it came to its end while the disk hung: it replaces nothing any more
		err = context.Cause(ctx)
	}
	return errors.Join(err, s.fail(ctx, "close", key, f.Close()))
}

// writer ends with its context, and tells its own failures from those of what uses it.
type writer struct {
	ctx context.Context
	f   *os.File
	err error
}

func (w *writer) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil && w.err == nil {
		w.err = context.Cause(w.ctx)
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.Write(p)
	w.err = err
	return n, err
}

// makeDir makes a directory and those above it, each durable.
func (s *Store) makeDir(dir string) error {
	if dir == "." {
		return nil
	}
	err := s.makeDir(path.Dir(dir))
	if err != nil {
		return err
	}
	err = s.root.Mkdir(dir, dirMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return errors.Join(err, s.syncDir(path.Dir(dir)))
}

func (s *Store) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store) removeIfThere(name string) error {
	err := s.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Store) invalid(key string, err error) error {
	return &objectstore.Error{Store: "directory " + s.path, Doing: "use key " + key, Kind: objectstore.ErrInvalid, Cause: err}
}

// Get implements objectstore.Store.
func (s *Store) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	f, _, err := s.open(ctx, key)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(s.fail(ctx, "read", key, err), f.Close())
	}
	return &reader{ctx: ctx, File: f, store: s, key: key}, nil
}

// open opens an object, which is a file and nothing else.
func (s *Store) open(ctx context.Context, key string) (*os.File, fs.FileInfo, error) {
	if err := objectstore.CheckKey(key); err != nil {
		return nil, nil, s.invalid(key, err)
	}
	f, err := s.root.Open(key)
	if err != nil {
		return nil, nil, s.fail(ctx, "read", key, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is not a file", fs.ErrNotExist)
	}
	if err != nil {
		return nil, nil, errors.Join(s.fail(ctx, "read", key, err), f.Close())
	}
	return f, info, nil
}

// reader ends with its context.
type reader struct {
	*os.File
	ctx   context.Context
	store *Store
	key   string
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.File.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.store.fail(r.ctx, "read", r.key, err)
	}
	return n, err
}

// WriteTo keeps os.File from a way to copy that would not end with the context.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, copyBuffer))
}

// Stat implements objectstore.Store.
func (s *Store) Stat(ctx context.Context, key string) (objectstore.Info, error) {
	f, info, err := s.open(ctx, key)
	if err != nil {
		return objectstore.Info{}, err
	}
	return objectstore.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, f.Close()
}

// List implements objectstore.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		infos, err := s.list(ctx, prefix)
		if err != nil {
			yield(objectstore.Info{}, s.fail(ctx, "list", prefix, err))
			return
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// list returns the objects whose keys begin with prefix. A file that goes away meanwhile is left out.
func (s *Store) list(ctx context.Context, prefix string) ([]objectstore.Info, error) {
	var infos []objectstore.Info
	err := fs.WalkDir(s.root.FS(), ".", func(key string, entry fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist) && key != ".":
			return nil
		case err != nil:
			return err
		case entry.IsDir() && !leadsTo(key, prefix):
			return fs.SkipDir
		case !entry.Type().IsRegular() || !strings.HasPrefix(key, prefix) || objectstore.CheckKey(key) != nil:
			return nil
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			infos = append(infos, objectstore.Info{Key: key, Size: info.Size(), Modified: info.ModTime()})
		}
		return err
	})
	sortByKey(infos)
	return infos, err
}

// leadsTo tells whether a directory may hold keys that begin with prefix.
func leadsTo(dir, prefix string) bool {
	return dir == "." || strings.HasPrefix(dir+"/", prefix) || strings.HasPrefix(prefix, dir+"/")
}

// Delete implements objectstore.Store. Directories stay.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := objectstore.CheckKey(key); err != nil {
		return s.invalid(key, err)
	}
	entries, err := fs.ReadDir(s.root.FS(), path.Dir(key))
	if errors.Is(err, fs.ErrNotExist) && path.Dir(key) != "." {
		return nil
	}
	if err != nil {
		return s.fail(ctx, "remove", key, err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || name != path.Base(key) && !isPartOf(name, path.Base(key)) {
			continue
		}
		if ctx.Err() != nil { // also if it came to its end while the directory hung: what is there may be another's by now
			return context.Cause(ctx)
		}
		if err := s.removeIfThere(path.Join(path.Dir(key), name)); err != nil {
			return s.fail(ctx, "remove", key, err)
		}
	}
	return s.fail(ctx, "make durable", key, s.syncDir(path.Dir(key)))
}

func sortByKey(infos []objectstore.Info) {
	slices.SortFunc(infos, func(a, b objectstore.Info) int { return strings.Compare(a.Key, b.Key) })
}

// isPartOf tells whether a file is what a Put of base writes. The random name between has no dot in it, so that another
// object's, as base.more, is not taken for it.
func isPartOf(name, base string) bool {
	random, found := strings.CutPrefix(name, "."+base+".")
	random, part := strings.CutSuffix(random, partSuffix)
	return found && part && !strings.Contains(random, ".")
}
