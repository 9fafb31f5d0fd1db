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

// Binary names the variable with the path of a kubelet.
const Binary = "REQUORUM_KUBELET"

// Real is a kubelet without an API server, and its container runtime.
type Real struct {
	Kubelet
	root string
	cri  criv1.RuntimeServiceClient
}

// NeedReal ends the test unless a real kubelet was asked for, as make test-kubelet does, and can be run: that needs root, and
// containerd and runc of Debian. In CI the latter is a failure.
func NeedReal(t testing.TB) {
	t.Helper()
	if os.Getenv(Binary) == "" {
		t.Skipf("SKIPPED, make test-kubelet runs this test: it sets %s", Binary)
	}
	var missing error
	if os.Geteuid() != 0 {
		missing = errors.New("it needs root")
	}
	for _, program := range []string{os.Getenv(Binary), "containerd", "ctr", "runc"} {
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
	root, err := os.MkdirTemp("", "requorum-kubelet-") //nolint:usetesting // the path of a socket must be shorter than a test's name
	must(t, err)
	t.Cleanup(func() {
		if err := unix.Unmount(root+"/kubelet", 0); err != nil && !errors.Is(err, unix.EINVAL) { // the kubelet's mount of its directory on itself
			t.Error(err)
		}
		must(t, os.RemoveAll(root))
	})
	k := &Real{Kubelet: Kubelet{Dir: filepath.Join(root, "kubernetes", "manifests"), Endpoint: "unix://" + root + "/containerd.sock"}, root: root}
	must(t, os.MkdirAll(k.Dir, 0o700))
	fill := strings.NewReplacer("ROOT", root)
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
	k.importImages(t, etcd)
	keepSysctls(t)
	background(t, root, os.Getenv(Binary), "--config", root+"/kubelet.yaml", "--root-dir", root+"/kubelet", "--cert-dir", root+"/pki", "--hostname-override", "node-1")
	return k
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

// importImages gives the container runtime images of the names that the manifests have. All but etcd's hold the test binary, which
// stands for the control plane, and for what keeps a sandbox.
func (k *Real) importImages(t testing.TB, etcd Program) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	images := map[string]Program{"pause:3.10": {self, []string{asPause + "=1"}}, "etcd:" + EtcdVersion: etcd}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		images[name+":"+ComponentVersion] = Program{self, []string{asComponent + "=1"}}
	}
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
			"config": map[string]any{"Entrypoint": []string{"/usr/local/bin/" + command(name)}, "Env": append([]string{"PATH=/usr/local/bin"}, program.Env...)},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		})
		must(t, err)
		entries = append(entries, entry{name: command(name) + ".json", data: config})
		manifest = append(manifest, map[string]any{
			"Config": command(name) + ".json", "RepoTags": []string{"registry.k8s.io/" + name}, "Layers": []string{digest(layer) + ".tar"},
		})
	}
	text, err := json.Marshal(manifest)
	must(t, err)
	return tarOf(t, append(entries, entry{name: "manifest.json", data: text}))
}

// command is what an image's program is called.
func command(image string) string {
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
		entries = append(entries, entry{name: "usr/local/bin/" + command(image), link: "program"})
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
