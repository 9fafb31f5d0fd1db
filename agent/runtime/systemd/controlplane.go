package systemd

import (
	"context"
	"errors"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// askTimeout is how long systemd may take to say which units there are.
const askTimeout = 10 * time.Second

// ControlPlane returns the units of the control plane that are there. Where systemd cannot be asked it returns all that
// might be.
func (r *Runtime) ControlPlane() []string {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var names []string
	err := connected(ctx, func(conn *dbus.Conn) (err error) {
		names, err = r.controlPlane(ctx, conn)
		return err
	})
	if err != nil {
		r.o.Log.Warn("it cannot be told which units of the control plane there are", "error", err)
		return r.o.ControlPlane
	}
	return names
}

func (r *Runtime) controlPlane(ctx context.Context, conn *dbus.Conn) (names []string, err error) {
	err = r.eachControlPlane(ctx, conn, func(u *unit) error {
		names = append(names, u.name)
		return nil
	})
	return names, err
}

// StopControlPlane stops the units that run or come up at boot, and keeps them stopped.
func (r *Runtime) StopControlPlane(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return connected(ctx, func(conn *dbus.Conn) error {
		return r.eachControlPlane(ctx, conn, func(u *unit) error {
			h, err := u.readHold()
			if err != nil || h == free && !u.isWanted() {
				return err
			}
			return r.stopUnit(ctx, conn, u)
		})
	})
}

// StartControlPlane starts the units that StopControlPlane stopped, and no other.
func (r *Runtime) StartControlPlane(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return connected(ctx, func(conn *dbus.Conn) error {
		return r.eachControlPlane(ctx, conn, func(u *unit) error {
			h, err := u.readHold()
			if err != nil || h == free {
				return err
			}
			return startUnit(ctx, conn, u)
		})
	})
}

// eachControlPlane calls do for every unit of the control plane that is there, in order.
func (r *Runtime) eachControlPlane(ctx context.Context, conn *dbus.Conn, do func(*unit) error) error {
	for _, name := range r.o.ControlPlane {
		u, err := load(ctx, conn, name)
		if errors.Is(err, ErrNoUnit) {
			continue
		}
		if err != nil {
			return err
		}
		if err := do(u); err != nil {
			return err
		}
	}
	return nil
}
