package kubelettest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/requorum/requorum/internal/lacking"
)

// Binaries names the variable with the directory of Kubernetes' own programs, as make kubernetes builds them.
const Binaries = "REQUORUM_KUBERNETES"

// Binary is the path of one of Kubernetes' own programs.
func Binary(name string) string { return filepath.Join(os.Getenv(Binaries), name) }

// NodeName is what a real kubelet calls its node.
const NodeName = "node-1"

// pauseVersion is the tag of the image of what keeps a sandbox.
const pauseVersion = "3.10"

// Real is a kubelet and its container runtime.
type Real struct {
	Kubelet
	root string
	cri  criv1.RuntimeServiceClient
}

// NeedBinaries ends the test unless it was told where Kubernetes' own programs are.
func NeedBinaries(t testing.TB) {
	t.Helper()
	if os.Getenv(Binaries) == "" {
		t.Skipf("SKIPPED, make test-kubelet, test-kubeadm and test-manifests run this test: they set %s", Binaries)
	}
}

// NeedReal ends the test unless a real kubelet was asked for, as make test-kubelet does, and can be run: that needs root, and
// containerd and runc of Debian. In CI the latter is a failure.
func NeedReal(t testing.TB) {
	t.Helper()
	NeedBinaries(t)
	var missing error
	if os.Geteuid() != 0 {
		missing = errors.New("it needs root")
	}
	for _, program := range []string{Binary("kubelet"), "containerd", "ctr", "runc"} {
		_, err := exec.LookPath(program)
		missing = errors.Join(missing, err)
	}
	if missing != nil {
		lacking.Part(t, "a real kubelet cannot be run: %v", missing)
	}
}

// StartReal starts a containerd and a kubelet with an empty directory of manifests, and with the program that is etcd. The test
// binary has to be static. They end, with all that they run, when the test does.
func StartReal(t testing.TB, etcd Program) *Real {
	t.Helper()
	NeedReal(t)
	root := newRoot(t)
	k := startRuntime(t, root, filepath.Join(root, "kubernetes", "manifests"))
	self, err := os.Executable()
	must(t, err)
	images := map[string]Program{"pause:" + pauseVersion: {self, []string{asPause + "=1"}}, "etcd:" + EtcdVersion: etcd}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		images[name+":"+ComponentVersion] = Program{self, []string{asComponent + "=1"}}
	}
	k.importImages(t, images)
	k.startKubelet(t)
	return k
}

// newRoot makes the directory of a kubelet and its container runtime.
func newRoot(t testing.TB) string {
	t.Helper()
	root, err := os.MkdirTemp("", "requorum-kubelet-") //nolint:usetesting // the path of a socket must be shorter than a test's name
	must(t, err)
	t.Cleanup(func() {
		unmountBelow(t, root)
		must(t, os.RemoveAll(root))
	})
	return root
}

// unmountBelow takes away what the kubelet has mounted: its directory on itself, and volumes of its pods.
func unmountBelow(t testing.TB, root string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], root+"/") {
			if err := unix.Unmount(fields[1], 0); err != nil && !errors.Is(err, unix.EINVAL) { // it is gone already
				t.Errorf("unmount %s: %v", fields[1], err)
			}
		}
	}
}

// startRuntime starts a containerd in root, for a kubelet that runs what has a manifest in dir.
func startRuntime(t testing.TB, root, dir string) *Real {
	t.Helper()
	k := &Real{Kubelet: Kubelet{Dir: dir, Endpoint: "unix://" + root + "/containerd.sock"}, root: root}
	must(t, os.MkdirAll(k.Dir, 0o700))
	fill := strings.NewReplacer("ROOT", root, "MANIFESTS", dir, "PAUSE", pauseVersion)
	for name, text := range map[string]string{"containerd.toml": containerdConfig, "kubelet.yaml": kubeletConfig} {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(fill.Replace(text)), 0o600))
	}
	background(t, root, "containerd", "--config", root+"/containerd.toml")
	conn, err := grpc.NewClient(k.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	k.cri = criv1.NewRuntimeServiceClient(conn)
	k.awaitRuntime(t)
	t.Cleanup(func() { k.removeAll(t) })
	return k
}

// startKubelet starts the kubelet with more arguments.
func (k *Real) startKubelet(t testing.TB, args ...string) {
	t.Helper()
	keepSysctls(t)
	background(t, k.root, Binary("kubelet"), append([]string{
		"--config", k.root + "/kubelet.yaml", "--root-dir", k.root + "/kubelet", "--cert-dir", k.root + "/pki", "--hostname-override", NodeName,
	}, args...)...)
}

// awaitRuntime waits until the container runtime answers.
func (k *Real) awaitRuntime(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := k.cri.Status(ctx, &criv1.StatusRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("containerd does not answer: %v", err)
	}
}

// sysctls are what the kubelet sets for the whole machine when it starts, as Kubernetes' package sysctl lists it.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// readSysctls returns what they were before the process started the first kubelet.
var readSysctls = sync.OnceValues(func() (map[string][]byte, error) {
	values := map[string][]byte{}
	for _, name := range sysctls {
		path := filepath.Join("/proc/sys", name)
		value, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		values[path] = value
	}
	return values, nil
})

// keepSysctls puts back what the kubelet sets, once the test has ended.
func keepSysctls(t testing.TB) {
	t.Helper()
	values, err := readSysctls()
	must(t, err)
	t.Cleanup(func() {
		for path, value := range values {
			if err := os.WriteFile(path, value, 0); err != nil {
				t.Error(err)
			}
		}
	})
}

// containerdConfig is for a host that lacks a few of root's rights, as a container or a small machine may.
const containerdConfig = `version = 2
root = "ROOT/containerd"
state = "ROOT/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "ROOT/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:PAUSE"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "ROOT/cni"
    conf_dir = "ROOT/cni"
`

// kubeletConfig waits no longer than 1 s with a container that ended, so that tests need not.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: MANIFESTS
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
func background(t testing.TB, root, program string, args ...string) {
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
func (k *Real) removeAll(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := k.cri.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	must(t, err)
	for _, box := range list.GetItems() {
		_, err := k.cri.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: box.GetId()})
		must(t, err)
		_, err = k.cri.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: box.GetId()})
		must(t, err)
	}
}

// importImages gives the container runtime images, by the names that manifests have after the registry's.
func (k *Real) importImages(t testing.TB, images map[string]Program) {
	t.Helper()
	path := filepath.Join(k.root, "images.tar")
	must(t, os.WriteFile(path, archive(t, images), 0o600))
	out, err := exec.CommandContext(t.Context(), "ctr", "--address", k.root+"/containerd.sock", "--namespace", "k8s.io", "image", "import", path).CombinedOutput()
	if err != nil {
		t.Fatalf("import images: %v: %s", err, out)
	}
}

// archive returns images as docker save writes them. Those of the same program share their only layer: it has the program in
// /usr/local/bin by the names of all images.
func archive(t testing.TB, images map[string]Program) []byte {
	t.Helper()
	var entries []entry
	var manifest []map[string]any
	layers := map[string][]byte{} // by path of the program
	for name, program := range images {
		layer := layers[program.Path]
		if layer == nil {
			layer = layerOf(t, program.Path, slices.Collect(maps.Keys(images)))
			layers[program.Path] = layer
			entries = append(entries, entry{name: digest(layer) + ".tar", data: layer})
		}
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux",
			"config": map[string]any{"Entrypoint": []string{"/usr/local/bin/" + programOf(name)}, "Env": append([]string{"PATH=/usr/local/bin"}, program.Env...)},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		})
		must(t, err)
		entries = append(entries, entry{name: programOf(name) + ".json", data: config})
		manifest = append(manifest, map[string]any{
			"Config": programOf(name) + ".json", "RepoTags": []string{"registry.k8s.io/" + name}, "Layers": []string{digest(layer) + ".tar"},
		})
	}
	text, err := json.Marshal(manifest)
	must(t, err)
	return tarOf(t, append(entries, entry{name: "manifest.json", data: text}))
}

// programOf is what an image's program is called.
func programOf(image string) string {
	name, _, _ := strings.Cut(image, ":")
	return name
}

func layerOf(t testing.TB, program string, images []string) []byte {
	t.Helper()
	binary, err := os.ReadFile(program)
	must(t, err)
	slices.Sort(images)
	entries := []entry{{name: "usr/local/bin/program", data: binary}}
	for _, image := range images {
		entries = append(entries, entry{name: "usr/local/bin/" + programOf(image), link: "program"})
	}
	return tarOf(t, entries)
}

// entry is a file of an archive, or a link.
type entry struct {
	name string
	data []byte
	link string
}

func tarOf(t testing.TB, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.data)), Mode: 0o755, ModTime: time.Unix(0, 0)}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		must(t, w.WriteHeader(h))
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
