package staticpod

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/cri"
	"github.com/requorum/requorum/agent/runtime/systemd"
	"github.com/requorum/requorum/internal/durable"
)

// Kind is the runtime's name.
const Kind = "staticpod"

// DefaultManifest is where kubeadm writes etcd's manifest.
const DefaultManifest = "/etc/kubernetes/manifests/etcd.yaml"

// DefaultKubelet is the kubelet's unit.
const DefaultKubelet = "kubelet.service"

// NoKubelet in Options.Kubelet leaves the kubelet alone.
const NoKubelet = "none"

// DefaultGrace is how long the kubelet may take to end a pod before the container runtime is told to. It is longer than the
// 30 s that the kubelet gives a pod by itself.
const DefaultGrace = 45 * time.Second

// DefaultControlPlane are the manifests of what writes to etcd, in the order in which they are stopped and started.
func DefaultControlPlane() []string {
	return []string{"kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml"}
}

// Options say where things are.
type Options struct {
	Manifest     string        // etcd's, in the directory that the kubelet watches; empty for DefaultManifest
	ControlPlane []string      // files beside it, stopped before etcd; nil for DefaultControlPlane. One that is not there is passed over.
	HeldDir      string        // where manifests are kept meanwhile, on the same file system; empty for "requorum-held" beside their directory
	Endpoint     string        // of the container runtime, as unix:///path; empty to find it out
	Kubelet      string        // unit that is restarted after the control plane; empty for DefaultKubelet, or NoKubelet
	Version      string        // of etcd, where the image's tag does not tell it
	Grace        time.Duration // after which pods are killed; 0 for DefaultGrace
	Log          hclog.Logger  // may be nil
}

// Runtime runs etcd as a static pod.
type Runtime struct {
	o              Options
	restartKubelet func(context.Context) error
	fault          func(step string) error // before each change on disk; tests crash here

	mu    sync.Mutex // one at a time starts or stops
	files sync.Mutex // no manifest is read while it moves
}

var (
	_ runtime.Runtime        = (*Runtime)(nil)
	_ runtime.ControlPlane   = (*Runtime)(nil)
	_ runtime.LearnerStarter = (*Runtime)(nil)
	_ runtime.Liveness       = (*Runtime)(nil)
)

// New returns a runtime for the manifests in o. It does not look whether they are there.
func New(o Options) (*Runtime, error) {
	if o.Manifest == "" {
		o.Manifest = DefaultManifest
	}
	if o.ControlPlane == nil {
		o.ControlPlane = DefaultControlPlane()
	}
	dir := filepath.Dir(o.Manifest)
	if o.HeldDir == "" {
		o.HeldDir = filepath.Join(filepath.Dir(dir), "requorum-held")
	}
	if o.Kubelet == "" {
		o.Kubelet = DefaultKubelet
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	r := &Runtime{o: o, fault: func(string) error { return nil }}
	r.restartKubelet = func(ctx context.Context) error { return systemd.Restart(ctx, o.Kubelet) }
	if o.Kubelet == NoKubelet {
		r.restartKubelet = func(context.Context) error { return nil }
	}
	return r, r.o.check()
}

func (o *Options) check() error {
	for _, path := range []string{o.Manifest, o.HeldDir} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("staticpod runtime: %q is not an absolute path", path)
		}
	}
	if dir := filepath.Dir(o.Manifest); o.HeldDir == dir || strings.HasPrefix(o.HeldDir, dir+"/") {
		return fmt.Errorf("staticpod runtime: %s is inside the directory that the kubelet watches; choose a held_dir outside", o.HeldDir)
	}
	for _, name := range o.ControlPlane {
		if name != filepath.Base(name) || name == filepath.Base(o.Manifest) {
			return fmt.Errorf("staticpod runtime: %q in control_plane is not the name of another file beside etcd's manifest", name)
		}
	}
	if o.Endpoint != "" && !strings.HasPrefix(o.Endpoint, "unix:///") {
		return fmt.Errorf("staticpod runtime: %q is not a container runtime's endpoint, as unix:///run/containerd/containerd.sock", o.Endpoint)
	}
	return nil
}

// checkHeldDir makes sure that a manifest gets there and back by rename.
func (r *Runtime) checkHeldDir() error {
	dir := filepath.Dir(r.o.Manifest)
	same, err := durable.SameFileSystem(dir, r.o.HeldDir)
	if err == nil && !same {
		err = fmt.Errorf("%s is not on the file system of %s, so manifests cannot be moved there in one step; set held_dir to a directory that is", r.o.HeldDir, dir)
	}
	return err
}

// Name returns "staticpod".
func (r *Runtime) Name() string { return Kind }

// etcd is the name of etcd's manifest.
func (r *Runtime) etcd() string { return filepath.Base(r.o.Manifest) }

// Inspect returns what the manifest says of the member, wherever it is at the moment, whether etcd's container runs, and
// whether it should: its manifest is where the kubelet sees it.
func (r *Runtime) Inspect(ctx context.Context) (runtime.Member, error) {
	p, live, err := r.read(r.etcd())
	if err != nil {
		return runtime.Member{}, err
	}
	m, err := p.member(r.o.Version)
	if err != nil {
		return runtime.Member{}, err
	}
	m.Wanted = live
	err = r.connected(ctx, func(c *cri.Client) error {
		seen, err := c.Look(ctx, p.named())
		m.Running = seen.Running(p.etcd().Name) != nil
		return err
	})
	return m, err
}

// Alive returns nil while the container that Start started runs, otherwise an error with its last lines. One that the
// kubelet started again does not count.
func (r *Runtime) Alive(ctx context.Context) error {
	p, _, err := r.read(r.etcd())
	if err != nil {
		return err
	}
	s, err := r.readState()
	if err != nil {
		return err
	}
	return r.connected(ctx, func(c *cri.Client) error { return c.Alive(ctx, p.named(), p.etcd().Name, s.Started) })
}

// connected runs do with a connection to the container runtime.
func (r *Runtime) connected(ctx context.Context, do func(*cri.Client) error) error {
	endpoint, err := r.endpoint()
	if err != nil {
		return err
	}
	return cri.Connected(ctx, endpoint, "runtime.staticpod.cri_endpoint", do)
}

// ErrNoManifest says that there is no manifest, neither for the kubelet nor kept by this runtime.
var ErrNoManifest = errors.New("there is no such manifest")
