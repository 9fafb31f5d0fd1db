package kubelettest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostAddress is that of a host of its own.
const hostAddress = "10.77.0.1"

// asHost is set in the environment of a test that has a host of its own.
const asHost = "REQUORUM_TEST_HOST"

// OnOwnHost runs the rest of the test in namespaces of its own of mounts and of the network, as another process of the test binary: with
// a copy of /etc, and an address that nobody else has. It returns false in the process that only waits for that.
func OnOwnHost(t *testing.T) bool {
	t.Helper()
	if os.Getenv(asHost) == "" {
		self, err := os.Executable()
		must(t, err)
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=0")
		cmd.Env = append(os.Environ(), asHost+"=1")
		cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
		runtime.LockOSThread() // the process ends with the thread that started it
		defer runtime.UnlockOSThread()
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		must(t, cmd.Run())
		return false
	}
	// Nothing that is mounted here is seen outside; containers and kubelet share what they mount.
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""))
	etc := filepath.Join(t.TempDir(), "etc")
	command(t, "cp", "--archive", "/etc", etc)
	must(t, unix.Mount(etc, "/etc", "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount("/etc", unix.MNT_DETACH)) })
	command(t, "ip", "link", "set", "lo", "up")
	command(t, "ip", "address", "add", hostAddress+"/24", "dev", "lo")
	return true
}

func command(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Kubeadm is a host whose control plane kubeadm has set up: real programs in static pods, of a node that is registered.
type Kubeadm struct {
	*Real
	Config string // kubeadm's, a path
}

// KubeadmDir is where kubeadm keeps all but data.
const KubeadmDir = "/etc/kubernetes"

const kubeadmConfig = `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: ADDRESS}
nodeRegistration: {name: NODE, criSocket: "unix://ROOT/containerd.sock"}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: VERSION
etcd: {local: {dataDir: ROOT/etcd}}
controllerManager: {extraArgs: [{name: flex-volume-plugin-dir, value: /etc/kubernetes/volume-plugins}]}
`

// StartKubeadm has kubeadm write certificates, kubeconfigs and manifests, and starts the kubelet that runs them. It needs a host of its
// own. The etcd binary has to be static.
func StartKubeadm(t *testing.T, etcd string) *Kubeadm {
	t.Helper()
	root := newRoot(t)
	k := &Kubeadm{Real: startRuntime(t, root, KubeadmDir+"/manifests"), Config: root + "/kubeadm.yaml"}
	text := strings.NewReplacer("ADDRESS", hostAddress, "NODE", NodeName, "ROOT", root, "VERSION", ComponentVersion).Replace(kubeadmConfig)
	must(t, os.WriteFile(k.Config, []byte(text), 0o600))
	// The kubelet begins once all is written: it would else start etcd long before the rest, as on a slow host.
	for _, phase := range []string{"certs", "kubeconfig", "etcd local", "control-plane"} {
		args := append([]string{"init", "phase"}, strings.Fields(phase)...)
		if !strings.Contains(phase, " ") {
			args = append(args, "all")
		}
		k.Kubeadm(t, append(args, "--config="+k.Config)...)
	}
	self, err := os.Executable()
	must(t, err)
	images := map[string]Program{"pause:" + pauseVersion: {self, []string{asPause + "=1"}}}
	for image := range strings.FieldsSeq(k.Kubeadm(t, "config", "images", "list", "--config="+k.Config)) {
		name := strings.TrimPrefix(image, "registry.k8s.io/")
		switch program, _, _ := strings.Cut(name, ":"); program {
		case "kube-apiserver", "kube-controller-manager", "kube-scheduler":
			images[name] = Program{Path: Binary(program)}
		case "etcd":
			images[name] = Program{Path: etcd}
		}
	}
	if len(images) != 5 {
		t.Fatalf("kubeadm wants other images than expected: %v", images)
	}
	k.importImages(t, images)
	k.startKubelet(t, "--kubeconfig", KubeadmDir+"/kubelet.conf", "--node-ip", hostAddress)
	return k
}

// Kubeadm runs kubeadm and returns what it said.
func (k *Kubeadm) Kubeadm(t testing.TB, args ...string) string {
	t.Helper()
	return command(t, Binary("kubeadm"), args...)
}

// Kubectl runs kubectl as an administrator.
func (k *Kubeadm) Kubectl(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Binary("kubectl"), append([]string{"--kubeconfig", KubeadmDir + "/super-admin.conf", "--cache-dir", k.root + "/kubectl"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return string(out), err
}

// Containers returns the running containers of the control plane, by name.
func (k *Kubeadm) Containers(t testing.TB) map[string]*criv1.Container {
	t.Helper()
	list, err := k.cri.ListContainers(t.Context(), &criv1.ListContainersRequest{
		Filter: &criv1.ContainerFilter{State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}},
	})
	must(t, err)
	running := map[string]*criv1.Container{}
	for _, c := range list.GetContainers() {
		running[c.GetMetadata().GetName()] = c
	}
	return running
}
