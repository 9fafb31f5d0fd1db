package rke2

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/cri"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/agent/runtime/k3s"
	"github.com/requorum/requorum/agent/runtime/systemd"
	"github.com/requorum/requorum/internal/durable"
)

// Kind is the runtime's name.
const Kind = "rke2"

// DefaultUnit is the unit that RKE2's packages and installer make for a server.
const DefaultUnit = "rke2-server.service"

// DefaultEndpoint is where the containerd listens that RKE2 starts.
const DefaultEndpoint = "unix:///run/k3s/containerd/containerd.sock"

// DefaultGrace is how long RKE2, and then each container, may take to end before it is killed.
const DefaultGrace = systemd.DefaultGrace

var distribution = k3s.Distribution{Name: "rke2", Prefix: "RKE2_", Config: "/etc/rancher/rke2/config.yaml", DataDir: "/var/lib/rancher/rke2"}

// Options say where things are.
type Options struct {
	Unit     string        // runs rke2 server; empty for DefaultUnit
	Endpoint string        // of the container runtime, as unix:///path; empty for DefaultEndpoint. Another one is never started.
	Dir      string        // where the runtime keeps its state, absolute
	Grace    time.Duration // after which RKE2 and containers are killed; 0 for DefaultGrace
	Log      hclog.Logger  // may be nil
}

// Runtime runs etcd as RKE2 does.
type Runtime struct {
	o    Options
	unit *systemd.Runtime
	mu   sync.Mutex // one at a time starts or stops

	fault func(step string) error // before each change; tests crash here
}

var (
	_ runtime.Runtime  = (*Runtime)(nil)
	_ runtime.Liveness = (*Runtime)(nil)
)

// New returns a runtime for the unit in o. It does not look whether it is there.
func New(o Options) (*Runtime, error) {
	if o.Unit == "" {
		o.Unit = DefaultUnit
	}
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if !strings.HasPrefix(o.Endpoint, "unix:///") {
		return nil, fmt.Errorf("rke2 runtime: %q is not a container runtime's endpoint, as %s", o.Endpoint, DefaultEndpoint)
	}
	// The kubelet would start again what is stopped, and containerd would be in the way of the one that is run then.
	unit, err := systemd.New(systemd.Options{Unit: o.Unit, Grace: o.Grace, Log: o.Log, Embedded: distribution.Read, Helpers: []string{"kubelet", "containerd"}})
	if err != nil {
		return nil, fmt.Errorf("rke2 runtime: %w", err)
	}
	return &Runtime{o: o, unit: unit, fault: func(string) error { return nil }}, nil
}

// Name returns "rke2".
func (r *Runtime) Name() string { return Kind }

// The pods that RKE2 runs of its components that are stopped: etcd, and what writes to it.
var etcdPod = podOf("etcd")

func controlPlane() []cri.Pod {
	return []cri.Pod{podOf("kube-apiserver"), podOf("kube-controller-manager"), podOf("kube-scheduler"), podOf("cloud-controller-manager")}
}

func podOf(component string) cri.Pod {
	return cri.Pod{Name: component, Namespace: "kube-system", Containers: []string{component}}
}

// etcd is the name of etcd's container.
const etcd = "etcd"

// Inspect returns the member as RKE2 has configured it, whether its container runs, also where RKE2 itself does not, and
// whether the unit should run. The version is that of the image in etcd's manifest, empty if it tells none.
func (r *Runtime) Inspect(ctx context.Context) (runtime.Member, error) {
	m, err := r.unit.Inspect(ctx)
	if err != nil {
		return runtime.Member{}, err
	}
	m.UID, m.GID = datadir.Owner(m.DataDir) // RKE2 gives the data to the user that etcd runs as
	if m.Version, err = version(m); err != nil {
		return runtime.Member{}, err
	}
	m.Running, err = r.runs(ctx, m)
	return m, err
}

// runs tells whether etcd's container runs. While containerd does not, which is RKE2's child, whoever holds the data tells.
func (r *Runtime) runs(ctx context.Context, m runtime.Member) (running bool, err error) {
	err = r.connected(ctx, func(c *cri.Client) error {
		s, err := c.Look(ctx, etcdPod)
		running = s.Running(etcd) != nil
		return err
	})
	if err == nil || ctx.Err() != nil {
		return running, err
	}
	return held(ctx, m)
}

// held tells whether a process holds the member's data.
func held(ctx context.Context, m runtime.Member) (bool, error) {
	err := datadir.Free(ctx, m.DataDir, m.WALDir, nil)
	var holder *datadir.HeldError
	if errors.As(err, &holder) {
		return true, nil
	}
	return false, err
}

// connected runs do with a connection to the container runtime, which may be down.
func (r *Runtime) connected(ctx context.Context, do func(*cri.Client) error) error {
	return cri.Connected(ctx, r.o.Endpoint, "runtime.rke2.cri_endpoint", do)
}

// rootOf returns RKE2's own data directory.
func rootOf(m runtime.Member) string {
	return strings.TrimSuffix(filepath.Clean(m.DataDir), string(filepath.Separator)+k3s.EtcdDir)
}

// version returns what etcd's manifest tells of its version, empty where there is none.
func version(m runtime.Member) (string, error) {
	path := filepath.Join(rootOf(m), "agent/pod-manifests/etcd.yaml")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var pod struct {
		Spec struct {
			Containers []struct {
				Image string `yaml:"image"`
			} `yaml:"containers"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal(text, &pod); err != nil {
		return "", fmt.Errorf("manifest %s: %w", path, err)
	}
	if len(pod.Spec.Containers) == 0 {
		return "", nil
	}
	found, _ := etcdconf.ImageVersion(pod.Spec.Containers[0].Image)
	return found, nil
}

// state is what a start or a stop leaves to those who come after.
type state struct {
	Started string   `json:"started,omitempty"` // ID of the container that Start started
	Stopped []string `json:"stopped,omitempty"` // IDs of etcd's containers that Stop has ended, or was about to
}

func (r *Runtime) stateFile() string { return filepath.Join(r.o.Dir, "state.json") }

func (r *Runtime) readState() (s state, err error) {
	_, err = durable.ReadJSON(r.stateFile(), &s)
	return s, err
}

func (r *Runtime) writeState(s state) error {
	if err := r.fault("note the state"); err != nil {
		return err
	}
	if err := durable.MkdirAll(r.o.Dir, 0o700); err != nil {
		return err
	}
	return durable.WriteJSON(r.stateFile(), s)
}

// Alive returns nil while the container that Start started runs, otherwise an error with its last lines. One that the
// kubelet started again does not count. That RKE2 ends, and systemd starts it again, does no harm to the container.
func (r *Runtime) Alive(ctx context.Context) error {
	s, err := r.readState()
	if err != nil {
		return err
	}
	answered := false
	err = r.connected(ctx, func(c *cri.Client) error {
		if answered = c.Answers(ctx) == nil; !answered {
			return nil
		}
		return c.Alive(ctx, etcdPod, etcd, s.Started)
	})
	if answered || err != nil {
		return err
	}
	m, err := r.unit.Inspect(ctx)
	if err != nil {
		return err
	}
	if running, err := held(ctx, m); err != nil || running {
		return err
	}
	if err := r.unit.Alive(ctx); err != nil {
		return fmt.Errorf("etcd has ended, and the container runtime of RKE2 does not answer: %w", err)
	}
	return fmt.Errorf("etcd has ended, and the container runtime of RKE2 does not answer:\nsee journalctl -u %s", r.o.Unit)
}
