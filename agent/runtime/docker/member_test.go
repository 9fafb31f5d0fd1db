package docker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/docker"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

const etcd = "/usr/local/bin/etcd"

func TestConfigurationIsReadFromTheContainer(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	b.must(os.WriteFile(filepath.Join(dir, "etcd.yaml"), []byte("name: from-config\ndata-dir: data\nclient-transport-security: {cert-file: /pki/crt}\n"), 0o600))
	b.must(os.Symlink(dir, filepath.Join(dir, "link")))
	plain := b.createVolume(nil)
	ssl := dir + ":/etc/kubernetes:z"
	data := dir + "/a b:" + inContainer + ":z"
	defaults := runtime.Member{
		ListenClientURLs: []string{etcdconf.DefaultClientURLs}, AdvertiseClientURLs: []string{etcdconf.DefaultClientURLs},
		ListenPeerURLs: []string{etcdconf.DefaultPeerURLs}, AdvertisePeerURLs: []string{etcdconf.DefaultPeerURLs},
	}
	with := func(change func(*runtime.Member)) runtime.Member {
		m := defaults
		change(&m)
		return m
	}
	for name, test := range map[string]struct {
		config api.Config
		host   api.HostConfig
		want   runtime.Member
	}{
		"as RKE1 does": {
			api.Config{
				User: "52034:52035", Env: []string{"ETCDCTL_API=3"},
				Cmd: []string{
					etcd, "--client-cert-auth=true", "--data-dir=" + inContainer, "--name=etcd-node1", "--trusted-ca-file=/etc/kubernetes/ssl/kube-ca.pem",
					"--cert-file=/etc/kubernetes/ssl/kube-etcd.pem", "--key-file=/etc/kubernetes/ssl/kube-etcd-key.pem", "--quota-backend-bytes=4096",
					"--listen-client-urls=https://0.0.0.0:2379", "--advertise-client-urls=https://10.0.0.1:2379",
					"--listen-peer-urls=https://0.0.0.0:2380", "--initial-advertise-peer-urls=https://10.0.0.1:2380",
				},
			},
			api.HostConfig{Binds: []string{ssl, data}},
			runtime.Member{
				Name: "etcd-node1", DataDir: dir + "/a b", UID: 52034, GID: 52035, QuotaBytes: 4096, ClientCertAuth: true,
				TrustedCAFile: dir + "/ssl/kube-ca.pem", CertFile: dir + "/ssl/kube-etcd.pem", KeyFile: dir + "/ssl/kube-etcd-key.pem",
				ListenClientURLs: []string{"https://0.0.0.0:2379"}, AdvertiseClientURLs: []string{"https://10.0.0.1:2379"},
				ListenPeerURLs: []string{"https://0.0.0.0:2380"}, AdvertisePeerURLs: []string{"https://10.0.0.1:2380"},
			},
		},
		"an entry point, the environment, and accounts by name": {
			api.Config{User: "etcd", Entrypoint: []string{etcd}, Cmd: []string{"--wal-dir", "/wal/w"}, Env: []string{"ETCD_NAME=m1", "ETCD_DATA_DIR=/data/d"}},
			api.HostConfig{Binds: []string{dir + ":/data", dir + "/w:/wal"}},
			with(func(m *runtime.Member) {
				m.Name, m.DataDir, m.WALDir, m.UID, m.GID = "m1", dir+"/d", dir+"/w/w", 1234, 2345
			}),
		},
		"a group by name, and the innermost of two mounts": {
			api.Config{User: "1234:backup", Cmd: []string{etcd, "--name=m1", "--data-dir=/data/inner/d"}},
			api.HostConfig{Binds: []string{"/srv:/data", dir + ":/data/inner"}},
			with(func(m *runtime.Member) { m.Name, m.DataDir, m.UID, m.GID = "m1", dir+"/d", 1234, 3456 }),
		},
		"a user by number, with the group of its account": {
			api.Config{User: "1234", Cmd: []string{etcd, "--name=m1", "--data-dir=/data"}},
			api.HostConfig{Binds: []string{dir + ":/data"}},
			with(func(m *runtime.Member) { m.Name, m.DataDir, m.UID, m.GID = "m1", dir, 1234, 2345 }),
		},
		"a configuration file, and a working directory": {
			api.Config{WorkingDir: "/conf", Cmd: []string{etcd, "--config-file=etcd.yaml", "--name=never"}},
			api.HostConfig{Binds: []string{dir + ":/conf", dir + "/ssl:/pki"}},
			with(func(m *runtime.Member) { m.Name, m.DataDir, m.CertFile = "from-config", dir+"/data", dir+"/ssl/crt" }),
		},
		"a volume": {
			api.Config{Cmd: []string{etcd, "--name=m1", "--data-dir=/data/d"}},
			api.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: plain.Name, Target: "/data"}}},
			with(func(m *runtime.Member) { m.Name, m.DataDir = "m1", plain.Mountpoint+"/d" }),
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			got, err := b.open(b.create("etcd", test.config, test.host)).Inspect(t.Context())
			b.must(err)
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(runtime.Member{}, "Version")); diff != "" {
				t.Error(diff)
			}
			if !strings.HasPrefix(got.Version, "3.") {
				t.Errorf("version %q", got.Version)
			}
			b.expectNoVersionContainer()
		})
	}
}

// createVolume creates a volume, which goes when the test ends.
func (b *bench) createVolume(options map[string]string) volume.Volume {
	b.t.Helper()
	made, err := b.engine.VolumeCreate(b.t.Context(), client.VolumeCreateOptions{DriverOpts: options})
	b.must(err)
	b.t.Cleanup(func() {
		if _, err := b.engine.VolumeRemove(context.Background(), made.Volume.Name, client.VolumeRemoveOptions{}); err != nil {
			b.t.Error(err)
		}
	})
	return made.Volume
}

// expectNoVersionContainer waits until the engine has removed the container that was asked for a version.
func (b *bench) expectNoVersionContainer() {
	b.t.Helper()
	label := client.Filters{}.Add("label", "org.requorum.asks-version="+b.prefix+"etcd")
	b.await("no container is left behind", func() bool {
		list, err := b.engine.ContainerList(b.t.Context(), client.ContainerListOptions{All: true, Filters: label})
		b.must(err)
		return len(list.Items) == 0
	})
}

func TestWhatIsNotSafeIsRefused(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	b.must(os.Symlink("/etc", filepath.Join(dir, "etc")))
	tmpfs := b.createVolume(map[string]string{"type": "tmpfs", "device": "tmpfs"})
	bind := api.HostConfig{Binds: []string{dir + ":/data"}}
	run := func(args ...string) api.Config {
		return api.Config{Cmd: append([]string{etcd, "--data-dir=/data/d"}, args...)}
	}
	for name, test := range map[string]struct {
		config api.Config
		host   api.HostConfig
		says   string
	}{
		"a shell":                    {api.Config{Cmd: []string{"/bin/sh", "-c", etcd}}, bind, "runs /bin/sh"},
		"another program":            {api.Config{Cmd: []string{"/usr/local/bin/requorum"}}, bind, "let it run etcd itself"},
		"--rm":                       {run(), api.HostConfig{Binds: bind.Binds, AutoRemove: true}, "--rm"},
		"a network of its own":       {run(), api.HostConfig{Binds: bind.Binds, NetworkMode: "none"}, "--network=host"},
		"data in the container":      {run(), api.HostConfig{}, "mount a directory of the host"},
		"a certificate in it":        {run("--cert-file=/etc/crt"), bind, "/etc/crt is inside of container"},
		"a configuration file in it": {run("--config-file=/etc/etcd.yaml"), bind, "/etc/etcd.yaml is inside of container"},
		"data in memory":             {run(), api.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/data"}}}, "gone while the container is stopped"},
		"a volume with options":      {run(), api.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: tmpfs.Name, Target: "/data"}}}, "plain volume"},
		"a symlink out of a mount":   {run("--cert-file=/data/etc/passwd"), bind, "leads by a symlink out of"},
		"an unknown user":            {api.Config{User: "nobody-there", Cmd: run().Cmd}, bind, "nobody-there"},
		"an unknown group":           {api.Config{User: "etcd:nobody-there", Cmd: run().Cmd}, bind, "nobody-there"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := b.open(b.create("etcd", test.config, test.host))
			_, err := r.Inspect(t.Context())
			for what, err := range map[string]error{"inspect": err, "stop": r.Stop(t.Context())} {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%s: %v does not say %q", what, err, test.says)
				}
			}
		})
	}
	id := b.inspect(b.create("etcd", run(), bind)).ID
	for _, name := range []string{"no-such-container", id[:12]} {
		if _, err := b.open(name).Inspect(t.Context()); !errors.Is(err, docker.ErrNoContainer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]docker.Options{
		"a path":                  {Container: "../etcd"},
		"a path in a list":        {ControlPlane: []string{"kube/apiserver"}},
		"etcd as a control plane": {Container: "a1", ControlPlane: []string{"a1"}},
	} {
		if _, err := docker.New(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	r, err := docker.New(docker.Options{Host: "tcp://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), "unix://") {
		t.Errorf("an engine elsewhere: %v", err)
	}
}

func TestControlPlaneStopsAndStartsInOrder(t *testing.T) {
	b := newBench(t)
	first, second := b.createServer("kube-apiserver", always), b.createServer("kube-scheduler", api.RestartPolicy{Name: "unless-stopped"})
	idle := b.createServer("idle", api.RestartPolicy{Name: "no"})
	b.run(first)
	b.run(second)
	r := b.open(b.prefix+"etcd", first, b.prefix+"not-there", idle, second)
	if got := r.ControlPlane(); !slices.Equal(got, []string{first, idle, second}) {
		t.Errorf("control plane %q", got)
	}
	for range 2 {
		b.must(b.open(b.prefix+"etcd", first, idle, second).StopControlPlane(t.Context()))
	}
	for _, name := range []string{first, second} {
		if b.inspect(name).State.Running {
			t.Errorf("%s runs", name)
		}
		b.expectPolicy(name, api.RestartPolicy{Name: "no"})
	}
	if a, b := b.inspect(first).State.FinishedAt, b.inspect(second).State.FinishedAt; a >= b {
		t.Errorf("the first one was stopped at %s, the second one at %s", a, b)
	}
	for range 2 {
		b.must(b.open(b.prefix+"etcd", first, idle, second).StartControlPlane(t.Context()))
	}
	if a, b := b.inspect(first).State.StartedAt, b.inspect(second).State.StartedAt; a >= b {
		t.Errorf("the first one was started at %s, the second one at %s", a, b)
	}
	for name, policy := range map[string]api.RestartPolicy{first: always, second: {Name: "unless-stopped"}, idle: {Name: "no"}} {
		if running := b.inspect(name).State.Running; running != (name != idle) {
			t.Errorf("%s runs: %v", name, running)
		}
		b.expectPolicy(name, policy)
	}
	b.expectNothingKept()
}

// createServer creates a container with a process that goes on until it is told to end.
func (b *bench) createServer(name string, policy api.RestartPolicy) string {
	b.t.Helper()
	dir := b.t.TempDir()
	return b.create(name, api.Config{Cmd: []string{etcd, "--data-dir=/data", "--listen-client-urls=unix://client:0", "--advertise-client-urls=unix://client:0", "--listen-peer-urls=unix://peer:0", "--initial-advertise-peer-urls=unix://peer:0", "--initial-cluster=default=unix://peer:0"}},
		api.HostConfig{Binds: []string{dir + ":/data"}, RestartPolicy: policy})
}

// No engine is nothing to look at; one that does not answer may have what is looked for.
func TestDetectWithoutAnEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "sock")
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	if found, err := (docker.Detector{}).Detect(t.Context()); err != nil || len(found.Looked) != 1 {
		t.Errorf("without a socket: %+v, %v", found, err)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // nobody accepts there
		t.Fatal(err)
	}
	if found, err := (docker.Detector{}).Detect(t.Context()); !errors.Is(err, docker.ErrNoEngine) {
		t.Errorf("with a socket: %+v, %v", found, err)
	}
}

func TestDetectFindsWhatIsWanted(t *testing.T) {
	newOwnEngine(t)
	if err := importImage(); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	detected := func() detect.Found {
		t.Helper()
		found, err := docker.Detector{Dir: b.dir}.Detect(t.Context())
		b.must(err)
		return found
	}
	if found := detected(); len(found.Candidates) != 0 || len(found.Looked) == 0 {
		t.Errorf("without a container: %+v", found)
	}
	name := b.createEtcd(t.TempDir(), api.RestartPolicy{Name: "no"})
	b.create("pod", api.Config{Cmd: []string{etcd}, Labels: map[string]string{"io.kubernetes.pod.name": "etcd-node1"}}, api.HostConfig{RestartPolicy: always})
	b.create("tool", api.Config{Cmd: []string{"etcdctl", "watch"}}, api.HostConfig{RestartPolicy: always})
	if found := detected(); len(found.Candidates) != 0 || !strings.Contains(strings.Join(found.Looked, "\n"), "docker start "+name) {
		t.Errorf("a container that nothing starts: %+v", found)
	}
	b.run(name)
	check := func(when string) {
		t.Helper()
		found := detected()
		if len(found.Candidates) != 1 || found.Candidates[0].Place != name || found.Candidates[0].Member.Name != "m1" || len(found.Candidates[0].Missing) > 0 {
			t.Errorf("%s: %+v", when, found)
		}
	}
	check("one that runs")
	b.must(b.open(name).Stop(t.Context()))
	check("one that is kept stopped")
	b.create("second", api.Config{Cmd: []string{etcd, "--data-dir=/data"}}, api.HostConfig{RestartPolicy: always})
	if found := detected(); len(found.Candidates) != 2 || !strings.Contains(strings.Join(found.Candidates[1].Missing, "\n"), "mount a directory") {
		t.Errorf("two: %+v", found)
	}
}
