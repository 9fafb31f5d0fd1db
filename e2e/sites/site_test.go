package sites

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/e2e/hosts/operator"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/fault/faulttest"
	"github.com/requorum/requorum/internal/hosttest"
	"github.com/requorum/requorum/internal/lacking"
)

const (
	certificates = "/etc/kubernetes/ssl" // where RKE1 has etcd's
	faultsDir    = "/faults"             // on every host, the directory of armed fault points
)

// site is a controller and three nodes, each on a host of its own, with requorum from its package. Every link is TLS.
type site struct {
	*harness.Cluster
	layout

	t          *testing.T
	controller *hosttest.Host
	nodes      []*hosttest.Host
	ca         *etcdtest.CA
	client     *tls.Config
	dir        string // of this machine, for what belongs to the site
	deb        string
	faults     string // binary with fault points, once the hosts have it
}

// newSite installs all, and enrols the agents, which are not told how etcd is run.
func newSite(t *testing.T, l layout) *site {
	t.Helper()
	hosttest.Image(t) // before anything is built
	s := &site{t: t, layout: l, deb: os.Getenv("REQUORUM_DEB"), dir: t.TempDir()}
	if s.deb == "" {
		lacking.Part(t, "REQUORUM_DEB names no package; make e2e-hosts makes one, and takes minutes")
	}
	if err := errors.Join(os.Mkdir(s.armed(), 0o777), os.Chmod(s.armed(), 0o777)); err != nil { // the controller is not root
		t.Fatal(err)
	}
	hosts := hosttest.Start(t, hosttest.Options{
		Run: []string{"--volume", s.armed() + ":" + faultsDir}, Volumes: append([]string{"/var/lib/requorum"}, l.volumes()...),
	}, "controller", "etcd-1", "etcd-2", "etcd-3").Hosts
	s.controller, s.nodes = hosts[0], hosts[1:]
	t.Cleanup(s.showLogs)
	s.startEtcd()
	for _, h := range hosts {
		s.install(h)
	}
	s.startController()
	s.enrol()
	s.attach()
	return s
}

func (s *site) armed() string { return filepath.Join(s.dir, "faults") }

func (s *site) hosts() []*hosttest.Host { return append([]*hosttest.Host{s.controller}, s.nodes...) }

func (s *site) host(name string) *hosttest.Host {
	s.t.Helper()
	for _, h := range s.hosts() {
		if h.Name == name {
			return h
		}
	}
	s.t.Fatalf("there is no host %s", name)
	return nil
}

// part runs a part of a test on the site. Where one has failed, the next ones mean nothing.
func (s *site) part(name string, f func()) {
	whole := s.t
	whole.Run(name, func(t *testing.T) {
		s.tell(t)
		defer s.tell(whole)
		f()
	})
	if whole.Failed() {
		whole.FailNow()
	}
}

func (s *site) tell(t *testing.T) {
	s.t = t
	s.On(t)
	for _, h := range s.hosts() {
		h.On(t)
	}
}

// startEtcd makes certificates for every member and starts all.
func (s *site) startEtcd() {
	s.t.Helper()
	s.ca = etcdtest.NewCA(s.t)
	var all []string
	for _, h := range s.nodes {
		all = append(all, fmt.Sprintf("%s=https://%s:2380", h.Name, h.Address))
	}
	for _, h := range s.nodes {
		h.Run("useradd", "--system", "etcd")
		h.Run("install", "-d", certificates)
		cert, key := s.ca.IssueFor(s.t, h.Name, h.Address, "127.0.0.1")
		for from, to := range map[string]string{s.ca.File: "ca.pem", cert: "etcd.pem", key: "etcd-key.pem"} {
			h.Copy(from, filepath.Join(certificates, to))
		}
		h.Run("chown", "-R", "etcd", certificates)
		h.Copy(etcdBinary(s.t), "/usr/local/bin/etcd")
		s.run(h, member{host: h, peers: strings.Join(all, ",")})
	}
	cert, key := s.ca.Issue(s.t, "client")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.client = &tls.Config{RootCAs: s.ca.Pool(), Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// etcdBinary is a released etcd, or, without REQUORUM_ETCDS, the one in requorum's own binary.
func etcdBinary(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("REQUORUM_ETCDS"); dir != "" {
		return filepath.Join(dir, "etcd-3.7")
	}
	return operator.Binary(t)
}

// install installs requorum's package, and the binary with fault points over it if the site has come to that.
func (s *site) install(h *hosttest.Host) {
	s.t.Helper()
	h.Copy(s.deb, "/root/requorum.deb")
	h.Run("sh", "-c", "dpkg -i /root/requorum.deb </dev/null")
	if s.faults != "" {
		s.makeFaulty(h)
	}
}

// makeFaulty replaces the binary by one with fault points, which the units tell where to look.
func (s *site) makeFaulty(h *hosttest.Host) {
	s.t.Helper()
	h.Copy(s.faults, "/usr/bin/requorum.faults")
	h.Run("mv", "/usr/bin/requorum.faults", "/usr/bin/requorum") // what runs is not written to
	for _, role := range []string{"controller", "agent"} {
		h.Write("/etc/systemd/system/requorum-"+role+".service.d/faults.conf", fmt.Sprintf(
			"[Service]\nEnvironment=REQUORUM_FAULTS_DIR=%s REQUORUM_FAULT_NODE=%s\nReadWritePaths=%s\n", faultsDir, h.Name, faultsDir))
	}
	h.Run("systemctl", "daemon-reload")
}

// startController configures and starts the controller. What waits for nodes waits for a short time here.
func (s *site) startController() {
	s.t.Helper()
	s.controller.Write("/etc/requorum/controller.yaml", fmt.Sprintf(
		"listen: \":7079\"\ndata_dir: /var/lib/requorum/controller\nadvertise: [%s, controller]\nheartbeat: %s\noffline_after: %s\nstalled_after: %s\n",
		s.controller.Address, heartbeat, offline, stalled))
	s.controller.Run("systemctl", "enable", "--now", "requorum-controller")
	operator.AwaitServing(s.t, s.controller)
}

func (s *site) enrol() {
	s.t.Helper()
	token := s.cli("token", "create", "--cluster", harness.Name)
	for _, h := range s.nodes {
		h.Write("/etc/requorum/join-token", token)
		h.Write("/etc/requorum/agent.yaml", "controller: controller:7079\ntoken_file: /etc/requorum/join-token\nstart_wait: 20s\n")
		h.Run("systemctl", "enable", "--now", "requorum-agent")
	}
	s.awaitHealthy()
}

// attach makes this machine an operator's.
func (s *site) attach() {
	s.t.Helper()
	dir := filepath.Join(s.dir, "controller")
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.controller.Fetch(operator.AdminDir, dir)
	e := harness.Elsewhere{Dir: s.dir, Address: s.controller.Address + ":7079", ClientTLS: s.client, Faults: faulttest.Dir(s.armed())}
	for _, h := range s.nodes {
		e.Nodes = append(e.Nodes, &dev.Node{Name: h.Name, ClientURL: "https://" + h.Address + ":2379", AgentDir: "/var/lib/requorum/agent"})
	}
	s.Cluster = harness.Attach(s.t, e)
}

// try runs a command of requorum as the admin, on the controller's host.
func (s *site) try(args ...string) (string, error) {
	return operator.Try(s.t.Context(), s.controller, args...)
}

func (s *site) cli(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// awaitHealthy waits until every agent is connected and every member serves.
func (s *site) awaitHealthy() { operator.AwaitHealthy(s.t, s.controller, len(s.nodes)) }

// on runs a command on a host, as root.
func on(h *hosttest.Host, command ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	return h.Exec(ctx, command...)
}

// showLogs shows of a test that failed what the units said last.
func (s *site) showLogs() {
	if !s.t.Failed() {
		return
	}
	for _, h := range s.hosts() {
		out, err := on(h, "journalctl", "--no-pager", "--lines=80", "--output=cat", "--unit=requorum-*")
		s.t.Logf("---- %s (%v)\n%s", h.Name, err, out)
	}
}
