package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600

	fileSuffix     = ".db"
	manifestSuffix = ".json"
	partSuffix     = fileSuffix + durable.PartSuffix
	expectedSuffix = fileSuffix + ".expected"
)

// Vault is a directory of snapshot files.
type Vault struct {
	dir  string
	log  hclog.Logger
	free func(path string) (uint64, error)

	mu      sync.Mutex
	claimed map[string]follower // names being written; nil for one that no Reader can follow
	kept    map[string]*digest  // of partial files that Keep has left, as far as they were hashed
}

// follower is what Readers follow: a Writer or a Receiver.
type follower interface {
	// isFile tells whether it writes the file that sha256 and size describe. A Writer does not know.
	isFile(sha256 string, size int64) bool
	growing() *growth
}

// Open opens the vault in dir, which is made if it is missing. A directory that others may write to is
// refused; one that others may read is closed to them.
func Open(dir string, log hclog.Logger) (*Vault, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	if err := durable.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	if err := closeToOthers(dir); err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	return &Vault{dir: dir, log: log, free: durable.FreeBytes, claimed: map[string]follower{}, kept: map[string]*digest{}}, nil
}

func closeToOthers(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("everybody may write to %s: give the snapshots a directory of their own", dir)
	case info.Mode().Perm()&0o077 != 0:
		return os.Chmod(dir, dirMode)
	}
	return nil
}

// Dir returns the vault's directory.
func (v *Vault) Dir() string { return v.dir }

// FreeBytes returns the bytes that may still be written to the vault's file system.
func (v *Vault) FreeBytes() (uint64, error) { return v.free(v.dir) }

// Path returns the path of a complete copy. It fails with ErrNotFound if there is none, and if something
// else than a file is in its place.
func (v *Vault) Path(name string) (string, error) {
	if err := names.Check("snapshot", name); err != nil {
		return "", err
	}
	path := v.filePath(name)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	case err != nil:
		return "", fmt.Errorf("snapshot %s: %w", name, err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("snapshot %s: %s is %s instead of a file", name, path, kindOf(info.Mode()))
	}
	return path, nil
}

// List returns the manifests of all complete copies in the order of their names. A copy whose manifest
// was not written yet is left out. Manifests that cannot be read are named in the error; the others are
// returned all the same.
func (v *Vault) List() ([]*requorumv1.Manifest, error) {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var (
		found  []*requorumv1.Manifest
		failed []error
	)
	for _, entry := range entries {
		name, isCopy := nameOfCopy(entry.Name())
		if !isCopy || !entry.Type().IsRegular() || names.Check("snapshot", name) != nil {
			continue
		}
		m, err := readManifest(v.manifestPath(name), name)
		switch {
		case err == nil:
			found = append(found, m)
		case !errors.Is(err, fs.ErrNotExist):
			failed = append(failed, fmt.Errorf("list snapshots: %w", err))
		}
	}
	slices.SortFunc(found, func(a, b *requorumv1.Manifest) int { return strings.Compare(a.GetName(), b.GetName()) })
	return found, errors.Join(failed...)
}

// Drop removes a copy, complete or partial, and its manifest; what is gone already is no error. It fails
// with ErrBusy while a copy of that name is being written.
func (v *Vault) Drop(name string) error {
	// The manifest goes last: a manifest alone is not listed, a file alone would be forgotten.
	return v.remove(name, func() []string {
		return append(append(v.filePaths(name), v.partials(name)...), v.manifestPath(name))
	})
}

// DropPartial removes what is left of a copy that was not completed. A complete copy stays.
func (v *Vault) DropPartial(name string) error {
	return v.remove(name, func() []string { return v.partials(name) })
}

func (v *Vault) partials(name string) []string {
	return []string{v.partPath(name), v.scratchPath(name), v.expectedPath(name), v.expectedPath(name) + durable.PartSuffix, v.manifestPath(name) + durable.PartSuffix}
}

// remove removes files of name, in order. The name is checked before paths is called.
func (v *Vault) remove(name string, paths func() []string) error {
	if err := v.claim(name, nil); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	defer v.release(name)
	v.takeKept(name)
	for _, path := range paths() {
		if err := durable.Remove(path); err != nil {
			return fmt.Errorf("drop snapshot %s: %w", name, err)
		}
	}
	return nil
}

// claim makes the caller the only one that writes name's files until release. Readers follow f, unless it is nil.
func (v *Vault) claim(name string, f follower) error {
	if err := names.Check("snapshot", name); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, taken := v.claimed[name]; taken {
		return fmt.Errorf("snapshot %s: %w", name, ErrBusy)
	}
	v.claimed[name] = f
	return nil
}

func (v *Vault) release(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.claimed, name)
}

func (v *Vault) followed(name string) follower {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.claimed[name]
}

// keep remembers how far a partial file that stays was hashed.
func (v *Vault) keep(name string, d *digest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kept[name] = d
}

// takeKept returns what keep has remembered of a partial file, once; nil if there is nothing.
func (v *Vault) takeKept(name string) *digest {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.kept[name]
	delete(v.kept, name)
	return d
}

func (v *Vault) manifestPath(name string) string { return filepath.Join(v.dir, name+manifestSuffix) }
func (v *Vault) partPath(name string) string     { return filepath.Join(v.dir, name+partSuffix) }
func (v *Vault) expectedPath(name string) string { return filepath.Join(v.dir, name+expectedSuffix) }

// filePaths returns all places where a complete copy may be, by how it is sealed.
func (v *Vault) filePaths(name string) []string {
	all := make([]string, len(fileSuffixes))
	for i, suffix := range fileSuffixes {
		all[i] = filepath.Join(v.dir, name+suffix)
	}
	return all
}

// filePath returns where the complete copy is, and where a plain one would be if there is none.
func (v *Vault) filePath(name string) string {
	all := v.filePaths(name)
	for _, path := range all {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return path
		}
	}
	return all[0]
}

// nameOfCopy returns the snapshot whose complete copy has this name of a file.
func nameOfCopy(file string) (name string, isCopy bool) {
	for _, suffix := range fileSuffixes { // no two of them end a name at once
		if name, isCopy = strings.CutSuffix(file, suffix); isCopy {
			return name, true
		}
	}
	return "", false
}

// absent fails with ErrExists if something is in the place of name's complete copy.
func (v *Vault) absent(name string) error {
	_, err := os.Lstat(v.filePath(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("snapshot %s: %w", name, err)
	}
	return fmt.Errorf("snapshot %s: %w", name, ErrExists)
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}
