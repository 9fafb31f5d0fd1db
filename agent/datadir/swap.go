package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/fault"
)

// Where a test may let the process fail: the old data is in quarantine and nothing restored is live yet,
// or the restored data is out and nothing old is back yet.
var (
	halfSwapped     = fault.Declare("agent/datadir/swap/half", "old data is in quarantine, restored data is not live yet")
	halfSwappedBack = fault.Declare("agent/datadir/swap-back/half", "restored data is taken out, old data is not live yet")
)

// ErrNotStaged says that there is no complete staged data to swap in.
var ErrNotStaged = errors.New("nothing is staged completely")

// Swap renames the live data to quarantine and the staged data to live. etcd must be stopped, or it
// fails with a *HeldError. After a
// crash it is run again, or SwapBack is. Swapping what is swapped changes nothing.
func (d *Dirs) Swap(ctx context.Context) (*agentv1.Swapped, error) {
	for _, s := range d.slots {
		if err := s.checkSwappable(); err != nil {
			return nil, fmt.Errorf("swap %s: %w", s.dir, err)
		}
	}
	pending, err := d.swapPending()
	if err == nil && pending {
		err = d.checkStopped(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("swap: %w", err)
	}
	for _, s := range d.slots {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := d.swapSlot(ctx, s); err != nil {
			return nil, fmt.Errorf("swap %s: %w", s.dir, err)
		}
	}
	return &agentv1.Swapped{QuarantinePaths: d.QuarantinePaths()}, nil
}

// swapPending tells whether Swap has anything left to rename.
func (d *Dirs) swapPending() (bool, error) {
	for _, s := range d.slots {
		m, err := readMarker(s.quarantine)
		if m == nil || err != nil {
			return true, err
		}
		staged, err := s.entries(s.staging)
		if len(staged) > 0 || err != nil {
			return true, err
		}
	}
	return false, nil
}

// checkStopped fails with a *HeldError if etcd runs: it would go on writing to what is renamed.
func (d *Dirs) checkStopped(ctx context.Context) error {
	wal := ""
	if len(d.slots) > 1 {
		wal = d.slots[1].dir
	}
	return Free(ctx, d.slots[0].dir, wal, nil)
}

// checkSwappable fails before anything is moved if the slot has nothing to swap in.
func (s *slot) checkSwappable() error {
	m, err := readMarker(s.quarantine)
	if m != nil || err != nil {
		return err
	}
	c, err := readCompletion(s.staging)
	if err != nil {
		return err
	}
	if c == nil {
		return fmt.Errorf("%w in %s", ErrNotStaged, s.staging)
	}
	staged, err := s.entries(s.staging)
	if err != nil {
		return err
	}
	if !slices.Equal(staged, c.Entries) || !containsAll(staged, s.only) {
		return fmt.Errorf("%w in %s: it holds %q, not %q", ErrNotStaged, s.staging, staged, c.Entries)
	}
	return nil
}

// swapSlot first moves everything old to quarantine and says so durably; only then restored data comes
// in. Whatever is in the live directory without that marker is therefore old, and with it restored.
func (d *Dirs) swapSlot(ctx context.Context, s *slot) error {
	m, err := readMarker(s.quarantine)
	if err != nil {
		return err
	}
	if m == nil {
		if m, err = d.quarantineOld(s); err != nil {
			return err
		}
		if err := fault.At(ctx, halfSwapped); err != nil {
			return err
		}
	}
	if err := d.makeDir(s, s.dir, m.Missing); err != nil {
		return err
	}
	if err := d.moveAll(s, s.staging, s.dir); err != nil {
		return err
	}
	live, err := s.entries(s.dir)
	if err != nil {
		return err
	}
	if !containsAll(live, m.Restored) {
		return fmt.Errorf("it holds %q, but %q was staged and is not in %s any more; the old data is safe in %s, swap it back", live, m.Restored, s.staging, s.quarantine)
	}
	return d.removeStagingShell(s)
}

func (d *Dirs) quarantineOld(s *slot) (*marker, error) {
	c, err := readCompletion(s.staging)
	if err != nil {
		return nil, err
	}
	_, err = os.Lstat(s.dir)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, err
	}
	if err := d.makeDir(s, s.quarantine, true); err != nil {
		return nil, err
	}
	if err := d.moveAll(s, s.dir, s.quarantine); err != nil {
		return nil, err
	}
	old, err := s.entries(s.quarantine)
	if err != nil {
		return nil, err
	}
	m := &marker{
		What:      "etcd's data from before a restore by requorum; it can be used as it is",
		RestoreID: d.restoreID, From: s.dir, Quarantined: time.Now().UTC(),
		Missing: missing, Old: old, Restored: c.Entries,
	}
	return m, d.step("mark "+s.quarantine, func() error { return durable.WriteJSON(filepath.Join(s.quarantine, markerName), m) })
}

// SwapBack puts the old data back and the restored data to staging. etcd must be stopped, or it fails
// with a *HeldError. After a crash
// it is run again, or Swap is. Where nothing is swapped it changes nothing.
func (d *Dirs) SwapBack(ctx context.Context) error {
	pending, err := d.HasQuarantine()
	if err == nil && pending {
		err = d.checkStopped(ctx)
	}
	if err != nil {
		return fmt.Errorf("swap back: %w", err)
	}
	for _, s := range slices.Backward(d.slots) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.swapSlotBack(ctx, s); err != nil {
			return fmt.Errorf("swap back %s: %w", s.dir, err)
		}
	}
	return nil
}

func (d *Dirs) swapSlotBack(ctx context.Context, s *slot) error {
	m, err := readMarker(s.quarantine)
	if err != nil {
		return err
	}
	if m != nil {
		if err := d.removeRestored(s, m); err != nil {
			return err
		}
		if err := fault.At(ctx, halfSwappedBack); err != nil {
			return err
		}
	}
	if err := d.returnOld(s); err != nil {
		return err
	}
	return d.removeDir(s.quarantine)
}

func (d *Dirs) returnOld(s *slot) error {
	old, err := s.entries(s.quarantine)
	if err != nil || len(old) == 0 {
		return err
	}
	if err := d.makeDir(s, s.dir, false); err != nil {
		return err
	}
	return d.moveAll(s, s.quarantine, s.dir)
}

// removeRestored moves the restored data out of the live directory and then removes the marker.
func (d *Dirs) removeRestored(s *slot, m *marker) error {
	if err := d.makeDir(s, s.staging, true); err != nil {
		return err
	}
	if err := d.moveAll(s, s.dir, s.staging); err != nil {
		return err
	}
	staged, err := s.entries(s.staging)
	if err != nil {
		return err
	}
	c := completion{RestoreID: d.restoreID, Entries: staged}
	if err := d.step("mark "+s.staging, func() error { return durable.WriteJSON(filepath.Join(s.staging, completionName), c) }); err != nil {
		return err
	}
	if m.Missing {
		if err := d.removeDir(s.dir); err != nil {
			return err
		}
	}
	return d.step("unmark "+s.quarantine, func() error { return durable.Remove(filepath.Join(s.quarantine, markerName)) })
}

// moveAll renames every entry of the slot from one directory to another, never over anything, and makes
// that durable.
func (d *Dirs) moveAll(s *slot, from, to string) error {
	moving, err := s.entries(from)
	if err != nil || len(moving) == 0 {
		return err
	}
	for _, e := range moving {
		source, target := filepath.Join(from, e), filepath.Join(to, e)
		if err := d.step("rename "+source, func() error { return durable.RenameNew(source, target) }); err != nil {
			return err
		}
	}
	return errors.Join(durable.SyncDir(to), durable.SyncDir(from))
}

// makeDir makes a directory unless it is there; owned tells that it is ours and belongs to etcd in any
// case, so that a crash between making it and giving it away leaves nothing wrong.
func (d *Dirs) makeDir(s *slot, dir string, owned bool) error {
	_, err := os.Lstat(dir)
	if err == nil && !owned {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.step("mkdir "+dir, func() error {
		if err := durable.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := own(dir, d.uid, d.gid, 0o700); err != nil {
			return err
		}
		label, err := labelOf(s.dir, s.only)
		if err != nil {
			return err
		}
		if err := setLabel(dir, label); err != nil {
			return err
		}
		return errors.Join(durable.SyncDir(dir), durable.SyncDir(filepath.Dir(dir)))
	})
}

// removeDir removes a directory of ours that is empty now. What a person has put there stays.
func (d *Dirs) removeDir(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return d.step("rmdir "+dir, func() error {
		err := os.Remove(dir)
		switch {
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		return durable.SyncDir(filepath.Dir(dir))
	})
}

// removeStagingShell removes the staging directory once its content is live.
func (d *Dirs) removeStagingShell(s *slot) error {
	if _, err := os.Lstat(s.staging); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := d.step("unmark "+s.staging, func() error { return durable.Remove(filepath.Join(s.staging, completionName)) })
	if err != nil {
		return err
	}
	return d.removeDir(s.staging)
}

func containsAll(all, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(all, w) })
}

func (d *Dirs) step(name string, do func() error) error {
	if err := d.fault(name); err != nil {
		return err
	}
	return do()
}
