package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/cgroup"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

// ErrNoContainer says that the engine has no container of that name.
var ErrNoContainer = errors.New("there is no such container")

// container is what the engine knows of a container, and its state.
type container struct {
	name  string
	id    string
	image string // ID of the image

	path string   // of the program
	args []string // without the program's name
	env  []string
	dir  string // working directory
	user string // user, user:group, or empty for root

	network    string
	userns     string
	autoRemove bool
	tty        bool
	mounts     []api.MountPoint
	policy     api.RestartPolicy

	state    api.State
	restarts int // by the restart policy, since it was started
}

// load asks the engine for a container. It fails with ErrNoContainer if there is none of that name.
func load(ctx context.Context, engine *client.Client, name string) (*container, error) {
	got, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	found := got.Container
	// The engine also takes the beginning of an ID for a name.
	if errdefs.IsNotFound(err) || err == nil && strings.TrimPrefix(found.Name, "/") != name {
		return nil, fmt.Errorf("container %s: %w; see docker ps --all", name, ErrNoContainer)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the Docker engine for container %s: %w", name, err)
	}
	if found.State == nil || found.Config == nil || found.HostConfig == nil {
		return nil, fmt.Errorf("the Docker engine says nothing of container %s but that it is there; see docker inspect %s", name, name)
	}
	return &container{
		name: name, id: found.ID, image: found.Image,
		path: found.Path, args: found.Args, env: found.Config.Env, dir: found.Config.WorkingDir, user: found.Config.User,
		network: string(found.HostConfig.NetworkMode), userns: string(found.HostConfig.UsernsMode),
		autoRemove: found.HostConfig.AutoRemove, tty: found.Config.Tty, mounts: found.Mounts, policy: found.HostConfig.RestartPolicy,
		state: *found.State, restarts: found.RestartCount,
	}, nil
}

// runsEtcd tells by the program's name whether the container runs etcd itself, and not one of its tools.
func (c *container) runsEtcd() bool {
	program := filepath.Base(c.path)
	return strings.HasPrefix(program, "etcd") && program != "etcdctl" && program != "etcdutl"
}

// processes returns the processes of the container, by its ID in the names of their control groups.
func (c *container) processes() ([]int, error) {
	return cgroup.Processes(func(lines string) bool { return strings.Contains(lines, c.id) })
}

// lives tells whether a process of the container lives. One that the engine is about to start again does not.
func (c *container) lives() (bool, error) {
	processes, err := c.processes()
	return c.state.Pid != 0 || len(processes) > 0, err
}

// isWanted tells whether the engine runs the container or would when it starts the next time.
func (c *container) isWanted() bool {
	return c.state.Running || c.state.Restarting || c.policy.IsAlways() || c.policy.IsOnFailure() && c.state.ExitCode != 0
}

// member returns the configuration of the member that the container runs, with paths of the host, without its version
// and state.
func (c *container) member(ctx context.Context, engine *client.Client) (runtime.Member, error) {
	if err := c.check(ctx, engine); err != nil {
		return runtime.Member{}, err
	}
	readFile := func(path string) ([]byte, error) {
		host, err := c.hostPath(ctx, engine, path)
		if err != nil {
			return nil, err
		}
		return os.ReadFile(host)
	}
	m, err := etcdconf.Read(etcdconf.Source{Args: c.args, Env: c.env, Dir: c.dir, ReadFile: readFile})
	if err != nil {
		return runtime.Member{}, fmt.Errorf("container %s: %w", c.name, err)
	}
	for _, p := range []*string{&m.DataDir, &m.WALDir, &m.TrustedCAFile, &m.CertFile, &m.KeyFile} {
		if *p, err = c.hostPath(ctx, engine, *p); err != nil {
			return runtime.Member{}, err
		}
	}
	m.UID, m.GID, err = c.owner(ctx, engine)
	return m, err
}

// check refuses containers of which a restore would not be safe, or whose settings mean something else on the host.
func (c *container) check(ctx context.Context, engine *client.Client) error {
	switch {
	case !c.runsEtcd():
		return fmt.Errorf("container %s runs %s; let it run etcd itself, not through a shell or a wrapper, or use the exec runtime", c.name, c.path)
	case c.autoRemove:
		return fmt.Errorf("container %s is removed when it stops (--rm), so it could not be started again; create it without", c.name)
	case c.network != "host":
		return fmt.Errorf("container %s has a network of its own (%s), in which its URLs mean something else than on the host; create it with --network=host, or use the exec runtime", c.name, c.network)
	}
	info, err := engine.Info(ctx, client.InfoOptions{})
	if err != nil {
		return fmt.Errorf("ask the Docker engine about itself: %w", err)
	}
	for _, option := range info.Info.SecurityOptions {
		rootless := strings.HasPrefix(option, "name=rootless")
		if rootless || strings.HasPrefix(option, "name=userns") && c.userns != "host" {
			return fmt.Errorf("container %s has other users than the host (%s), so that the owner of its data cannot be told; create it with --userns=host under an engine that runs as root, or use the exec runtime", c.name, option)
		}
	}
	return nil
}

// logLines is how much of a container's log is shown.
const logLines = 12

// lastLines returns the last lines that the container wrote, or why they cannot be read.
func (c *container) lastLines(ctx context.Context, engine *client.Client) string {
	text, err := c.readLog(ctx, engine)
	if err != nil {
		return fmt.Sprintf("(the container's log cannot be read: %v)", err)
	}
	return text
}

func (c *container) readLog(ctx context.Context, engine *client.Client) (string, error) {
	log, err := engine.ContainerLogs(ctx, c.id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(logLines)})
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if c.tty {
		_, err = text.ReadFrom(log)
	} else {
		_, err = stdcopy.StdCopy(&text, &text, log)
	}
	return strings.TrimSpace(text.String()), errors.Join(err, log.Close())
}
