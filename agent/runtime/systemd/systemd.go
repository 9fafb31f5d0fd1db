package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

// Kind is the runtime's name.
const Kind = "systemd"

// DefaultUnit is the unit that runs etcd where nothing else is said.
const DefaultUnit = "etcd.service"

// DefaultGrace is how long etcd may take to end before it is killed, besides what its unit allows it.
const DefaultGrace = 15 * time.Second

// DefaultControlPlane are the units that write to etcd, in the order in which they are stopped and started.
func DefaultControlPlane() []string {
	return []string{"kube-apiserver.service", "kube-controller-manager.service", "kube-scheduler.service"}
}

// Options say which units there are.
type Options struct {
	Unit         string        // runs etcd; empty for DefaultUnit
	ControlPlane []string      // stopped before etcd; nil for DefaultControlPlane. One that is not there is passed over.
	Grace        time.Duration // after which etcd is killed; 0 for DefaultGrace
	Log          hclog.Logger  // may be nil

	// Embedded reads the configuration of a member that the unit's program has within itself; nil where the program is
	// etcd. With it the unit's main process is what counts: others go on running when the unit is stopped, and must not
	// hold the member's data. The version is left to the caller.
	Embedded func(Command) (runtime.Member, error)

	// Helpers are the names of programs that the unit's main process of an Embedded member has started and that have to
	// be gone too for the unit to be stopped.
	Helpers []string
}

// Command is a unit's program as systemd would start it.
type Command struct {
	Args []string // without the program's name, with variables put in
	Env  []string // as NAME=value
	Dir  string   // working directory
}

// Runtime runs etcd as a unit.
type Runtime struct {
	o        Options
	versions etcdconf.Versions
	mu       sync.Mutex // one at a time starts or stops
}

var (
	_ runtime.Runtime        = (*Runtime)(nil)
	_ runtime.ControlPlane   = (*Runtime)(nil)
	_ runtime.LearnerStarter = (*Runtime)(nil)
	_ runtime.Liveness       = (*Runtime)(nil)
)

// New returns a runtime for the units in o. It does not look whether they are there.
func New(o Options) (*Runtime, error) {
	if o.Unit == "" {
		o.Unit = DefaultUnit
	}
	if o.ControlPlane == nil {
		o.ControlPlane = DefaultControlPlane()
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	o.Unit = withSuffix(o.Unit)
	units := make([]string, len(o.ControlPlane))
	for i, u := range o.ControlPlane {
		units[i] = withSuffix(u)
	}
	o.ControlPlane = units
	for _, u := range append([]string{o.Unit}, units...) {
		if strings.ContainsAny(u, "/ \t\n") {
			return nil, fmt.Errorf("systemd runtime: %q is not the name of a unit", u)
		}
	}
	return &Runtime{o: o}, nil
}

func withSuffix(unit string) string {
	if strings.HasSuffix(unit, ".service") {
		return unit
	}
	return unit + ".service"
}

// Name returns "systemd".
func (r *Runtime) Name() string { return Kind }

// Inspect returns what the unit says of the member, whether a process of the unit lives, and whether the unit should run:
// it was not stopped by Stop, and it is active or comes up at boot.
func (r *Runtime) Inspect(ctx context.Context) (m runtime.Member, err error) {
	err = connected(ctx, func(conn *dbus.Conn) error {
		u, err := load(ctx, conn, r.o.Unit)
		if err != nil {
			return err
		}
		m, err = r.inspect(ctx, u)
		return err
	})
	return m, err
}

func (r *Runtime) inspect(ctx context.Context, u *unit) (runtime.Member, error) {
	m, err := r.member(u)
	if err != nil {
		return runtime.Member{}, err
	}
	if m.Version, err = r.version(ctx, u, m); err != nil {
		return runtime.Member{}, err
	}
	processes, err := r.processes(u)
	if err != nil {
		return runtime.Member{}, err
	}
	h, err := u.readHold()
	m.Running = len(processes) > 0
	m.Wanted = h != stopped && (h == starting || u.isWanted())
	return m, err
}

// version asks the unit's program. That it is not there is told by an empty version; that it is another program is an
// error, for then its arguments do not mean what etcd's do.
func (r *Runtime) version(ctx context.Context, u *unit, m runtime.Member) (string, error) {
	if r.o.Embedded != nil {
		return "", nil
	}
	_, env, err := u.command()
	if err != nil {
		return "", err
	}
	b := etcdconf.Binary{Path: u.path, Env: env}
	if m.UID != os.Geteuid() {
		b.Credential = &syscall.Credential{Uid: uint32(m.UID), Gid: uint32(m.GID)}
	}
	version, err := r.versions.Get(ctx, b)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.o.Log.Warn("etcd's binary is not there", "unit", u.name, "binary", u.path)
		return "", nil
	case errors.Is(err, etcdconf.ErrNotEtcd):
		return "", fmt.Errorf("%s runs %w; let its ExecStart run etcd itself, not through a shell or a wrapper, or use the exec runtime", u.name, err)
	}
	return version, err
}

// member returns the configuration of the member that the unit runs, without its version and state.
func (r *Runtime) member(u *unit) (runtime.Member, error) {
	if r.o.Embedded != nil {
		return u.member(r.o.Embedded)
	}
	return u.member(readEtcd)
}

func readEtcd(c Command) (runtime.Member, error) {
	return etcdconf.Read(etcdconf.Source{Args: c.Args, Env: c.Env, Dir: c.Dir})
}

// processes returns those that have to be gone for a unit to be stopped.
func (r *Runtime) processes(u *unit) ([]int, error) {
	all, err := u.processes()
	if err != nil || r.o.Embedded == nil {
		return all, err
	}
	return slices.DeleteFunc(all, func(pid int) bool { return pid != int(u.mainPID) && !slices.Contains(r.o.Helpers, program(pid)) }), nil
}

// program returns the name of the program that a process runs, which the kernel cuts to 15 bytes; empty if it has ended.
func program(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(name), "\n")
}

// isWanted tells whether systemd runs the unit or would at the next boot. One that ended by itself is wanted too.
func (u *unit) isWanted() bool {
	switch u.active {
	case "active", "activating", "reloading", "failed":
		return true
	}
	return u.fileState == "enabled" || u.fileState == "enabled-runtime"
}

// Alive returns nil while the process that Start started lives, otherwise an error with its last lines in the journal.
// One that Restart= started again does not count.
func (r *Runtime) Alive(ctx context.Context) error {
	return connected(ctx, func(conn *dbus.Conn) error {
		u, err := load(ctx, conn, r.o.Unit)
		if err != nil {
			return err
		}
		processes, err := r.processes(u)
		switch {
		case err != nil:
			return err
		case u.restarts > 0:
			return fmt.Errorf("etcd has ended %d times since it was started; its last lines:\n%s", u.restarts, journal(ctx, u.name))
		case len(processes) == 0:
			return fmt.Errorf("etcd has ended (%s); its last lines:\n%s", u.result, journal(ctx, u.name))
		}
		return nil
	})
}

// journalLines is how much of the journal is shown.
const journalLines = "12"

// journal returns the unit's last lines, or why they cannot be read.
func journal(ctx context.Context, unit string) string {
	out, err := exec.CommandContext(ctx, "journalctl", "--unit", unit, "--lines", journalLines, "--output", "cat", "--no-pager").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("(the journal cannot be read: %v: %s)", err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out))
}

// ErrNotInit says that systemd does not run this host, or cannot be reached.
var ErrNotInit = errors.New("systemd does not run this host, or not where the agent sees it (/run/systemd/system is not there)")

// connected runs do with a connection to systemd.
func connected(ctx context.Context, do func(*dbus.Conn) error) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return ErrNotInit
	}
	conn, err := dbus.NewWithContext(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx) // of which the error is a consequence
	}
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return fmt.Errorf("connect to systemd over D-Bus: %w", err)
	}
	defer conn.Close()
	return do(conn)
}
