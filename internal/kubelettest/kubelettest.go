// Package kubelettest gives tests of static pods a kubelet and a container runtime: a real kubelet with a containerd of its own, in
// standalone mode, that is without an API server, or with the control plane that kubeadm sets up, or a stand-in for both that runs
// processes. It is for tests only.
package kubelettest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Kubelet runs what has a manifest in Dir.
type Kubelet struct {
	Dir      string // of the manifests, in a directory of its own
	Endpoint string // of the container runtime, as unix:///path
}

// Program is what runs in a container, or instead of one. A real kubelet needs it to be static.
type Program struct {
	Path string
	Env  []string // whole environment, as NAME=value
}

// Set in the environment of a test binary that stands for a part of the control plane, or for what keeps a sandbox.
const (
	asComponent = "REQUORUM_TEST_COMPONENT"
	asPause     = "REQUORUM_TEST_PAUSE"
)

// Main turns the process into what it was started as. A package that uses a kubelet calls it first thing in its TestMain.
func Main() {
	switch {
	case os.Getenv(asComponent) == "1":
		component(os.Args[1])
	case os.Getenv(asPause) == "1":
		pauseUntilTold()
	}
}

// component answers its probe at an address, by a certificate that nobody trusts.
func component(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(http.ResponseWriter, *http.Request) {})
	server := httptest.NewUnstartedServer(mux)
	server.Listener = l
	server.StartTLS()
	pauseUntilTold() // the first process of a container ends by no signal that it does not handle
}

func pauseUntilTold() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
	os.Exit(0)
}

// ComponentVersion is the tag of the images of control planes.
const ComponentVersion = "v1.35.2"

const componentManifest = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %[1]q, "namespace": "kube-system"}, "spec": {"hostNetwork": true,
  "containers": [{"name": %[1]q, "image": "registry.k8s.io/%[1]s:%[3]s", "command": [%[1]q, "127.0.0.1:%[2]d"], "ports": [{"name": "probe-port", "containerPort": %[2]d}],
    "livenessProbe": {"httpGet": {"host": "127.0.0.1", "path": "/livez", "port": "probe-port", "scheme": "HTTPS"}}}]}}
`

// ComponentManifest returns the manifest of a part of the control plane, such as kube-apiserver. It answers its probe, by HTTPS
// at a port of 127.0.0.1, and does nothing else.
func ComponentManifest(name string, port int) string {
	return fmt.Sprintf(componentManifest, name, port, ComponentVersion)
}

// EtcdVersion is the tag of the image of etcd.
const EtcdVersion = "3.7.3-0"

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
%[1]s    image: registry.k8s.io/etcd:%[6]s
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

// EtcdManifest returns the manifest of a member with etcd's arguments, which name its data directory as the host has it.
func EtcdManifest(args []string, dataDir, clientURL string, uid, gid int) string {
	var lines strings.Builder
	for _, a := range args {
		fmt.Fprintf(&lines, "    - %s\n", strings.Replace(a, dataDir, "/var/lib/etcd", 1))
	}
	return fmt.Sprintf(etcdManifest, lines.String(), clientURL, uid, gid, dataDir, EtcdVersion)
}

// patience is how long anything may take; generous, for slow machines.
const patience = 2 * time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
