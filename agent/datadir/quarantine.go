package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
)

// RemoveQuarantine deletes a quarantine directory, which may be gone already. It refuses any directory
// that is not named like one or that does not hold the marker of a complete one, and one that somebody uses. A
// removal that broke off is taken up again: the marker goes last, and an empty directory needs none.
func RemoveQuarantine(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := checkQuarantine(path, info); err != nil {
		return err
	}
	if err := unused(ctx, path); err != nil {
		return fmt.Errorf("%s is not removed: %w", path, err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Name() == markerName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return fmt.Errorf("remove quarantine: %w", err)
		}
	}
	if err := durable.SyncDir(path); err != nil {
		return err
	}
	return durable.RemoveAll(path)
}

// unused fails with a *HeldError if somebody runs an etcd on the old data: a person who brings it back by hand.
func unused(ctx context.Context, path string) error {
	if err := Free(ctx, path, "", nil); err != nil {
		return err
	}
	return Free(ctx, path, path, nil) // that of a WAL directory holds the log itself
}

func checkQuarantine(path string, info fs.FileInfo) error {
	refuse := func(reason string) error {
		return fmt.Errorf("%s %s; it is not removed", path, reason)
	}
	if !filepath.IsAbs(path) || !info.IsDir() {
		return refuse("is no directory with an absolute path")
	}
	m, err := readMarker(path)
	if err != nil {
		return err
	}
	if m == nil {
		if left, err := os.ReadDir(path); err != nil || len(left) == 0 && named(filepath.Base(path)) {
			return err // the marker was removed and the directory was to follow
		}
		return refuse("does not hold " + markerName)
	}
	base := filepath.Base(path)
	sibling := base == filepath.Base(m.From)+quarantineInfix+m.RestoreID
	hidden := base == hiddenQuarantine+m.RestoreID && strings.HasPrefix(base, hiddenPrefix)
	if m.RestoreID == "" || !sibling && !hidden {
		return refuse(fmt.Sprintf("is not named as the quarantine of restore %q", m.RestoreID))
	}
	return nil
}

// named tells whether base is a name of some restore's quarantine directory.
func named(base string) bool {
	from, id, found := strings.Cut(base, quarantineInfix)
	if hidden, is := strings.CutPrefix(base, hiddenQuarantine); is {
		from, id, found = base, hidden, true
	}
	return found && from != "" && names.Check("restore", id) == nil
}

// Old is where a member's data is that was put into quarantine.
type Old struct {
	Member string // what was the entry "member" of the data directory
	WAL    string // directory of the write-ahead log
}

// DB returns the path of the old database file.
func (o Old) DB() string { return filepath.Join(o.Member, "snap", "db") }

// Old returns where the old data is. It fails with fs.ErrNotExist if none was put into quarantine.
func (d *Dirs) Old() (Old, error) {
	o := Old{Member: filepath.Join(d.slots[0].quarantine, memberEntry)}
	o.WAL = filepath.Join(o.Member, "wal")
	if len(d.slots) > 1 {
		o.WAL = d.slots[1].quarantine
	}
	_, err := os.Stat(o.DB())
	return o, err
}

// Scratch returns a directory on the data's file system that Unstage removes. It is free once the staged data is
// live.
func (d *Dirs) Scratch() string { return d.slots[0].staging }
