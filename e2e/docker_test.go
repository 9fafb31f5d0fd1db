package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/agent/runtime/docker"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/dockertest"
)

// containers are the nodes' containers in a Docker engine, laid out as RKE1 does.
type containers struct {
	t      *testing.T
	engine *client.Client
	image  string
	prefix string // of their names
}

// Where Docker runs etcd, a restore stops and starts containers. An agent that is killed in the middle of either leaves no
// container without its restart policy.
func TestDockerRuntime(t *testing.T) {
	t.Parallel()
	d := newContainers(t)
	c := harness.Start(t, harness.Options{Configure: d.use})
	before := d.hostConfigs(c)
	c.Write(200)
	save(t, c, "before")
	saved := c.Now()
	c.Write(100)
	says(t, c.Do("restore", "--snapshot", "before", "--plan"), d.apiserver("etcd-1"))
	restore(t, c, "before")
	holds(t, c, saved)
	d.asBefore(c, before)
	nothingLeft(t, c)

	for _, state := range []string{"stopped", "starting"} {
		for _, name := range []string{d.etcd("etcd-2"), d.apiserver("etcd-2")} {
			c.Write(100)
			written := c.Now()
			detached(t, c, "before")
			d.awaitState(name, state)
			kill(t, c.Node("etcd-2").Agent)
			d.expectState(name, state)
			c.StartAgain("etcd-2")
			op := c.Settle()
			want := written
			if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
				want = saved
			}
			holds(t, c, want)
			d.asBefore(c, before)
			nothingLeft(t, c)
		}
	}
}

func newContainers(t *testing.T) *containers {
	t.Helper()
	name := strings.ToLower(rand.Text())
	d := &containers{t: t, engine: dockertest.Engine(t), image: "requorum-test/etcd:" + name, prefix: "requorum-test-" + name[:8] + "-"}
	binary, err := dockertest.Binary(t.TempDir())
	must(t, err)
	must(t, dockertest.Import(t.Context(), d.engine, binary, d.image))
	t.Cleanup(func() {
		if _, err := d.engine.ImageRemove(context.Background(), d.image, client.ImageRemoveOptions{}); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *containers) etcd(node string) string      { return d.prefix + node + "-etcd" }
func (d *containers) apiserver(node string) string { return d.prefix + node + "-kube-apiserver" }

// use makes the agent run etcd as a container instead of by itself.
func (d *containers) use(node string, a *agent.Config) {
	d.t.Helper()
	const inContainer = "/var/lib/rancher/etcd/"
	command := []string{"/usr/local/bin/etcd"}
	var dataDir string
	for _, arg := range a.Runtime.Process.Command[1:] {
		if dir, ok := strings.CutPrefix(arg, "--data-dir="); ok {
			dataDir, arg = dir, "--data-dir="+inContainer
		}
		command = append(command, arg)
	}
	d.run(d.etcd(node), command, dataDir+":"+inContainer+":z")
	d.run(d.apiserver(node), []string{ // any process that goes on
		"/usr/local/bin/etcd", "--data-dir=/data", "--listen-client-urls=unix://client:0", "--advertise-client-urls=unix://client:0",
		"--listen-peer-urls=unix://peer:0", "--initial-advertise-peer-urls=unix://peer:0", "--initial-cluster=default=unix://peer:0",
	}, d.t.TempDir()+":/data")
	a.Runtime.Process = nil
	a.Runtime.Docker = &agent.Docker{Container: d.etcd(node), ControlPlane: []string{d.apiserver(node)}}
}

// run runs a container, which is removed when the test ends.
func (d *containers) run(name string, command []string, bind string) {
	d.t.Helper()
	d.t.Cleanup(func() {
		_, err := d.engine.ContainerRemove(context.Background(), name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !errdefs.IsNotFound(err) {
			d.t.Error(err)
		}
		if err := os.Remove(stateFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.t.Error(err)
		}
	})
	_, err := d.engine.ContainerCreate(d.t.Context(), client.ContainerCreateOptions{
		Name: name, Config: &api.Config{Image: d.image, Cmd: command},
		HostConfig: &api.HostConfig{NetworkMode: "host", Binds: []string{bind}, RestartPolicy: api.RestartPolicy{Name: api.RestartPolicyAlways}},
	})
	must(d.t, err)
	_, err = d.engine.ContainerStart(d.t.Context(), name, client.ContainerStartOptions{})
	must(d.t, err)
}

// hostConfigs returns what the engine was told of every container, with its restart policy.
func (d *containers) hostConfigs(c *harness.Cluster) map[string]*api.HostConfig {
	d.t.Helper()
	all := map[string]*api.HostConfig{}
	for _, node := range c.NodeNames() {
		for _, name := range []string{d.etcd(node), d.apiserver(node)} {
			got, err := d.engine.ContainerInspect(d.t.Context(), name, client.ContainerInspectOptions{})
			must(d.t, err)
			if !got.Container.State.Running {
				d.t.Errorf("%s does not run", name)
			}
			all[name] = got.Container.HostConfig
		}
	}
	return all
}

// asBefore fails unless every container runs, is as it was, and nothing is kept of it.
func (d *containers) asBefore(c *harness.Cluster, before map[string]*api.HostConfig) {
	d.t.Helper()
	if diff := cmp.Diff(before, d.hostConfigs(c)); diff != "" {
		d.t.Error(diff)
	}
	if left, err := filepath.Glob(stateFile(d.prefix + "*")); err != nil || len(left) > 0 {
		d.t.Errorf("left behind: %v, %v", left, err)
	}
}

// stateFile is where an agent keeps what it has stopped.
func stateFile(name string) string { return filepath.Join(docker.DefaultDir, name+".json") }

func (d *containers) state(name string) string {
	d.t.Helper()
	text, err := os.ReadFile(stateFile(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
	for _, state := range []string{"stopped", "starting"} {
		if bytes.Contains(text, []byte(`"`+state+`"`)) {
			return state
		}
	}
	return ""
}

// awaitState waits until an agent is in the middle of stopping or starting a container.
func (d *containers) awaitState(name, state string) {
	d.t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	ctx, cancel := context.WithTimeout(d.t.Context(), harness.Patience)
	defer cancel()
	for d.state(name) != state {
		select {
		case <-look.C:
		case <-ctx.Done():
			d.t.Fatalf("nobody was seen in the middle of it: %s is not %s", name, state)
		}
	}
}

func (d *containers) expectState(name, state string) {
	d.t.Helper()
	if got := d.state(name); got != state {
		d.t.Errorf("when the agent was killed, %s was %q, expected %q", name, got, state)
	}
}
