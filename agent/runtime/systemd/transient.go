package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Transient is a program that systemd runs for a while as a unit of its own, outside of the agent's restrictions.
type Transient struct {
	Unit        string   // its name
	Description string   // for people
	Command     []string // with an absolute path
	Env         []string // as NAME=value
	Conflicts   string   // unit before whose start systemd ends this one
}

// endTimeout is how long systemd may take to end a transient unit.
const endTimeout = time.Minute

// While runs do once systemd has started the program of t, which is no proof that it runs yet. One that an agent left behind which died meanwhile is ended first. The program
// is ended afterwards, also where ctx has ended.
func (t Transient) While(ctx context.Context, do func() error) error {
	t.Unit, t.Conflicts = withSuffix(t.Unit), withSuffix(t.Conflicts)
	return connected(ctx, func(conn *dbus.Conn) (err error) {
		if err := t.end(ctx, conn); err != nil {
			return err
		}
		if err := t.begin(ctx, conn); err != nil {
			return err
		}
		defer func() {
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
			defer cancel()
			err = errors.Join(err, t.end(ending, conn))
		}()
		return do()
	})
}

func (t Transient) begin(ctx context.Context, conn *dbus.Conn) error {
	set := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	done := make(chan string, 1)
	_, err := conn.StartTransientUnitContext(ctx, t.Unit, "replace", []dbus.Property{
		dbus.PropDescription(t.Description), dbus.PropType("simple"), dbus.PropExecStart(t.Command, false), set("Environment", t.Env),
		dbus.PropConflicts(t.Conflicts), dbus.PropBefore(t.Conflicts), set("CollectMode", "inactive-or-failed"),
	}, done)
	if err != nil {
		return fmt.Errorf("start %s: %w", t.Unit, err)
	}
	return t.wait(ctx, done, "started")
}

// end stops the unit. One that is not there is no failure.
func (t Transient) end(ctx context.Context, conn *dbus.Conn) error {
	if _, err := load(ctx, conn, t.Unit); errors.Is(err, ErrNoUnit) {
		return nil
	} else if err != nil {
		return err
	}
	done := make(chan string, 1)
	if _, err := conn.StopUnitContext(ctx, t.Unit, "replace", done); err != nil {
		if isUnknown(err) {
			return nil // it has ended meanwhile
		}
		return fmt.Errorf("stop %s: %w", t.Unit, err)
	}
	return t.wait(ctx, done, "stopped")
}

func (t Transient) wait(ctx context.Context, done <-chan string, what string) error {
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("%s is not %s: %s; see journalctl -u %s", t.Unit, what, result, t.Unit)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until %s has %s: %w", t.Unit, what, context.Cause(ctx))
	}
}

// isUnknown tells whether systemd failed because it does not know the unit.
func isUnknown(err error) bool {
	var failed godbus.Error
	return errors.As(err, &failed) && failed.Name == "org.freedesktop.systemd1.NoSuchUnit"
}
