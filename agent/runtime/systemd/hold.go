package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/requorum/requorum/internal/durable"
)

// unitDir is where an administrator's units and drop-ins are, which survive a reboot and come before a package's.
const unitDir = "/etc/systemd/system"

// The drop-ins. Their names sort behind others, which might reset what they set.
const (
	stoppedDropIn  = "zz-requorum-stopped.conf"
	startingDropIn = "zz-requorum-starting.conf"
	joinDropIn     = "zz-requorum-join.conf"
)

// hold is what the runtime wants of a unit.
type hold int

const (
	free     hold = iota // nothing; systemd decides
	stopped              // it stays stopped
	starting             // it was held, and its start has begun
)

func (u *unit) dropIn(name string) string { return filepath.Join(unitDir, u.name+".d", name) }

// readHold returns what the runtime wants of the unit.
func (u *unit) readHold() (hold, error) {
	for _, h := range []struct {
		file string
		hold hold
	}{{stoppedDropIn, stopped}, {startingDropIn, starting}} {
		_, err := os.Stat(u.dropIn(h.file))
		if err == nil {
			return h.hold, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return free, err
		}
	}
	return free, nil
}

// keepStopped makes every start of the unit fail, over reboots too.
func (u *unit) keepStopped(ctx context.Context, conn *dbus.Conn) error {
	path := u.dropIn(stoppedDropIn)
	content := "# requorum keeps this unit stopped for a restore. Its agent takes this file away when it starts the unit again.\n" +
		"[Unit]\nAssertPathExists=!" + escapeSpecifiers(path) + "\n"
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keep %s stopped: %w", u.name, err)
	}
	if err := durable.WriteFile(path, []byte(content), 0o644); err != nil {
		return fmt.Errorf("keep %s stopped: %w", u.name, err)
	}
	return u.removeDropIns(ctx, conn, joinDropIn, startingDropIn)
}

// allowStart lifts what keepStopped did and remembers that the unit is to be started, for the agent might die before it
// is. The assertion is about the path, so that it holds as soon as the file has another name.
func (u *unit) allowStart() error {
	h, err := u.readHold()
	if err != nil || h != stopped {
		return err
	}
	return durable.Rename(u.dropIn(stoppedDropIn), u.dropIn(startingDropIn))
}

// removeDropIns removes drop-ins, and their directory if nothing else is in it, and lets systemd read its units again.
func (u *unit) removeDropIns(ctx context.Context, conn *dbus.Conn, names ...string) error {
	for _, name := range names {
		if err := durable.Remove(u.dropIn(name)); err != nil {
			return err
		}
	}
	dir := filepath.Dir(u.dropIn(stoppedDropIn))
	left, err := os.ReadDir(dir)
	if err == nil && len(left) == 0 {
		err = durable.Remove(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("let systemd read its units again: %w", err)
	}
	return nil
}
