// Package exec runs etcd by the operator's own commands. They are lists of arguments and never pass
// through a shell; each gets the agent's environment and REQUORUM_MEMBER and REQUORUM_DATA_DIR.
package exec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
)

// DefaultCommandTimeout is how long a command may take.
const DefaultCommandTimeout = 2 * time.Minute

// Options say which commands to run. A command that leaves a process behind must redirect that
// process's output.
type Options struct {
	// Member is the member's configuration. UID and GID are those of its data where there is any.
	Member runtime.Member

	// Stop stops etcd so that it stays stopped over a reboot; stopping what is stopped must succeed.
	Stop []string
	// Start starts etcd, again over reboots too; starting what runs must succeed.
	Start []string
	// Status exits with 0 if etcd runs and with 3 if it does not, as in the Linux Standard Base.
	Status []string
	// Logs prints etcd's latest log lines. Optional.
	Logs []string

	// ControlPlaneStop and ControlPlaneStart stop and start what writes to etcd. Optional, but only
	// both together.
	ControlPlaneStop, ControlPlaneStart []string

	CommandTimeout time.Duration // 0 for DefaultCommandTimeout
	Log            hclog.Logger  // may be nil
}

// Runtime runs etcd by commands.
type Runtime struct{ o Options }

var (
	_ runtime.Runtime      = (*Runtime)(nil)
	_ runtime.ControlPlane = (*Runtime)(nil)
	_ runtime.Liveness     = (*Runtime)(nil)
)

// New returns a runtime for the commands in o. It runs none.
func New(o Options) (*Runtime, error) {
	for name, command := range map[string][]string{"stop": o.Stop, "start": o.Start, "status": o.Status} {
		if len(command) == 0 || command[0] == "" {
			return nil, fmt.Errorf("exec runtime: no %s command", name)
		}
	}
	if (len(o.ControlPlaneStop) == 0) != (len(o.ControlPlaneStart) == 0) {
		return nil, errors.New("exec runtime: control plane needs both a stop and a start command")
	}
	if o.Member.DataDir == "" {
		return nil, errors.New("exec runtime: no data directory")
	}
	if o.CommandTimeout == 0 {
		o.CommandTimeout = DefaultCommandTimeout
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	return &Runtime{o: o}, nil
}

// Name returns "exec".
func (r *Runtime) Name() string { return "exec" }

// Inspect returns the configuration given in Options and what the status command says.
func (r *Runtime) Inspect(ctx context.Context) (runtime.Member, error) {
	m := r.o.Member
	info, err := os.Stat(m.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return runtime.Member{}, err
	}
	if err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			m.UID, m.GID = int(stat.Uid), int(stat.Gid)
		}
	}
	m.Running, _, err = r.status(ctx)
	m.Wanted = m.Running // the commands tell no more
	return m, err
}

// lsbStopped is the exit status by which an init script says that its program is not running.
const lsbStopped = 3

func (r *Runtime) status(ctx context.Context) (running bool, output string, err error) {
	output, err = r.run(ctx, "status", r.o.Status)
	var failed *CommandError
	if errors.As(err, &failed) && failed.ExitCode == lsbStopped {
		return false, output, nil
	}
	return err == nil, output, err
}

// Stop runs the stop command, also if etcd does not run, for it may be about to be restarted, and waits
// until the status command says that etcd is stopped and nothing holds the data and the ports. It kills
// nothing by itself.
func (r *Runtime) Stop(ctx context.Context) error {
	if _, err := r.run(ctx, "stop", r.o.Stop); err != nil {
		return err
	}
	// An etcd that is just starting holds nothing yet, so that nothing is held does not say enough.
	if err := r.waitStopped(ctx); err != nil {
		return err
	}
	return datadir.WaitFree(ctx, r.o.Member.DataDir, r.o.Member.WALDir, r.o.Member.ListenURLs())
}

// statusInterval is how often the status command is asked while etcd stops.
const statusInterval = 200 * time.Millisecond

func (r *Runtime) waitStopped(ctx context.Context) error {
	again := time.NewTicker(statusInterval)
	defer again.Stop()
	for {
		running, _, err := r.status(ctx)
		if err != nil || !running {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the stop command succeeded, but the status command says that etcd runs: %w", context.Cause(ctx))
		}
	}
}

// Start runs the start command unless etcd runs.
func (r *Runtime) Start(ctx context.Context) error {
	running, _, err := r.status(ctx)
	if err != nil || running {
		return err
	}
	_, err = r.run(ctx, "start", r.o.Start)
	return err
}

// Alive returns nil while the status command says that etcd runs, otherwise an error with what it and
// the logs command print.
func (r *Runtime) Alive(ctx context.Context) error {
	running, output, err := r.status(ctx)
	if err != nil || running {
		return err
	}
	if len(r.o.Logs) > 0 {
		if output, err = r.run(ctx, "logs", r.o.Logs); err != nil {
			return fmt.Errorf("etcd has ended, and its log cannot be read: %w", err)
		}
	}
	return fmt.Errorf("etcd has ended; its last lines:\n%s", output)
}

// ControlPlane returns the command that stops the control plane, if there is one.
func (r *Runtime) ControlPlane() []string {
	if len(r.o.ControlPlaneStop) == 0 {
		return nil
	}
	return []string{strings.Join(r.o.ControlPlaneStop, " ")}
}

// StopControlPlane runs the command for it, if there is one.
func (r *Runtime) StopControlPlane(ctx context.Context) error {
	return r.runIfAny(ctx, "control plane stop", r.o.ControlPlaneStop)
}

// StartControlPlane runs the command for it, if there is one.
func (r *Runtime) StartControlPlane(ctx context.Context) error {
	return r.runIfAny(ctx, "control plane start", r.o.ControlPlaneStart)
}

func (r *Runtime) runIfAny(ctx context.Context, what string, command []string) error {
	if len(command) == 0 {
		return nil
	}
	_, err := r.run(ctx, what, command)
	return err
}
