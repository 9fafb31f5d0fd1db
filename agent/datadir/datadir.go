// Package datadir stages restored data beside a member's live data, swaps the two by rename, and brings
// the old data back. It never deletes old data before RemoveQuarantine is called, never renames over
// anything, and every operation can be run again after a crash at any point.
//
// A member has one or two slots. The data slot is the entry "member" of the data directory; the WAL slot
// is every entry of a separate WAL directory. A slot's staging and quarantine directories are siblings
// of the slot's directory, which keeps them on its file system; where the directory is a mount point
// they are inside it.
package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
)

const memberEntry = "member"

// Dirs are the directories of one restore of one member.
type Dirs struct {
	restoreID string
	uid, gid  int
	slots     []*slot // the data slot, then the WAL slot if there is one

	// fault is called before every step that changes a disk; tests fail it to stand for a crash.
	fault func(step string) error
}

// Open finds the directories of the restore restoreID for the member m. It changes nothing. It fails
// with a *LayoutError when the member's directories cannot be swapped by rename.
func Open(m runtime.Member, restoreID string) (*Dirs, error) {
	if err := names.Check("restore", restoreID); err != nil {
		return nil, err
	}
	d := &Dirs{restoreID: restoreID, uid: m.UID, gid: m.GID, fault: func(string) error { return nil }}
	data, err := resolve(m.DataDir)
	if err != nil {
		return nil, err
	}
	wal, err := separateWAL(m.WALDir, data)
	if err != nil {
		return nil, err
	}
	dataSlot, err := openSlot(data, restoreID, []string{memberEntry})
	if err != nil {
		return nil, err
	}
	d.slots = append(d.slots, dataSlot)
	if wal != "" {
		walSlot, err := openSlot(wal, restoreID, nil)
		if err != nil {
			return nil, err
		}
		d.slots = append(d.slots, walSlot)
	}
	return d, nil
}

// LayoutError says why a member's directories cannot be swapped by rename.
type LayoutError struct {
	Path   string
	Reason string
}

func (e *LayoutError) Error() string { return fmt.Sprintf("%s %s", e.Path, e.Reason) }

// separateWAL returns the resolved WAL directory if it lies outside of data/member, otherwise "".
func separateWAL(wal, data string) (string, error) {
	if wal == "" {
		return "", nil
	}
	resolved, err := resolve(wal)
	if err != nil {
		return "", err
	}
	switch {
	case within(resolved, filepath.Join(data, memberEntry)):
		return "", nil
	case within(data, resolved):
		return "", &LayoutError{Path: wal, Reason: "is the WAL directory and holds the data directory; give etcd a WAL directory of its own"}
	}
	return resolved, nil
}

// resolve follows symlinks. Of a path that is not there yet, it follows those of its nearest parent that is.
func resolve(dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", &LayoutError{Path: fmt.Sprintf("%q", dir), Reason: "is not an absolute path"}
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err == nil {
		return resolved, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := checkDangling(dir); err != nil {
		return "", err
	}
	parent, err := resolve(filepath.Dir(dir))
	return filepath.Join(parent, filepath.Base(dir)), err
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// StagedDB returns the path of the staged database file.
func (d *Dirs) StagedDB() string {
	return filepath.Join(d.slots[0].staging, memberEntry, "snap", "db")
}

// QuarantinePaths returns the directories that hold the old data once it is swapped out.
func (d *Dirs) QuarantinePaths() []string {
	paths := make([]string, len(d.slots))
	for i, s := range d.slots {
		paths[i] = s.quarantine
	}
	return paths
}

// QuarantinePatterns returns the paths that QuarantinePaths would return for a restore of the member m,
// with %s in place of the restore's ID.
func QuarantinePatterns(m runtime.Member) ([]string, error) {
	const stand = "RESTORE-ID"
	d, err := Open(m, stand)
	if err != nil {
		return nil, err
	}
	paths := d.QuarantinePaths()
	for i, p := range paths {
		paths[i] = strings.TrimSuffix(p, stand) + "%s"
	}
	return paths, nil
}

// HasQuarantine tells whether any old data is in quarantine.
func (d *Dirs) HasQuarantine() (bool, error) {
	for _, s := range d.slots {
		has, err := s.hasQuarantine()
		if has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// FreeBytes returns the free bytes where data would be staged, and where a separate WAL would; the
// latter is 0 if there is none.
func (d *Dirs) FreeBytes() (data, wal uint64, err error) {
	if data, err = durable.FreeBytes(d.slots[0].dir); err != nil {
		return 0, 0, err
	}
	if len(d.slots) > 1 {
		wal, err = durable.FreeBytes(d.slots[1].dir)
	}
	return data, wal, err
}

// CheckWritable fails with a *LayoutError where the data would be staged on what is read-only for this process, as
// most of a host is to one that its unit limits.
func (d *Dirs) CheckWritable() error {
	for _, s := range d.slots {
		parent := filepath.Dir(s.staging)
		if err := unix.Access(parent, unix.W_OK); errors.Is(err, unix.EROFS) {
			return &LayoutError{
				Path:   parent,
				Reason: "is read-only for the agent; if its unit makes it so, name that directory in ReadWritePaths= (docs/install.md) and restart the agent",
			}
		}
	}
	return nil
}

// NeededBytes returns how many bytes staging a snapshot of size bytes needs for the data, and for the
// WAL. Where the two share a file system it needs the sum.
func NeededBytes(size int64) (data, wal uint64) {
	const segment = 64 << 20 // etcd preallocates one WAL segment and the next one
	return uint64(size) + uint64(size)/10 + 16<<20, 2 * segment
}

// NoSpaceError says that a file system has too little space to stage on.
type NoSpaceError struct {
	Path         string // where data would be staged
	Needed, Free uint64 // bytes
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("%s free on %s, %s needed; free space there, or keep fewer snapshots on the node", bytesText(e.Free), e.Path, bytesText(e.Needed))
}

// CorruptError says that a snapshot file is not what it should be.
type CorruptError struct {
	Path   string
	Reason string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("snapshot %s %s", e.Path, e.Reason) }

// Unstage removes the staging directories and what a stage that broke off left behind.
func (d *Dirs) Unstage(ctx context.Context) error {
	for _, s := range d.slots {
		for _, dir := range []string{s.staging, s.staging + ".tmp"} { // etcd makes a WAL under the latter name
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := durable.RemoveAll(dir); err != nil {
				return fmt.Errorf("remove staging directory: %w", err)
			}
		}
	}
	return nil
}
