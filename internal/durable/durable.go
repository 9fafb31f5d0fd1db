// Package durable writes files so that after a crash either the old or the whole new content is there:
// temporary file, fsync, rename, fsync of the directory.
package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PartSuffix ends the name of a file that is not complete.
const PartSuffix = ".part"

// WriteFile replaces the file at path by data with permission perm. The directory must exist.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	part := path + PartSuffix
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = Rename(part, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(part))
	}
	return nil
}

// WriteJSON replaces the file at path by value as indented JSON with permission 0600.
func WriteJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(data, '\n'), 0o600)
}

// ReadJSON reads what WriteJSON wrote into what into points to. found is false where there is no file.
func ReadJSON(path string, into any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return false, fmt.Errorf("%s is not readable as JSON; look at it and remove it: %w", path, err)
	}
	return true, nil
}

// Rename renames a file or directory and fsyncs both parent directories.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return SyncDir(filepath.Dir(from))
}

// RenameNew renames unless the target exists, and says so if it does. Unlike Rename it leaves it to the caller to fsync both
// parent directories, as one who renames many files does once.
func RenameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // the file system does not know the flag
		if _, statErr := os.Lstat(to); statErr == nil {
			err = unix.EEXIST
		} else if err = os.Rename(from, to); err == nil {
			return nil
		}
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s is in the way of %s; move one of the two aside", to, from)
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// Remove removes a file or an empty directory, which may be gone already, and fsyncs its directory.
func Remove(path string) error {
	if err := removeIfThere(path); err != nil {
		return err
	}
	return syncParent(path)
}

// RemoveAll removes a tree, which may be gone already, and fsyncs its parent directory.
func RemoveAll(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return syncParent(path)
}

// MkdirAll makes a directory and its missing parents with permission perm and fsyncs the parents.
func MkdirAll(path string, perm fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// OwnDir makes a directory for this process alone, with its parents, and makes sure that it may write there. The error says
// what to do.
func OwnDir(path string) error {
	err := MkdirAll(path, 0o700)
	if err == nil {
		if err = unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
			err = &fs.PathError{Op: "write to", Path: path, Err: err}
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w for uid %d; run it as the directory's owner, or give another directory", err, os.Geteuid())
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w; mount it so that it can be written to, or give another directory", err)
	}
	return err
}

// SyncDir fsyncs a directory.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SyncTree fsyncs every regular file and directory below root, root included.
func SyncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		return SyncDir(path)
	})
}

// FreeBytes returns the bytes that an unprivileged user may still write to the file system of path, or
// of its nearest parent that exists.
func FreeBytes(path string) (uint64, error) {
	existing, err := nearest(path)
	if err != nil {
		return 0, err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(existing, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", existing, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// SameFileSystem tells whether two paths, or their nearest parents that exist, are on one file system.
func SameFileSystem(a, b string) (bool, error) {
	devA, err := device(a)
	if err != nil {
		return false, err
	}
	devB, err := device(b)
	return devA == devB, err
}

func device(path string) (uint64, error) {
	existing, err := nearest(path)
	if err != nil {
		return 0, err
	}
	var s unix.Stat_t
	if err := unix.Stat(existing, &s); err != nil {
		return 0, fmt.Errorf("stat %s: %w", existing, err)
	}
	return s.Dev, nil
}

func nearest(path string) (string, error) {
	for {
		_, err := os.Stat(path)
		switch {
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path:
			return "", err
		}
		path = filepath.Dir(path)
	}
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncParent(path string) error {
	err := SyncDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
