package hosts

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/requorum/requorum/agent/runtime/staticpod"
	"github.com/requorum/requorum/e2e/hosts/operator"
	"github.com/requorum/requorum/internal/hosttest"
	"github.com/requorum/requorum/internal/kubelettest"
)

func TestMain(m *testing.M) {
	kubelettest.Main()
	os.Exit(m.Run())
}

// etcd is a member's command where it is alone on its host.
var etcd = []string{
	"/usr/local/bin/etcd", "--name=m1", "--data-dir=/var/lib/etcd", "--listen-client-urls=http://0.0.0.0:2379", "--advertise-client-urls=http://127.0.0.1:2379",
	"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=m1=http://127.0.0.1:2380",
}

// The unit of the packages lets the agent do what each runtime needs. TestPackage is that of systemd.
func TestPackagedUnit(t *testing.T) {
	hosttest.Image(t)
	dir := packages(t, "v1.0.0")
	for name, c := range map[string]struct {
		run     func(p packaged) // runs etcd, if the agent does not
		runtime string           // of agent.yaml; found out if empty
	}{
		"process":   {packaged.prepareProcess, "  process:\n    command: [" + strings.Join(etcd, ", ") + "]\n    uid: 1234\n    gid: 1234\n"},
		"exec":      {packaged.runOwnUnit, ownUnit},
		"docker":    {packaged.runContainers, "  docker:\n    container: etcd\n"},
		"staticpod": {packaged.runStaticPods, ""},
		"k3s":       {packaged.runK3s, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPackaged(t, deb)
			p.host.Copy(operator.Binary(t), "/usr/local/bin/etcd")
			p.install("v1.0.0", dir)
			c.run(p)
			if c.runtime != "" {
				p.host.Write("/root/runtime.yaml", "runtime:\n"+c.runtime)
				p.shell("cat /root/runtime.yaml >>/etc/requorum/agent.yaml")
			}
			p.connect("http://" + p.host.Address + ":2379")
			p.restoresInItsUnit()
		})
	}
}

// restoresInItsUnit saves and restores, and lets a new agent find its etcd.
func (p packaged) restoresInItsUnit() {
	p.t.Helper()
	p.configure()
	p.put("in the snapshot")
	p.cli("snapshot", "save", "--name", "before")
	p.put("after it")
	p.cli("restore", "--snapshot", "before", "--yes")
	p.expect("in the snapshot")
	member := p.listener()
	p.host.Run("systemctl", "restart", "requorum-agent")
	p.awaitHealthy()
	if now := p.listener(); now != member {
		p.t.Errorf("with the agent etcd was restarted, too: it was %s, and is %s", member, now)
	}
	p.put("and it works on")
	said := p.host.Run("journalctl", "--unit", "requorum-agent", "--output", "cat", "--no-pager")
	for _, refusal := range []string{"permission denied", "operation not permitted", "read-only"} {
		if strings.Contains(strings.ToLower(said), refusal) {
			p.t.Errorf("the unit keeps the agent from something:\n%s", said)
		}
	}
}

// listener names the process that serves etcd's clients.
func (p packaged) listener() string {
	p.t.Helper()
	return p.host.Run("ss", "-Hltnp", "sport = :2379")
}

// prepareProcess makes a user for etcd, which the agent starts.
func (p packaged) prepareProcess() {
	p.t.Helper()
	p.host.Run("useradd", "--system", "--uid", "1234", "etcd")
	p.host.Run("install", "-d", "-o", "1234", "-g", "1234", "-m", "0700", "/var/lib/etcd")
}

const ownUnit = `  exec:
    stop: [systemctl, stop, own]
    start: [systemctl, start, own]
    status: [systemctl, is-active, own]
    member:
      name: m1
      data_dir: /var/lib/etcd
      listen_client_urls: ["http://0.0.0.0:2379"]
      advertise_client_urls: ["http://127.0.0.1:2379"]
      listen_peer_urls: ["http://127.0.0.1:2380"]
      initial_advertise_peer_urls: ["http://127.0.0.1:2380"]
`

// runOwnUnit runs etcd by commands that happen to be systemctl's.
func (p packaged) runOwnUnit() {
	p.t.Helper()
	run(p.host, "own.service", "[Service]\nExecStart="+strings.Join(etcd, " ")+"\n\n[Install]\nWantedBy=multi-user.target\n")
}

// runContainers runs etcd as RKE1 does, and something that stands for the control plane.
func (p packaged) runContainers() {
	p.t.Helper()
	p.host.Run("systemctl", "start", "docker") // the host's own
	p.shell("tar -C / -c --no-recursion usr usr/local usr/local/bin usr/local/bin/etcd | docker import - test/etcd:1")
	const inContainer = "/var/lib/rancher/etcd/"
	start := []string{"docker", "run", "--detach", "--network", "host", "--restart", "always"}
	command := append([]string{"test/etcd:1"}, etcd...)
	p.host.Run(append(append(start, "--name", "etcd", "--volume", "/var/lib/etcd:"+inContainer+":z"), append(command, "--data-dir="+inContainer)...)...)
	p.host.Run(append(start, "--name", "kube-apiserver", "test/etcd:1", "/usr/local/bin/etcd", "--data-dir=/data", "--listen-client-urls=unix://client:0", "--advertise-client-urls=unix://client:0",
		"--listen-peer-urls=unix://peer:0", "--initial-advertise-peer-urls=unix://peer:0", "--initial-cluster=default=unix://peer:0")...)
}

// k3s writes what k3s does, and is etcd, as the stand-in in the tests of that runtime.
const k3s = `#!/bin/sh
set -e
dir=/var/lib/rancher/k3s/server/db/etcd
mkdir -p "$dir"
chmod 0700 "$dir"
printf server-1-0a1b2c3d >"$dir/name"
cat >"$dir/config" <<EOF
name: server-1-0a1b2c3d
data-dir: $dir
listen-client-urls: http://0.0.0.0:2379
advertise-client-urls: http://127.0.0.1:2379
listen-peer-urls: http://127.0.0.1:2380,http://ADDRESS:2380
EOF
[ -e "$dir/member/wal" ] || cat >>"$dir/config" <<EOF
initial-advertise-peer-urls: http://ADDRESS:2380
initial-cluster: server-1-0a1b2c3d=http://ADDRESS:2380
initial-cluster-state: new
EOF
exec /usr/local/bin/etcd --config-file="$dir/config"
`

func (p packaged) runK3s() {
	p.t.Helper()
	p.host.Write("/usr/local/bin/k3s", strings.ReplaceAll(k3s, "ADDRESS", p.host.Address))
	p.host.Run("chmod", "0755", "/usr/local/bin/k3s")
	run(p.host, "k3s.service", "[Service]\nExecStart=/usr/local/bin/k3s server\nKillMode=process\nRestart=always\n\n[Install]\nWantedBy=multi-user.target\n")
}

// kubelet stands for the kubelet's unit, which is restarted.
const kubelet = "[Service]\nExecStart=/bin/sleep infinity\n\n[Install]\nWantedBy=multi-user.target\n"

// standIn runs TestStandInForKubelet on the host, which goes on over the restart.
const standIn = "[Service]\nEnvironment=REQUORUM_ON_HOST=1\nExecStart=/usr/local/lib/requorum/tests -test.run=^TestStandInForKubelet$ -test.timeout=0\n\n[Install]\nWantedBy=multi-user.target\n"

const manifests = "/etc/kubernetes/manifests"

func (p packaged) runStaticPods() {
	p.t.Helper()
	p.host.Install()
	all := map[string]string{"etcd.yaml": kubelettest.EtcdManifest(etcd[1:], "/var/lib/etcd", "http://127.0.0.1:2379", 0, 0)}
	for i, name := range staticpod.DefaultControlPlane() {
		all[name] = kubelettest.ComponentManifest(strings.TrimSuffix(name, ".yaml"), 6443+i)
	}
	for name, text := range all {
		p.host.Write(filepath.Join(manifests, name), text)
	}
	p.host.Run("mkdir", "-p", "/run/containerd")
	run(p.host, "kubelet.service", kubelet)
	run(p.host, "stand-in.service", standIn)
	p.host.Await("etcd has been started", func() (bool, error) {
		_, err := p.host.Exec(p.t.Context(), "sh", "-c", "ss -Hltn 'sport = :2379' | grep .")
		return err == nil, err
	})
}

// TestStandInForKubelet is a stand-in for a kubelet and its container runtime on a host.
func TestStandInForKubelet(t *testing.T) {
	hosttest.Inside(t)
	kubelettest.StartStandInAt(t, kubelettest.Program{Path: "/usr/local/bin/etcd"}, kubelettest.Kubelet{Dir: manifests, Endpoint: "unix:///run/containerd/containerd.sock"})
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
}
