package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/datadir"
)

// lookInterval is how often it is looked what became of a unit.
const lookInterval = 50 * time.Millisecond

// changing runs do with the unit, one at a time.
func (r *Runtime) changing(ctx context.Context, do func(*dbus.Conn, *unit) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return connected(ctx, func(conn *dbus.Conn) error {
		u, err := load(ctx, conn, r.o.Unit)
		if err != nil {
			return err
		}
		return do(conn, u)
	})
}

// Stop lets systemd stop the unit and keeps it stopped. What lingers after the grace is killed. It returns once no
// process of the unit is left and nothing holds the member's data and ports.
func (r *Runtime) Stop(ctx context.Context) error {
	return r.changing(ctx, func(conn *dbus.Conn, u *unit) error {
		m, err := r.member(u) // before anything is changed, for without it it cannot be told that the data is free
		if err != nil {
			return err
		}
		if err := r.stopUnit(ctx, conn, u); err != nil {
			return err
		}
		return datadir.WaitFree(ctx, m.DataDir, m.WALDir, m.ListenURLs())
	})
}

// StopUnit is Stop, but whether something else than the unit holds the member's data is the caller's to find out.
func (r *Runtime) StopUnit(ctx context.Context) error {
	return r.changing(ctx, func(conn *dbus.Conn, u *unit) error { return r.stopUnit(ctx, conn, u) })
}

// stopUnit stops a unit for good and returns once none of its processes is left.
func (r *Runtime) stopUnit(ctx context.Context, conn *dbus.Conn, u *unit) error {
	if err := u.keepStopped(ctx, conn); err != nil {
		return err
	}
	done := make(chan string, 1)
	if _, err := conn.StopUnitContext(ctx, u.name, "replace", done); err != nil {
		return fmt.Errorf("stop %s: %w", u.name, err)
	}
	grace := time.NewTimer(r.o.Grace)
	defer grace.Stop()
	signal := unix.SIGTERM
	select {
	case <-done: // whatever it says, its processes are looked at
	case <-grace.C:
		signal = unix.SIGKILL
	case <-ctx.Done():
		return fmt.Errorf("wait until %s has stopped: %w", u.name, context.Cause(ctx))
	}
	return r.endProcesses(ctx, conn, u.name, signal, grace)
}

// endProcesses ends what systemd has left of a unit, as it does with KillMode=process or none, or what lingers, and waits
// for its end. Once grace has passed it kills.
func (r *Runtime) endProcesses(ctx context.Context, conn *dbus.Conn, name string, signal unix.Signal, grace *time.Timer) error {
	told := map[int]unix.Signal{}
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		u, err := load(ctx, conn, name)
		if err != nil {
			return err
		}
		left, err := r.processes(u)
		if err != nil {
			return err
		}
		stopping := u.active == "deactivating"
		if len(left) == 0 && !stopping {
			return nil
		}
		if !stopping || signal == unix.SIGKILL {
			if err := r.signalAll(name, left, signal, told); err != nil {
				return err
			}
		}
		select {
		case <-look.C:
		case <-grace.C:
			signal = unix.SIGKILL
		case <-ctx.Done():
			return fmt.Errorf("processes %v of %s do not end: %w", left, name, context.Cause(ctx))
		}
	}
}

// signalAll sends a signal to the processes that were not sent it yet.
func (r *Runtime) signalAll(unit string, pids []int, signal unix.Signal, told map[int]unix.Signal) error {
	for _, pid := range pids {
		if told[pid] == signal {
			continue
		}
		told[pid] = signal
		r.o.Log.Warn("systemd has not ended a process of the unit in time; it is sent a signal", "unit", unit, "pid", pid, "signal", unix.SignalName(signal))
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d of %s: %w", pid, unit, err)
		}
	}
	return nil
}
