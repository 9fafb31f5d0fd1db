package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/fault"
	"github.com/requorum/requorum/internal/names"
)

const (
	same      = requorumv1.FileState_FILE_STATE_SAME
	different = requorumv1.FileState_FILE_STATE_DIFFERENT
	missing   = requorumv1.FileState_FILE_STATE_MISSING
)

var (
	restoreHalf = fault.Declare("agent/files/restore/half", "the first file is written back, the others are as they were")
	undoHalf    = fault.Declare("agent/files/undo/half", "the last file is put back, the others are not")
)

// before is what was in a place before a restore changed it.
type before struct {
	Path      string      `json:"path"`
	Directory bool        `json:"directory,omitempty"`
	Existed   bool        `json:"existed,omitempty"`
	Mode      fs.FileMode `json:"mode,omitempty"` // of a directory that existed
	UID       int         `json:"uid,omitempty"`
	GID       int         `json:"gid,omitempty"`
}

// Compare tells how the files on the node compare with those of a bundle. It changes nothing, and fails where Restore
// would, before it has changed anything.
func (k *Keeper) Compare(ctx context.Context, name string, b *requorumv1.Bundle) ([]*requorumv1.PlannedFile, error) {
	data, err := k.Open(name, b, "")
	if err != nil {
		return nil, err
	}
	return k.CompareData(ctx, name, b, data)
}

// CompareData is Compare for a bundle that is not on the disk.
func (k *Keeper) CompareData(ctx context.Context, name string, b *requorumv1.Bundle, data []byte) ([]*requorumv1.PlannedFile, error) {
	all, err := opened(name+suffix, b, data)
	if err != nil {
		return nil, err
	}
	return k.compare(ctx, all)
}

func (k *Keeper) compare(ctx context.Context, all []entry) ([]*requorumv1.PlannedFile, error) {
	var found []*requorumv1.PlannedFile
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		state, _, err := k.look(e)
		if err != nil {
			return nil, err
		}
		found = append(found, &requorumv1.PlannedFile{Path: e.path, State: state})
	}
	return found, nil
}

// look compares one file, and tells what is in its place.
func (k *Keeper) look(e entry) (requorumv1.FileState, *before, error) {
	at, err := k.Sets.locate(e.path)
	if err != nil {
		return different, nil, err
	}
	state, was, err := lookAt(at, e)
	return state, was, errors.Join(err, at.root.Close())
}

func lookAt(at place, e entry) (requorumv1.FileState, *before, error) {
	was := &before{Path: e.path, Directory: e.directory}
	info, err := at.root.Lstat(at.rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing, was, nil
	case err != nil:
		return different, nil, err
	case info.IsDir() != e.directory || !info.IsDir() && !info.Mode().IsRegular():
		return different, nil, refused("move it away, then try again", "%s is %s, which is not replaced", e.path, kindOf(info.Mode()))
	}
	there := describe(e.path, info)
	was.Existed, was.Mode, was.UID, was.GID = true, there.mode, there.uid, there.gid
	if there.mode != e.mode || there.uid != e.uid || there.gid != e.gid || !e.directory && info.Size() != int64(len(e.data)) {
		return different, was, nil
	}
	if e.directory {
		return same, was, nil
	}
	data, _, err := read(at)
	if err != nil || !bytes.Equal(data, e.data) {
		return different, was, err
	}
	return same, was, nil
}

// Restore writes the files of a bundle back. What it replaces stays beside them; files that the bundle does not list
// stay as they are. It may be called again after a crash. Until all places were looked at nothing is changed.
func (k *Keeper) Restore(ctx context.Context, id, name string, b *requorumv1.Bundle) error {
	all, err := k.toRestore(id, name, b)
	if err != nil {
		return err
	}
	changes, err := k.plan(id, all)
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		at := slices.IndexFunc(changes, func(w *before) bool { return w.Path == e.path })
		if at < 0 {
			continue
		}
		if err := k.put(id, e, changes[at]); err != nil {
			return fmt.Errorf("write %s: %w", e.path, err)
		}
		if at > 0 {
			continue
		}
		if err := fault.At(ctx, restoreHalf); err != nil {
			return err
		}
	}
	return nil
}

// plan returns what has to be changed, as it is before that. It is written down first, so that Undo knows it.
func (k *Keeper) plan(id string, all []entry) ([]*before, error) {
	path, err := k.record(id)
	if err != nil {
		return nil, err
	}
	var changes []*before
	if found, err := durable.ReadJSON(path, &changes); found || err != nil {
		return changes, err
	}
	for _, e := range all {
		state, was, err := k.look(e)
		if err != nil {
			return nil, err
		}
		if state != same {
			changes = append(changes, was)
		}
	}
	if err := durable.MkdirAll(k.Records, 0o700); err != nil {
		return nil, err
	}
	return changes, durable.WriteJSON(path, changes)
}

func (k *Keeper) record(id string) (string, error) {
	return filepath.Join(k.Records, id+".json"), names.Check("restore", id)
}

// changes returns what a restore has written down, and where; no path where it has not come to that, or is forgotten.
func (k *Keeper) changes(id string) (path string, changes []*before, err error) {
	if path, err = k.record(id); err != nil {
		return "", nil, err
	}
	if found, err := durable.ReadJSON(path, &changes); !found || err != nil {
		return "", nil, err
	}
	return path, changes, nil
}

// quarantinePrefix begins the names of the files that a restore has replaced.
func quarantinePrefix(id string) string { return ownPrefix + "quarantine-" + id + "-" }

// keptAs is where a file is that a restore has replaced.
func (was *before) keptAs(id string) string {
	return filepath.Join(filepath.Dir(was.Path), quarantinePrefix(id)+filepath.Base(was.Path))
}

// Old returns the paths under which the files are kept that a restore has replaced.
func (k *Keeper) Old(id string) ([]string, error) {
	_, changes, err := k.changes(id)
	var kept []string
	for _, was := range changes {
		if !was.Directory && was.Existed {
			kept = append(kept, was.keptAs(id))
		}
	}
	return kept, err
}

// RemoveOld removes the files that a restore has replaced, and what was written down of it, so that it cannot be undone any
// more. Only where the configuration allows it, as anything else.
func (k *Keeper) RemoveOld(ctx context.Context, id string) error {
	path, changes, err := k.changes(id)
	if err != nil || path == "" {
		return err
	}
	for _, was := range changes {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if was.Directory || !was.Existed {
			continue
		}
		if err := k.removeKept(id, was); err != nil {
			return fmt.Errorf("remove %s: %w", was.keptAs(id), err)
		}
	}
	return durable.Remove(path)
}

func (k *Keeper) removeKept(id string, was *before) error {
	if _, err := os.Lstat(was.keptAs(id)); errors.Is(err, fs.ErrNotExist) {
		return nil // a person was faster
	}
	at, err := k.Sets.locate(was.Path)
	if err != nil {
		return err
	}
	err = at.root.Remove(at.sibling(quarantinePrefix(id)))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = at.syncDir()
	}
	return errors.Join(err, at.root.Close())
}

// put makes one place what the bundle says.
func (k *Keeper) put(id string, e entry, was *before) error {
	at, err := k.Sets.locate(e.path)
	if err != nil {
		return err
	}
	if e.directory {
		err = makeDir(at, e)
	} else {
		err = replace(at, id, e, was)
	}
	return errors.Join(err, at.root.Close())
}

func makeDir(at place, e entry) error {
	if err := at.root.Mkdir(at.rel, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := own(at.root, at.rel, e.uid, e.gid, e.mode); err != nil {
		return err
	}
	return at.syncDir()
}

// own gives a file or directory its owner and mode; in this order, since a change of owner may take bits of the mode.
func own(root *os.Root, rel string, uid, gid int, mode fs.FileMode) error {
	if err := root.Lchown(rel, uid, gid); err != nil {
		return err
	}
	return root.Chmod(rel, mode)
}

// replace puts a file in place by rename. The old one gets a second name before, so that there is a file at any time.
func replace(at place, id string, e entry, was *before) error {
	part, kept := at.sibling(ownPrefix+"restore-"+id+"-"), at.sibling(quarantinePrefix(id))
	if err := write(at.root, part, e); err != nil {
		return err
	}
	if was.Existed {
		if err := at.root.Link(at.rel, kept); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := at.syncDir(); err != nil {
			return err
		}
	}
	if err := at.root.Rename(part, at.rel); err != nil {
		return err
	}
	return at.syncDir()
}

func write(root *os.Root, rel string, e entry) error {
	if err := root.Remove(rel); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(e.data)
	if err == nil {
		err = own(root, rel, e.uid, e.gid, e.mode)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Undo puts back what was there before a restore, which may have done all, some or nothing.
func (k *Keeper) Undo(ctx context.Context, id string) error {
	path, changes, err := k.changes(id)
	if err != nil || path == "" {
		return err
	}
	slices.Reverse(changes) // what is in a directory before the directory
	for i, was := range changes {
		if err := k.putBack(id, was); err != nil {
			return fmt.Errorf("put %s back: %w", was.Path, err)
		}
		if i > 0 {
			continue
		}
		if err := fault.At(ctx, undoHalf); err != nil {
			return err
		}
	}
	return durable.Remove(path)
}

func (k *Keeper) putBack(id string, was *before) error {
	at, err := k.Sets.locate(was.Path)
	if err != nil {
		return err
	}
	err = undo(at, id, was)
	return errors.Join(err, at.root.Close())
}

// takeBack puts a file that was kept back in its place. Where the restore has not come to replace it both names are of
// one file, and a rename would leave both.
func takeBack(at place, kept string) error {
	if err := at.root.Rename(kept, at.rel); err != nil {
		return err
	}
	err := at.root.Remove(kept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func undo(at place, id string, was *before) error {
	var err error
	switch {
	case was.Directory && was.Existed:
		err = own(at.root, at.rel, was.UID, was.GID, was.Mode)
	case was.Existed:
		err = takeBack(at, at.sibling(quarantinePrefix(id)))
	default:
		err = at.root.Remove(at.rel)
	}
	if was.Directory && !was.Existed && errors.Is(err, unix.ENOTEMPTY) {
		return nil // somebody has put something there, which is not ours to remove
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it had not come to that
		return err
	}
	if !was.Directory {
		if err := at.root.Remove(at.sibling(ownPrefix + "restore-" + id + "-")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err = at.syncDir()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
