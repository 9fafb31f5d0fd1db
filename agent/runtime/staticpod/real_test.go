package staticpod_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/agent/runtime/staticpod"
)

// kubeletBinary names the variable with the path of a kubelet.
const kubeletBinary = "REQUORUM_KUBELET"

// TestWithKubelet runs the tests with a real kubelet, which has no API server, and containerd. make test-kubelet builds the one and
// says what else is needed.
func TestWithKubelet(t *testing.T) {
	h := startHost(t)
	t.Run("runtime", func(t *testing.T) {
		runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
			n := h.node(t)
			n.install(n.held)
			return runtimetest.Subject{Open: func(*testing.T) runtime.Runtime { return n.open() }}
		})
	})
	t.Run("control plane", func(t *testing.T) { testControlPlane(t, h.node(t)) })
}

// host is a kubelet and its container runtime.
type host struct {
	dir      string // of the manifests
	endpoint string
	cri      criv1.RuntimeServiceClient
}

func startHost(t *testing.T) *host {
	t.Helper()
	path := os.Getenv(kubeletBinary)
	if path == "" || os.Geteuid() != 0 {
		t.Skipf("SKIPPED, this test needs root and a kubelet: run make test-kubelet, which sets %s", kubeletBinary)
	}
	root, err := os.MkdirTemp("", "requorum-kubelet-") //nolint:usetesting // the path of a socket must be shorter than a test's name
	must(t, err)
	t.Cleanup(func() {
		if err := unix.Unmount(root+"/kubelet", 0); err != nil && !errors.Is(err, unix.EINVAL) { // the kubelet's mount of its directory on itself
			t.Error(err)
		}
		must(t, os.RemoveAll(root))
	})
	h := &host{dir: filepath.Join(root, "kubernetes", "manifests"), endpoint: "unix://" + root + "/containerd.sock"}
	must(t, os.MkdirAll(h.dir, 0o700))
	fill := strings.NewReplacer("ROOT", root)
	for name, text := range map[string]string{"containerd.toml": containerdConfig, "kubelet.yaml": kubeletConfig} {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(fill.Replace(text)), 0o600))
	}
	background(t, root, "containerd", "--config", root+"/containerd.toml")
	conn, err := grpc.NewClient(h.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	h.cri = criv1.NewRuntimeServiceClient(conn)
	eventually(t, func() bool {
		_, err := h.cri.Status(t.Context(), &criv1.StatusRequest{})
		return err == nil
	})
	t.Cleanup(func() { h.removeAll(t) })
	importImages(t, root)
	background(t, root, path, "--config", root+"/kubelet.yaml", "--root-dir", root+"/kubelet", "--cert-dir", root+"/pki", "--hostname-override", "node-1")
	return h
}

// containerdConfig is for a host that lacks a few of root's rights, as a container or a small machine may.
const containerdConfig = `version = 2
root = "ROOT/containerd"
state = "ROOT/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "ROOT/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "ROOT/cni"
    conf_dir = "ROOT/cni"
`

// kubeletConfig waits no longer than 1 s with a container that ended, so that tests need not.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: ROOT/kubernetes/manifests
containerRuntimeEndpoint: unix://ROOT/containerd.sock
podLogsDir: ROOT/pods
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
enableServer: false
readOnlyPort: 0
healthzPort: 0
makeIPTablesUtilChains: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
featureGates: {KubeletCrashLoopBackOffMax: true}
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
`

// background runs a program until the test ends, with a log that a failure shows the end of.
func background(t *testing.T, root, program string, args ...string) {
	t.Helper()
	path := filepath.Join(root, filepath.Base(program)+".log")
	log, err := os.Create(path)
	must(t, err)
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	t.Cleanup(func() {
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait() // how a program ends that is told to does not matter
		must(t, log.Close())
		if text, err := os.ReadFile(path); err == nil && t.Failed() {
			t.Logf("%s:\n%s", path, text[max(0, len(text)-4000):])
		}
	})
}

// removeAll removes what the container runtime has.
func (h *host) removeAll(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := h.cri.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	must(t, err)
	for _, box := range list.GetItems() {
		_, err := h.cri.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: box.GetId()})
		must(t, err)
		_, err = h.cri.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: box.GetId()})
		must(t, err)
	}
}

// node is one for a test that has the host for itself.
func (h *host) node(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: h.dir, endpoint: h.endpoint, etcd: runtimetest.NewEtcd(t), manifests: map[string]string{}}
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

// importImages gives the container runtime images of the names that the manifests have. All hold the test binary, which stands for etcd,
// for the control plane, and for what keeps a sandbox.
func importImages(t *testing.T, root string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	binary, err := os.ReadFile(self)
	must(t, err)
	as := map[string]string{"pause:3.10": asPause, "etcd:3.7.3-0": "REQUORUM_TEST_ETCD"}
	for _, name := range staticpod.DefaultControlPlane() {
		as[strings.TrimSuffix(name, ".yaml")+":v1.35.2"] = asComponent
	}
	for name, variable := range as {
		path := filepath.Join(root, "image.tar")
		program, _, _ := strings.Cut(name, ":")
		must(t, os.WriteFile(path, archive(t, "registry.k8s.io/"+name, program, binary, variable+"=1"), 0o600))
		out, err := exec.Command("ctr", "--address", root+"/containerd.sock", "--namespace", "k8s.io", "image", "import", path).CombinedOutput()
		if err != nil {
			t.Fatalf("import %s: %v: %s", name, err, out)
		}
	}
}

// archive returns an image as docker save writes it: one program in /usr/local/bin.
func archive(t *testing.T, ref, program string, binary []byte, env string) []byte {
	t.Helper()
	layer := tarOf(t, entry{"usr/local/bin/" + program, binary})
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/usr/local/bin/" + program}, "Env": []string{"PATH=/usr/local/bin", env}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	must(t, err)
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	must(t, err)
	return tarOf(t, entry{"config.json", config}, entry{"layer.tar", layer}, entry{"manifest.json", manifest})
}

type entry struct {
	name string
	data []byte
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		must(t, w.WriteHeader(&tar.Header{Name: e.name, Size: int64(len(e.data)), Mode: 0o755, ModTime: time.Unix(0, 0)}))
		_, err := w.Write(e.data)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
