package docker

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"

	"github.com/requorum/requorum/agent/runtime"
)

// Kind is the runtime's name.
const Kind = "docker"

// DefaultContainer is the container that runs etcd where nothing else is said. It is RKE1's name.
const DefaultContainer = "etcd"

// DefaultGrace is how long a container may take to end before the engine kills it.
const DefaultGrace = 15 * time.Second

// DefaultDir is where it is kept which containers are to stay stopped, and their restart policies.
const DefaultDir = "/var/lib/requorum/docker"

// DefaultControlPlane are the containers that use etcd, by RKE1's names, in the order in which they are stopped and
// started.
func DefaultControlPlane() []string {
	return []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd-rolling-snapshots"}
}

// Options say which containers there are.
type Options struct {
	Host         string        // the engine's address, unix://…; empty for DOCKER_HOST or the engine's default
	Container    string        // runs etcd; empty for DefaultContainer
	ControlPlane []string      // stopped before etcd; nil for DefaultControlPlane. One that is not there is passed over.
	Grace        time.Duration // after which a container is killed; 0 for DefaultGrace
	Dir          string        // keeps what was stopped; empty for DefaultDir
	Log          hclog.Logger  // may be nil
}

// Runtime runs etcd as a container.
type Runtime struct {
	o        Options
	versions versions
	mu       sync.Mutex // one at a time starts or stops

	restartsMu sync.Mutex
	restarts   map[string]int // of a container, by ID, that Start found running
}

var (
	_ runtime.Runtime      = (*Runtime)(nil)
	_ runtime.ControlPlane = (*Runtime)(nil)
	_ runtime.Liveness     = (*Runtime)(nil)
)

// containerName is what the engine allows as a name. It is also a safe name of a file.
var containerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// New returns a runtime for the containers in o. It does not look whether they are there.
func New(o Options) (*Runtime, error) {
	if o.Container == "" {
		o.Container = DefaultContainer
	}
	if o.ControlPlane == nil {
		o.ControlPlane = DefaultControlPlane()
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	for _, name := range append([]string{o.Container}, o.ControlPlane...) {
		if !containerName.MatchString(name) {
			return nil, fmt.Errorf("docker runtime: %q is not the name of a container", name)
		}
	}
	if slices.Contains(o.ControlPlane, o.Container) {
		return nil, fmt.Errorf("docker runtime: container %s runs etcd; take it out of control_plane", o.Container)
	}
	return &Runtime{o: o, restarts: map[string]int{}}, nil
}

// Name returns "docker".
func (r *Runtime) Name() string { return Kind }

// Inspect returns what the container says of the member, whether a process of it lives, and whether it should run: it
// was not stopped by Stop, and it runs or the engine would start it.
func (r *Runtime) Inspect(ctx context.Context) (m runtime.Member, err error) {
	err = r.connected(ctx, func(engine *client.Client) error {
		c, err := load(ctx, engine, r.o.Container)
		if err != nil {
			return err
		}
		m, err = r.inspect(ctx, engine, c)
		return err
	})
	return m, err
}

func (r *Runtime) inspect(ctx context.Context, engine *client.Client, c *container) (runtime.Member, error) {
	m, err := c.member(ctx, engine)
	if err != nil {
		return runtime.Member{}, err
	}
	if m.Version, err = r.version(ctx, engine, c); err != nil {
		return runtime.Member{}, err
	}
	if m.Running, err = c.lives(); err != nil {
		return runtime.Member{}, err
	}
	h, err := r.readHold(c.name)
	m.Wanted = h.State != stopped && (h.State == starting || c.isWanted())
	return m, err
}

// Alive returns nil while the process that Start started lives, otherwise an error with the container's last lines. One
// that the restart policy started again does not count.
func (r *Runtime) Alive(ctx context.Context) error {
	return r.connected(ctx, func(engine *client.Client) error {
		c, err := load(ctx, engine, r.o.Container)
		if err != nil {
			return err
		}
		lives, err := c.lives()
		switch again := c.restarts - r.restartsBefore(c.id); {
		case err != nil:
			return err
		case again > 0:
			return fmt.Errorf("etcd has ended %d times since it was started; its last lines:\n%s", again, c.lastLines(ctx, engine))
		case !lives:
			return fmt.Errorf("etcd has ended (exit code %d); its last lines:\n%s", c.state.ExitCode, c.lastLines(ctx, engine))
		}
		return nil
	})
}

// restartsBefore returns how often the engine had started the container again before Start was called.
func (r *Runtime) restartsBefore(id string) int {
	r.restartsMu.Lock()
	defer r.restartsMu.Unlock()
	return r.restarts[id]
}

func (r *Runtime) setRestartsBefore(id string, n int) {
	r.restartsMu.Lock()
	defer r.restartsMu.Unlock()
	r.restarts[id] = n
}

// ErrNoEngine says that no Docker engine answers.
var ErrNoEngine = errors.New("no Docker engine answers; see systemctl status docker, or set runtime.docker.host")

// connected runs do with a client of the engine.
func (r *Runtime) connected(ctx context.Context, do func(*client.Client) error) error {
	options := []client.Opt{client.FromEnv}
	if r.o.Host != "" {
		options = append(options, client.WithHost(r.o.Host))
	}
	engine, err := client.New(options...)
	if err != nil {
		return fmt.Errorf("connect to the Docker engine: %w", err)
	}
	if host := engine.DaemonHost(); !strings.HasPrefix(host, "unix://") {
		return errors.Join(fmt.Errorf("the Docker engine %s may be on another host; its address must begin with unix://", host), engine.Close())
	}
	err = do(engine)
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)):
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx)) // of which the error is a consequence
	case client.IsErrConnectionFailed(err):
		err = fmt.Errorf("%w: %w", ErrNoEngine, err)
	}
	return errors.Join(err, engine.Close())
}
