package rke2_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"time"

	"github.com/requorum/requorum/agent/runtime/k3s"
	"github.com/requorum/requorum/agent/runtime/k3s/k3stest"
)

// The stand-in for RKE2 is several programs, as RKE2 is: rke2, which writes etcd's configuration and the manifests, and has
// containerd and a kubelet as children that die with it; containerd, which answers the CRI; the kubelet, which runs by the
// CRI what has a manifest; and a shim for each container, which outlives them all. The test binary is called by these names.
var programs = map[string]func(args []string) error{
	"rke2": rke2Server, "containerd": containerd, "kubelet": kubelet, "containerd-shim": shim, "pause": pause,
}

const (
	binary = "/usr/local/lib/requorum/tests" // where the tests are on the host
	socket = "/run/k3s/containerd/containerd.sock"
)

// manifest is a static pod's as RKE2 writes it.
const manifest = `apiVersion: v1
kind: Pod
metadata:
  labels: {component: %[1]s, tier: control-plane}
  name: %[1]s
  namespace: kube-system
  uid: %[4]s
spec:
  containers:
  - args: [%[2]q]
    command: [%[1]s]
    image: index.docker.io/rancher/hardened-%[1]s:%[3]s
    name: %[1]s
  hostNetwork: true
`

// rke2Server is rke2 server --data-dir DIR.
func rke2Server(args []string) error {
	if len(args) != 4 || args[1] != "server" || args[2] != "--data-dir" {
		return fmt.Errorf("stand-in for RKE2: arguments %q", args)
	}
	goruntime.LockOSThread() // with which the children die
	root := args[3]
	etcd := k3stest.FromEnvironment()
	config, err := etcd.Configure(filepath.Join(root, k3s.EtcdDir))
	if err != nil {
		return err
	}
	if err := stage(root); err != nil {
		return err
	}
	runtime, err := child(filepath.Join(root, "bin/containerd"), "-c", filepath.Join(root, "agent/etc/containerd/config.toml"), "-a", socket,
		"--state", filepath.Dir(socket), "--root", filepath.Join(root, "agent/containerd"))
	if err != nil {
		return err
	}
	manifests := filepath.Join(root, "agent/pod-manifests")
	if err := os.RemoveAll(filepath.Join(manifests, "kube-apiserver.yaml")); err != nil {
		return err
	}
	if _, err := child(filepath.Join(root, "bin/kubelet"), manifests); err != nil {
		return err
	}
	if err := writeManifest(manifests, "etcd", "--config-file="+config, "v3.7.0-k3s1-build20260126"); err != nil {
		return err
	}
	if err := waitServes(etcd.Clients); err != nil {
		return err
	}
	for _, component := range []string{"kube-apiserver", "kube-controller-manager", "kube-proxy"} {
		if err := writeManifest(manifests, component, "", "v1.35.2-rke2r1-build20260126"); err != nil {
			return err
		}
	}
	return fmt.Errorf("containerd has ended: %w", runtime.Wait())
}

// stage puts RKE2's own programs where it unpacks them.
func stage(root string) error {
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"containerd", "containerd-shim", "kubelet", "pause"} {
		if err := os.Symlink(binary, filepath.Join(bin, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// lingering in the environment lets children outlive RKE2, which the real ones do not.
const lingering = "REQUORUM_TEST_LINGER"

// child starts a program that dies with this one.
func child(program string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if os.Getenv(lingering) == "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	return cmd, cmd.Start()
}

// writeManifest puts a finished manifest in place, unless it is there already.
func writeManifest(dir, component, arg, tag string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(component + arg + tag))
	text := fmt.Sprintf(manifest, component, arg, tag, hex.EncodeToString(digest[:16]))
	path := filepath.Join(dir, component+".yaml")
	if now, err := os.ReadFile(path); err == nil && string(now) == text {
		return nil
	}
	made := filepath.Join(filepath.Dir(dir), component+".tmp")
	if err := os.WriteFile(made, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(made, path)
}

// waitServes waits until something listens at the first of the URLs.
func waitServes(urls string) error {
	first, _, _ := strings.Cut(urls, ",")
	address := strings.TrimPrefix(first, "http://")
	look := time.NewTicker(syncInterval)
	defer look.Stop()
	for !listens(address) {
		<-look.C
	}
	return nil
}
