package staticpod_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/agent/runtime/staticpod"
	"github.com/requorum/requorum/internal/kubelettest"
	"github.com/requorum/requorum/internal/loopback"
)

func TestMain(m *testing.M) {
	runtimetest.Main()
	kubelettest.Main()
	if o := os.Getenv(agentStory); o != "" {
		os.Exit(agent(o))
	}
	goleak.VerifyTestMain(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a node with a kubelet, and etcd and a control plane that it has the manifests of.
type node struct {
	t          *testing.T
	dir        string               // of the manifests
	endpoint   string               // of the container runtime
	kubelet    *kubelettest.StandIn // nil if there is a real one
	etcd       runtimetest.Etcd
	manifests  map[string]string // by name, as they were written
	components []string          // addresses of the control plane
}

// newNode starts a stand-in for a kubelet, without manifests.
func newNode(t *testing.T) *node {
	t.Helper()
	e := runtimetest.NewEtcd(t) // its directory goes last, when nothing writes there any more
	k := kubelettest.StartStandIn(t, kubelettest.Program{Path: e.Command[0], Env: e.Env})
	n := &node{t: t, dir: k.Dir, endpoint: k.Endpoint, kubelet: k, etcd: e, manifests: map[string]string{}}
	n.manifests["etcd.yaml"] = n.etcdManifest()
	return n
}

func (n *node) etcdManifest(more ...string) string {
	m := n.etcd.Member
	return kubelettest.EtcdManifest(append(slices.Clone(n.etcd.Command[1:]), more...), m.DataDir, m.AdvertiseClientURLs[0], m.UID, m.GID)
}

// addControlPlane adds the manifests of a control plane.
func (n *node) addControlPlane() {
	n.t.Helper()
	names := staticpod.DefaultControlPlane()
	ports, err := loopback.Ports(len(names))
	must(n.t, err)
	for i, name := range names {
		n.manifests[name] = kubelettest.ComponentManifest(strings.TrimSuffix(name, ".yaml"), ports[i])
		n.components = append(n.components, fmt.Sprintf("127.0.0.1:%d", ports[i]))
	}
}

func (n *node) live(name string) string { return filepath.Join(n.dir, name) }
func (n *node) held(name string) string {
	return filepath.Join(filepath.Dir(n.dir), "requorum-held", name)
}

// The mode and time that manifests have, which nobody would give them by chance.
const manifestMode = 0o640

var manifestTime = time.Date(2020, 2, 29, 1, 2, 3, 0, time.UTC)

// install puts the manifests where they are kept when etcd is stopped, from where they get to the kubelet.
func (n *node) install(dir func(string) string) {
	n.t.Helper()
	for name, text := range n.manifests {
		n.write(dir(name), text)
	}
}

// write puts a finished manifest at a path at once.
func (n *node) write(path, text string) {
	n.t.Helper()
	must(n.t, os.MkdirAll(filepath.Dir(path), 0o700))
	made := filepath.Join(n.t.TempDir(), "manifest")
	must(n.t, os.WriteFile(made, []byte(text), 0o600))
	must(n.t, os.Chmod(made, manifestMode))
	must(n.t, os.Chtimes(made, manifestTime, manifestTime))
	must(n.t, os.Rename(made, path))
}

func (n *node) options() staticpod.Options {
	return staticpod.Options{Manifest: n.live("etcd.yaml"), Endpoint: n.endpoint, Kubelet: staticpod.NoKubelet}
}

func (n *node) open() *staticpod.Runtime {
	n.t.Helper()
	r, err := staticpod.New(n.options())
	must(n.t, err)
	return r
}

func TestRuntime(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		n := newNode(t)
		n.install(n.held)
		return runtimetest.Subject{Open: func(*testing.T) runtime.Runtime { return n.open() }}
	})
}

// expectIn fails unless a manifest is at one path and not at another, byte for byte as it was.
func (n *node) expectIn(name string, in, notIn func(string) string) {
	n.t.Helper()
	if err := n.unchanged(in(name), n.manifests[name]); err != nil {
		n.t.Error(err)
	}
	if _, err := os.Lstat(notIn(name)); !os.IsNotExist(err) {
		n.t.Errorf("%s is there too: %v", notIn(name), err)
	}
}

// unchanged tells whether a file is as it was written.
func (n *node) unchanged(path, text string) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if string(got) != text || info.Mode().Perm() != manifestMode || !info.ModTime().Equal(manifestTime) {
		return fmt.Errorf("%s has changed: mode %v, time %v, content\n%s", path, info.Mode(), info.ModTime(), got)
	}
	return nil
}

// expectListening fails unless etcd, and each part of the control plane, take connections or take none. That etcd starts to is waited
// for, because that it was started says no more than that.
func (n *node) expectListening(etcd, controlPlane bool) {
	n.t.Helper()
	address := strings.TrimPrefix(n.etcd.Member.ListenClientURLs[0], "http://")
	if etcd {
		eventually(n.t, func() bool { return listening(address) })
	} else if listening(address) {
		n.t.Error("etcd listens")
	}
	for _, at := range n.components {
		if listening(at) != controlPlane {
			n.t.Errorf("what listens at %s of the control plane: %v, expected %v", at, !controlPlane, controlPlane)
		}
	}
}

func listening(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func TestControlPlaneStopsAndStarts(t *testing.T) { testControlPlane(t, newNode(t)) }

func testControlPlane(t *testing.T, n *node) {
	n.addControlPlane()
	n.install(n.live)
	r := n.open()
	restarts := 0
	r.SetRestartKubelet(func(context.Context) error { restarts++; return nil })
	must(t, r.StartControlPlane(t.Context())) // nothing was stopped
	must(t, r.Start(t.Context()))
	if got := strings.Join(r.ControlPlane(), " "); got != "kube-apiserver.yaml kube-controller-manager.yaml kube-scheduler.yaml" {
		t.Errorf("control plane %s", got)
	}
	for _, at := range n.components { // which nobody has waited for yet
		eventually(t, func() bool { return listening(at) })
	}
	must(t, r.StopControlPlane(t.Context()))
	n.expectListening(true, false)
	must(t, r.Stop(t.Context()))
	n.expectListening(false, false)
	for name := range n.manifests {
		n.expectIn(name, n.held, n.live)
	}
	if restarts != 0 {
		t.Error("the kubelet was restarted although the control plane is stopped")
	}
	must(t, r.Start(t.Context()))
	n.expectListening(true, false)
	must(t, r.StartControlPlane(t.Context()))
	n.expectListening(true, true)
	for name := range n.manifests {
		n.expectIn(name, n.live, n.held)
	}
	must(t, r.StartControlPlane(t.Context()))
	if restarts != 1 {
		t.Errorf("the kubelet was restarted %d times", restarts)
	}
}

// TestWithKubelet runs the tests with a real kubelet, each with one of its own. make test-kubelet says what is needed.
func TestWithKubelet(t *testing.T) {
	kubelettest.NeedReal(t)
	etcd := runtimetest.NewEtcd(t)
	start := func(t *testing.T) kubelettest.Kubelet {
		t.Parallel() // the kubelet takes its time
		return kubelettest.StartReal(t, kubelettest.Program{Path: etcd.Command[0], Env: etcd.Env}).Kubelet
	}
	t.Run("runtime", func(t *testing.T) {
		k := start(t)
		runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
			n := realNode(t, k)
			n.install(n.held)
			return runtimetest.Subject{Open: func(*testing.T) runtime.Runtime { return n.open() }}
		})
	})
	t.Run("control plane", func(t *testing.T) { testControlPlane(t, realNode(t, start(t))) })
}

// realNode is a node for a test that has the kubelet for itself.
func realNode(t *testing.T, k kubelettest.Kubelet) *node {
	t.Helper()
	n := &node{t: t, dir: k.Dir, endpoint: k.Endpoint, etcd: runtimetest.NewEtcd(t), manifests: map[string]string{}}
	n.manifests["etcd.yaml"] = n.etcdManifest()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		r := n.open()
		if err := r.StopControlPlane(ctx); err != nil {
			t.Error(err)
		}
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
		must(t, os.RemoveAll(filepath.Dir(n.held("any"))))
	})
	return n
}
