// Package process runs etcd as a process that the agent starts and supervises, and that outlives the
// agent: an agent that is upgraded, restarted or killed finds its etcd again and goes on supervising it.
//
// What must survive is in the state directory: the wanted state, so that neither a crash nor a reboot
// starts an etcd that was stopped for a restore; the identity of the process; and etcd's log.
//
// etcd has a session of its own. Where the agent is a systemd service, the unit needs KillMode=process,
// or systemd ends etcd with the agent.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/internal/durable"
)

// DefaultGrace is how long etcd may take to end after SIGTERM before it is killed.
const DefaultGrace = 15 * time.Second

// DefaultLogLimit is the size in bytes from which on etcd's log is set aside when etcd starts.
const DefaultLogLimit = 64 << 20

// workingDir is etcd's working directory. The state directory would be closed to another user.
const workingDir = "/"

// Options say how etcd is run.
type Options struct {
	Command  []string      // etcd's binary, as an absolute path, and its arguments
	Env      []string      // etcd's whole environment, as NAME=value; the agent's own is not passed on
	Dir      string        // state directory, absolute; made if it is not there
	Grace    time.Duration // between SIGTERM and SIGKILL; 0 for DefaultGrace
	UID, GID int           // user that etcd runs as; 0 and 0 for the agent's own
	LogLimit int64         // bytes; 0 for DefaultLogLimit
	Log      hclog.Logger  // may be nil
}

// Runtime runs etcd as a process.
type Runtime struct {
	o        Options
	versions etcdconf.Versions
	changed  chan struct{} // wakes Run
}

var (
	_ runtime.Runtime        = (*Runtime)(nil)
	_ runtime.LearnerStarter = (*Runtime)(nil)
	_ runtime.Liveness       = (*Runtime)(nil)
)

// New returns a runtime for the etcd that o describes. It starts nothing.
func New(o Options) (*Runtime, error) {
	if len(o.Command) == 0 || !filepath.IsAbs(o.Command[0]) {
		return nil, fmt.Errorf("etcd's command %q does not begin with an absolute path", o.Command)
	}
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("state directory %q is not an absolute path", o.Dir)
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.LogLimit == 0 {
		o.LogLimit = DefaultLogLimit
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	o.Dir = filepath.Clean(o.Dir)
	if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	return &Runtime{o: o, changed: make(chan struct{}, 1)}, nil
}

// Name returns "process".
func (r *Runtime) Name() string { return "process" }

// Inspect reads etcd's configuration and looks whether its process lives and whether it should.
func (r *Runtime) Inspect(ctx context.Context) (runtime.Member, error) {
	m, err := r.configured()
	if err != nil {
		return runtime.Member{}, err
	}
	if m.UID, m.GID, err = r.owner(m.DataDir); err != nil {
		return runtime.Member{}, err
	}
	m.Version = r.version(ctx)
	d, err := r.readDesired()
	if err != nil {
		return runtime.Member{}, err
	}
	rec, err := r.find()
	m.Running, m.Wanted = rec != nil, d.State == running
	return m, err
}

func (r *Runtime) configured() (runtime.Member, error) {
	return etcdconf.Read(etcdconf.Source{Args: r.o.Command[1:], Env: r.o.Env, Dir: workingDir})
}

// owner returns the user that etcd runs as or, where it runs as the agent's, the owner of the data.
func (r *Runtime) owner(dataDir string) (uid, gid int, err error) {
	if r.o.UID != 0 || r.o.GID != 0 {
		return r.o.UID, r.o.GID, nil
	}
	info, err := os.Stat(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Geteuid(), os.Getegid(), nil
	}
	if err != nil {
		return 0, 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("owner of %s is not known", dataDir)
	}
	return int(stat.Uid), int(stat.Gid), nil
}

// waitFree waits until nothing holds the member's data and ports.
func (r *Runtime) waitFree(ctx context.Context) error {
	m, err := r.configured()
	if err != nil {
		return err
	}
	return datadir.WaitFree(ctx, m.DataDir, m.WALDir, m.ListenURLs())
}

// exclusively runs do while no other caller, in this agent or another one with the same state
// directory, starts or stops etcd.
func (r *Runtime) exclusively(ctx context.Context, do func() error) error {
	lock, err := lockFile(ctx, filepath.Join(r.o.Dir, "lock"))
	if err != nil {
		return err
	}
	return errors.Join(do(), lock.Close())
}

func (r *Runtime) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
