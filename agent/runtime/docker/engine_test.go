package docker_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"go.uber.org/goleak"

	"github.com/requorum/requorum/agent/runtime/docker"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/internal/dockertest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := errors.Join(removeImage(), os.RemoveAll(binaryDir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// inContainer is where RKE1 has the data directory in etcd's container.
const inContainer = "/var/lib/rancher/etcd/"

// bench is an engine and the names that a test gives to its containers there.
type bench struct {
	t      *testing.T
	engine *client.Client
	prefix string // of the containers' names
	dir    string // where the runtime keeps what it stopped
}

// newBench connects to the engine that DOCKER_HOST names. Without one it skips the test, or fails it where CI=true.
func newBench(t *testing.T) *bench {
	t.Helper()
	return &bench{t: t, engine: dockertest.Engine(t), prefix: "requorum-test-" + strings.ToLower(rand.Text()[:8]) + "-", dir: filepath.Join(t.TempDir(), "docker")}
}

// imageName is that of the image, by which it is removed once the tests are done.
var imageName = "requorum-test/etcd:" + strings.ToLower(rand.Text())

// image is made once.
var image = sync.OnceValues(func() (string, error) { return imageName, importImage() })

// binaryDir is where the image's binary is built. It is removed once the tests are done.
var binaryDir string

var binary = sync.OnceValues(func() (_ string, err error) {
	if binaryDir, err = os.MkdirTemp("", "requorum-image-"); err != nil {
		return "", err
	}
	return dockertest.Binary(binaryDir)
})

// importImage makes the image for the engine that DOCKER_HOST names now.
func importImage() error {
	file, err := binary()
	if err != nil {
		return err
	}
	return withEngine(func(engine *client.Client) error {
		return dockertest.Import(context.Background(), engine, file, imageName)
	})
}

func removeImage() error {
	return withEngine(func(engine *client.Client) error {
		_, err := engine.ImageRemove(context.Background(), imageName, client.ImageRemoveOptions{})
		if errdefs.IsNotFound(err) || client.IsErrConnectionFailed(err) {
			return nil // no test needed it
		}
		return err
	})
}

func withEngine(do func(*client.Client) error) error {
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	return errors.Join(do(engine), engine.Close())
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// create creates a container, which is removed when the test ends, and returns its name.
func (b *bench) create(name string, config api.Config, host api.HostConfig) string {
	b.t.Helper()
	var err error
	config.Image, err = image()
	b.must(err)
	if host.NetworkMode == "" {
		host.NetworkMode = "host"
	}
	name = b.prefix + name
	_, err = b.engine.ContainerCreate(b.t.Context(), client.ContainerCreateOptions{Name: name, Config: &config, HostConfig: &host})
	b.must(err)
	b.t.Cleanup(func() {
		_, err := b.engine.ContainerRemove(context.Background(), name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !errdefs.IsNotFound(err) {
			b.t.Error(err)
		}
	})
	return name
}

var always = api.RestartPolicy{Name: api.RestartPolicyAlways}

// createEtcd creates a container as RKE1 does, for a member whose data is in dir.
func (b *bench) createEtcd(dir string, policy api.RestartPolicy) string {
	b.t.Helper()
	args := slices.Clone(runtimetest.NewEtcd(b.t).Command[1:])
	for i, a := range args {
		if strings.HasPrefix(a, "--data-dir=") {
			args[i] = "--data-dir=" + inContainer
		}
	}
	return b.create("etcd", api.Config{Cmd: append([]string{"/usr/local/bin/etcd"}, args...)},
		api.HostConfig{Binds: []string{dir + ":" + inContainer + ":z"}, RestartPolicy: policy})
}

// open returns a new runtime, as an agent has that was started again.
func (b *bench) open(name string, controlPlane ...string) *docker.Runtime {
	b.t.Helper()
	r, err := docker.New(docker.Options{Container: name, ControlPlane: append([]string{}, controlPlane...), Dir: b.dir, Grace: 5 * time.Second})
	b.must(err)
	return r
}

func (b *bench) inspect(name string) api.InspectResponse {
	b.t.Helper()
	got, err := b.engine.ContainerInspect(b.t.Context(), name, client.ContainerInspectOptions{})
	b.must(err)
	return got.Container
}

// expect fails unless the runtime says that etcd runs or not, and is wanted or not.
func (b *bench) expect(r *docker.Runtime, running, wanted bool) {
	b.t.Helper()
	m, err := r.Inspect(b.t.Context())
	b.must(err)
	if m.Running != running || m.Wanted != wanted {
		b.t.Errorf("running %v, wanted %v; expected %v, %v", m.Running, m.Wanted, running, wanted)
	}
}

// expectPolicy fails unless the container has this restart policy.
func (b *bench) expectPolicy(name string, want api.RestartPolicy) {
	b.t.Helper()
	if diff := cmp.Diff(want, b.inspect(name).HostConfig.RestartPolicy); diff != "" {
		b.t.Errorf("restart policy of %s: %s", name, diff)
	}
}
