package systemd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/internal/durable"
)

// Start lets systemd start the unit, which does as its files say again. It returns once the program runs: a unit of
// Type=notify is ready only when the member has a leader, which it has not before other nodes have started theirs.
func (r *Runtime) Start(ctx context.Context) error {
	return r.changing(ctx, func(conn *dbus.Conn, u *unit) error {
		if err := u.removeDropIns(ctx, conn, joinDropIn); err != nil {
			return err
		}
		return startUnit(ctx, conn, u)
	})
}

// StartJoining starts etcd by a drop-in that replaces the unit's ExecStart. It fails with etcdconf.ErrConfigFile if
// etcd is configured by a file.
func (r *Runtime) StartJoining(ctx context.Context, initialCluster string) error {
	return r.changing(ctx, func(conn *dbus.Conn, u *unit) error {
		content, err := u.joining(initialCluster)
		if err != nil {
			return fmt.Errorf("start etcd as a joining member: %w", err)
		}
		path := u.dropIn(joinDropIn)
		if err := durable.MkdirAll(unitDir+"/"+u.name+".d", 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
		return startUnit(ctx, conn, u)
	})
}

// joining returns the drop-in that makes the unit join a cluster.
func (u *unit) joining(initialCluster string) (string, error) {
	args, env, err := u.command()
	if err != nil {
		return "", err
	}
	joinArgs, joinEnv, err := etcdconf.Joining(args, env, initialCluster)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("# requorum lets this member join a cluster. Its agent takes this file away when it starts or stops the unit again.\n[Service]\nExecStart=\nExecStart=")
	words := append([]string{u.argv[0]}, joinArgs...)
	if u.argv[0] != u.path {
		b.WriteString("@" + quote(u.path) + " ")
	}
	for i, w := range words {
		words[i] = quote(w)
	}
	b.WriteString(strings.Join(words, " ") + "\n")
	for _, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); !slices.Contains(joinEnv, kv) {
			b.WriteString("UnsetEnvironment=" + name + "\n")
		}
	}
	return b.String(), nil
}

// quote writes an argument so that systemd reads it as it is.
func quote(arg string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", "$$", "%", "%%", "\n", `\n`, "\t", `\t`)
	return `"` + r.Replace(arg) + `"`
}

func escapeSpecifiers(path string) string { return strings.ReplaceAll(path, "%", "%%") }

// startUnit starts a unit that may have been held, and returns once its program runs or has run. A unit that runs goes
// on.
func startUnit(ctx context.Context, conn *dbus.Conn, u *unit) error {
	if err := u.allowStart(); err != nil {
		return err
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("let systemd read its units again: %w", err)
	}
	// Also forgets how often it was started lately, which systemd limits (StartLimitBurst=). One that did not fail has
	// nothing to forget and may be unknown to systemd by now.
	if err := conn.ResetFailedUnitContext(ctx, u.name); err != nil && u.active == "failed" {
		return fmt.Errorf("reset %s: %w", u.name, err)
	}
	done := make(chan string, 1)
	if _, err := conn.StartUnitContext(ctx, u.name, "replace", done); err != nil {
		return fmt.Errorf("start %s: %w", u.name, err)
	}
	if err := waitStarted(ctx, conn, u, done); err != nil {
		return err
	}
	return u.removeDropIns(ctx, conn, startingDropIn)
}

// errNotStarted says what systemd says of a start that failed before the unit's program ran.
var errNotStarted = errors.New("systemd did not start it")

func waitStarted(ctx context.Context, conn *dbus.Conn, before *unit, done <-chan string) error {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	result := ""
	for {
		u, err := load(ctx, conn, before.name)
		if err != nil {
			return err
		}
		switch ran := u.started > before.started; { // a unit that systemd has dropped meanwhile says 0
		case u.active == "active", u.active == "activating" && u.mainPID != 0 && ran, result != "" && ran:
			return nil // or it has ended again, which Alive tells
		case result == "done":
			return fmt.Errorf("start %s: %w: a condition of the unit does not hold; see systemctl status %s", u.name, errNotStarted, u.name)
		case result != "":
			return fmt.Errorf("start %s: %w: %s, %s; see systemctl status %s", u.name, errNotStarted, result, u.result, u.name)
		}
		select {
		case result = <-done:
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s has started: %w", u.name, context.Cause(ctx))
		}
	}
}
