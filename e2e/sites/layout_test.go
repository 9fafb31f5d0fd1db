package sites

import (
	"fmt"
	"strings"

	"github.com/requorum/requorum/e2e/hosts/operator"
	"github.com/requorum/requorum/internal/hosttest"
)

// layout is how etcd, and what writes to it, is run on a host.
type layout interface {
	runtime() string   // as requorum calls it
	volumes() []string // directories that cannot be on a container's own file system
	run(h *hosttest.Host, m member)
	// running returns an error unless etcd and what writes to it run, and nothing would keep them stopped.
	running(h *hosttest.Host) error
	// kept returns an error unless etcd is stopped, and stays so over a reboot.
	kept(h *hosttest.Host) error
	// begun tells when etcd was started last; nothing if that was before the host booted and nobody knows.
	begun(h *hosttest.Host) (string, error)
}

// member is a member of etcd on a host.
type member struct {
	host  *hosttest.Host
	peers string // initial cluster
}

// flags are those of the member with its data in a directory.
func (m member) flags(dataDir string) [][2]string {
	client, peer := fmt.Sprintf("https://%s:2379", m.host.Address), fmt.Sprintf("https://%s:2380", m.host.Address)
	ca, cert, key := certificates+"/ca.pem", certificates+"/etcd.pem", certificates+"/etcd-key.pem"
	return [][2]string{
		{"name", m.host.Name},
		{"data-dir", dataDir},
		{"listen-client-urls", client},
		{"advertise-client-urls", client},
		{"listen-peer-urls", peer},
		{"initial-advertise-peer-urls", peer},
		{"initial-cluster", m.peers},
		{"client-cert-auth", "true"},
		{"trusted-ca-file", ca},
		{"cert-file", cert},
		{"key-file", key},
		{"peer-client-cert-auth", "true"},
		{"peer-trusted-ca-file", ca},
		{"peer-cert-file", cert},
		{"peer-key-file", key},
	}
}

// units run as units of systemd.
type units struct{}

func (units) runtime() string   { return "systemd" }
func (units) volumes() []string { return nil }

func (units) run(h *hosttest.Host, m member) {
	const data = "/var/lib/etcd"
	h.Run("install", "-d", "-o", "etcd", "-m", "0700", data)
	var environment strings.Builder
	for _, f := range m.flags(data) {
		fmt.Fprintf(&environment, "ETCD_%s=%s\n", strings.ToUpper(strings.ReplaceAll(f[0], "-", "_")), f[1])
	}
	h.Write("/etc/etcd.env", environment.String())
	for name, content := range map[string]string{"kube-apiserver": operator.APIServerUnit, "etcd": operator.EtcdUnit} {
		h.Write("/etc/systemd/system/"+name+".service", content)
		h.Run("systemctl", "enable", name)
	}
	h.Run("systemctl", "daemon-reload")
	h.Run("systemctl", "start", "--no-block", "kube-apiserver", "etcd") // one etcd alone is never ready
}

func (units) running(h *hosttest.Host) error {
	if out, err := on(h, "systemctl", "is-active", "etcd", "kube-apiserver"); err != nil {
		return fmt.Errorf("%s: %w: %s", h.Name, err, out)
	}
	return nothing(h, "/etc/systemd/system", "*requorum-st*")
}

func (units) kept(h *hosttest.Host) error {
	if state, err := on(h, "systemctl", "is-active", "etcd"); err == nil || strings.TrimSpace(state) != "inactive" {
		return fmt.Errorf("%s: etcd is %s", h.Name, state)
	}
	if _, err := on(h, "test", "-e", "/etc/systemd/system/etcd.service.d/zz-requorum-stopped.conf"); err != nil {
		return err
	}
	if out, err := on(h, "systemctl", "start", "etcd"); err == nil {
		return fmt.Errorf("%s: the old data was started by hand: %s", h.Name, out)
	}
	return nil
}

func (units) begun(h *hosttest.Host) (string, error) {
	return on(h, "systemctl", "show", "--value", "--property=ExecMainStartTimestamp", "etcd")
}

// containers run in an engine of the host's own, as RKE1 lays them out.
type containers struct{}

func (containers) runtime() string   { return "docker" }
func (containers) volumes() []string { return []string{"/var/lib/docker"} } // layers of layers do not work

const imageRecipe = `set -e
mkdir -p /root/image/usr/local/bin
cp /usr/local/bin/etcd /root/image/usr/local/bin/
ln -sf etcd /root/image/usr/local/bin/kube-apiserver
tar -C /root/image -c . | docker import - requorum-test/etcd:1
rm -r /root/image
`

func (containers) run(h *hosttest.Host, m member) {
	h.Run("systemctl", "enable", "--now", "containerd", "docker")
	h.Run("sh", "-c", imageRecipe)
	const inContainer = "/var/lib/rancher/etcd/"
	etcd := []string{
		"docker", "run", "--detach", "--name=etcd", "--net=host", "--restart=always", "--volume=/var/lib/etcd:" + inContainer + ":z",
		"--volume=/etc/kubernetes:/etc/kubernetes:z", "requorum-test/etcd:1", "/usr/local/bin/etcd",
	}
	for _, f := range m.flags(inContainer) {
		etcd = append(etcd, "--"+f[0]+"="+f[1])
	}
	h.Run(etcd...)
	h.Run("docker", "run", "--detach", "--name=kube-apiserver", "--net=host", "--restart=always", "--volume=/data", // any process that goes on
		"requorum-test/etcd:1", "/usr/local/bin/kube-apiserver", "--data-dir=/data", "--listen-client-urls=unix://client:0",
		"--advertise-client-urls=unix://client:0", "--listen-peer-urls=unix://peer:0", "--initial-advertise-peer-urls=unix://peer:0",
		"--initial-cluster=default=unix://peer:0")
	// What docs/runtimes/docker.md says of the agent's unit.
	h.Write("/etc/systemd/system/requorum-agent.service.d/docker.conf", "[Unit]\nAfter=docker.service\n")
}

const dockerHolds = "/var/lib/requorum/docker"

func (containers) running(h *hosttest.Host) error {
	for _, name := range []string{"etcd", "kube-apiserver"} {
		state, err := on(h, "docker", "inspect", "--format={{.State.Running}} {{.HostConfig.RestartPolicy.Name}}", name)
		if err != nil || strings.TrimSpace(state) != "true always" {
			return fmt.Errorf("%s: container %s: %s, %w", h.Name, name, state, err)
		}
	}
	return nothing(h, dockerHolds, "*")
}

func (containers) kept(h *hosttest.Host) error {
	state, err := on(h, "docker", "inspect", "--format={{.State.Running}} {{.HostConfig.RestartPolicy.Name}}", "etcd")
	if err != nil || strings.TrimSpace(state) != "false no" {
		return fmt.Errorf("%s: container etcd: %s, %w", h.Name, state, err)
	}
	_, err = on(h, "test", "-e", dockerHolds+"/etcd.json")
	return err
}

func (containers) begun(h *hosttest.Host) (string, error) {
	return on(h, "docker", "inspect", "--format={{.State.StartedAt}}", "etcd")
}

// nothing returns an error if a directory has files of that name in it.
func nothing(h *hosttest.Host, dir, name string) error {
	left, err := on(h, "sh", "-c", "[ ! -e "+dir+" ] || find "+dir+" -mindepth 1 -name '"+name+"'")
	if err == nil && left != "" {
		err = fmt.Errorf("%s: left behind: %s", h.Name, left)
	}
	return err
}
