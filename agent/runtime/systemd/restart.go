package systemd

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Restart restarts a unit, or starts it, and returns once systemd says that it is up.
func Restart(ctx context.Context, unit string) error {
	unit = withSuffix(unit)
	return connected(ctx, func(conn *dbus.Conn) error {
		done := make(chan string, 1)
		if _, err := conn.RestartUnitContext(ctx, unit, "replace", done); err != nil {
			return fmt.Errorf("restart %s: %w", unit, err)
		}
		select {
		case result := <-done:
			if result != "done" {
				return fmt.Errorf("restart %s: %s; see systemctl status %s", unit, result, unit)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait until %s has restarted: %w", unit, context.Cause(ctx))
		}
	})
}

// Check fails with ErrNotInit where systemd does not run the host, and with ErrNoUnit, or why systemd could not load it,
// where the unit cannot be used.
func Check(ctx context.Context, unit string) error {
	return connected(ctx, func(conn *dbus.Conn) error {
		_, err := load(ctx, conn, withSuffix(unit))
		return err
	})
}
