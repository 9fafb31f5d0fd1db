package staticpod_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/agent/runtime/staticpod"
)

// asComponent is set in the environment of a test binary that stands for a part of the control plane.
const asComponent = "REQUORUM_TEST_COMPONENT"

func TestMain(m *testing.M) {
	runtimetest.Main()
	if os.Getenv(asComponent) == "1" {
		component(os.Args[1])
	}
	if os.Getenv(asPause) == "1" {
		pauseUntilTold()
	}
	if o := os.Getenv(agentStory); o != "" {
		os.Exit(agent(o))
	}
	goleak.VerifyTestMain(m)
}

// component answers its probe at an address, by a certificate that nobody trusts.
func component(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := httptest.NewUnstartedServer(http.NewServeMux())
	server.Config.Handler.(*http.ServeMux).HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	server.Listener = l
	server.StartTLS()
	pauseUntilTold() // the first process of a container ends by no signal that it does not handle
}

// asPause is set in the environment of a test binary that does nothing, as the process does that keeps a sandbox.
const asPause = "REQUORUM_TEST_PAUSE"

func pauseUntilTold() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
	os.Exit(0)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a node with a kubelet, and etcd and a control plane that it has the manifests of.
type node struct {
	t         *testing.T
	dir       string   // of the manifests
	endpoint  string   // of the container runtime
	kubelet   *kubelet // the stand-in, nil if there is a real one
	etcd      runtimetest.Etcd
	manifests map[string]string // by name, as they were written
}

// etcdManifest is kubeadm's, with a data directory that the container has at another path than the host.
const etcdManifest = `apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: %[2]s
  labels: {component: etcd, tier: control-plane}
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
%[1]s    image: registry.k8s.io/etcd:3.7.3-0
    name: etcd
    resources: {requests: {cpu: 100m, memory: 100Mi}} # byte for byte
    volumeMounts:
    - {mountPath: /var/lib/etcd, name: etcd-data}
  hostNetwork: true
  priorityClassName: system-node-critical
  securityContext: {runAsUser: %[3]d, runAsGroup: %[4]d}
  volumes:
  - {name: etcd-data, hostPath: {path: %[5]s, type: DirectoryOrCreate}}
`

const componentManifest = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %[1]q, "namespace": "kube-system"}, "spec": {"hostNetwork": true,
  "containers": [{"name": %[1]q, "image": "registry.k8s.io/%[1]s:v1.35.2", "command": [%[1]q, "127.0.0.1:%[2]d"], "ports": [{"name": "probe-port", "containerPort": %[2]d}],
    "livenessProbe": {"httpGet": {"host": "127.0.0.1", "path": "/livez", "port": "probe-port", "scheme": "HTTPS"}}}]}}
`

// newNode starts a stand-in for a kubelet, without manifests.
func newNode(t *testing.T) *node {
	t.Helper()
	e := runtimetest.NewEtcd(t) // its directory goes last, when nothing writes there any more
	k := newKubelet(t)
	n := &node{t: t, dir: k.dir, endpoint: k.endpoint, kubelet: k, etcd: e, manifests: map[string]string{}}
	n.manifests["etcd.yaml"] = n.etcdManifest()
	return n
}

func (n *node) etcdManifest(more ...string) string {
	m := n.etcd.Member
	var args strings.Builder
	for _, a := range append(n.etcd.Command[1:], more...) {
		fmt.Fprintf(&args, "    - %s\n", strings.Replace(a, m.DataDir, "/var/lib/etcd", 1))
	}
	return fmt.Sprintf(etcdManifest, args.String(), m.AdvertiseClientURLs[0], m.UID, m.GID, m.DataDir)
}

// addControlPlane adds the manifests of a control plane.
func (n *node) addControlPlane() {
	n.t.Helper()
	for _, name := range staticpod.DefaultControlPlane() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(n.t, err)
		n.manifests[name] = fmt.Sprintf(componentManifest, strings.TrimSuffix(name, ".yaml"), l.Addr().(*net.TCPAddr).Port)
		must(n.t, l.Close())
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
	must(t, r.StopControlPlane(t.Context()))
	must(t, r.Stop(t.Context()))
	for name := range n.manifests {
		n.expectIn(name, n.held, n.live)
	}
	if restarts != 0 {
		t.Error("the kubelet was restarted although the control plane is stopped")
	}
	must(t, r.Start(t.Context()))
	must(t, r.StartControlPlane(t.Context()))
	for name := range n.manifests {
		n.expectIn(name, n.live, n.held)
	}
	must(t, r.StartControlPlane(t.Context()))
	if restarts != 1 {
		t.Errorf("the kubelet was restarted %d times", restarts)
	}
}
