package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/internal/hosttest"
)

const etcdUnit = `[Unit]
Description=etcd
After=network-online.target

[Service]
Type=notify
User=etcd
EnvironmentFile=/etc/etcd.env
ExecStart=/usr/local/bin/etcd
Restart=always

[Install]
WantedBy=multi-user.target
`

// apiserverUnit stands for what writes to etcd.
const apiserverUnit = `[Service]
ExecStart=/bin/sleep infinity
Restart=always

[Install]
WantedBy=multi-user.target
`

// unit runs requorum in one of its roles.
func unit(role string) string {
	return fmt.Sprintf("[Service]\nExecStart=/usr/local/bin/requorum %s --config /etc/requorum/%s.yaml\nRestart=always\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n", role, role)
}

// site is a controller and three nodes, each on a host of its own.
type site struct {
	t          *testing.T
	controller *hosttest.Host
	nodes      []*hosttest.Host
	client     *clientv3.Client
}

// newSite installs all, with etcd as start runs it, and enrols the agents, which are not told how etcd is run.
func newSite(t *testing.T, start func(*site)) *site {
	t.Helper()
	hosts := hosttest.Start(t, hosttest.Options{}, "controller", "etcd-1", "etcd-2", "etcd-3").Hosts
	s := &site{t: t, controller: hosts[0], nodes: hosts[1:]}
	binary := requorum(t)
	for _, h := range hosts {
		h.Copy(binary, "/usr/local/bin/requorum")
		h.Run("ln", "-s", "/usr/local/bin/requorum", "/usr/local/bin/etcd")
	}
	start(s)
	s.controller.Write("/etc/requorum/controller.yaml", "listen: \":7079\"\ndata_dir: /var/lib/requorum/controller\nadvertise: [controller]\n")
	run(s.controller, "requorum-controller.service", unit("controller"))
	s.controller.Await("the controller serves", func() (bool, error) { _, err := s.try("cluster", "ls"); return err == nil, err })
	token := s.cli("token", "create", "--cluster", "prod")
	for _, h := range s.nodes {
		h.Write("/etc/requorum/join-token", token)
		h.Write("/etc/requorum/agent.yaml", "controller: controller:7079\ntoken_file: /etc/requorum/join-token\n")
		run(h, "requorum-agent.service", unit("agent"))
	}
	s.awaitHealthy()
	return s
}

// requorum returns the static binary that REQUORUM_BIN names, or builds it.
func requorum(t *testing.T) string {
	t.Helper()
	if given := os.Getenv("REQUORUM_BIN"); given != "" {
		return given
	}
	file := filepath.Join(t.TempDir(), "requorum")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", file, "../../cmd/requorum")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build requorum: %v\n%s", err, out)
	}
	return file
}

// run installs a unit and starts it, without waiting until it is ready: one etcd alone never is.
func run(h *hosttest.Host, name, content string) {
	h.Write("/etc/systemd/system/"+name, content)
	h.Run("systemctl", "daemon-reload")
	h.Run("systemctl", "enable", "--now", "--no-block", name)
}

func (s *site) startEtcd() {
	s.t.Helper()
	var cluster, endpoints []string
	for _, h := range s.nodes {
		cluster = append(cluster, fmt.Sprintf("%s=http://%s:2380", h.Name, h.Address))
		endpoints = append(endpoints, fmt.Sprintf("http://%s:2379", h.Address))
	}
	for i, h := range s.nodes {
		h.Run("useradd", "--system", "etcd")
		h.Run("install", "-d", "-o", "etcd", "-m", "0700", "/var/lib/etcd")
		peer := fmt.Sprintf("http://%s:2380", h.Address)
		h.Write("/etc/etcd.env", strings.Join([]string{
			"ETCD_NAME=" + h.Name, "ETCD_DATA_DIR=/var/lib/etcd",
			"ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379", "ETCD_ADVERTISE_CLIENT_URLS=" + endpoints[i],
			"ETCD_LISTEN_PEER_URLS=" + peer, "ETCD_INITIAL_ADVERTISE_PEER_URLS=" + peer, "ETCD_INITIAL_CLUSTER=" + strings.Join(cluster, ","), "",
		}, "\n"))
		run(h, "kube-apiserver.service", apiserverUnit)
		run(h, "etcd.service", etcdUnit)
	}
	s.connect(endpoints...)
}

// connect makes the client that put and expect use.
func (s *site) connect(endpoints ...string) {
	s.t.Helper()
	var err error
	if s.client, err = clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialTimeout: time.Minute}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := s.client.Close(); err != nil {
			s.t.Error(err)
		}
	})
}

// try runs a command of requorum as the admin, on the controller's host.
func (s *site) try(args ...string) (string, error) {
	return s.controller.Exec(s.t.Context(), append([]string{"env", "REQUORUM_CONFIG=/var/lib/requorum/controller/admin/requorum.yaml", "requorum"}, args...)...)
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
func (s *site) awaitHealthy() {
	s.t.Helper()
	s.controller.Await("the cluster is healthy", func() (bool, error) {
		status, err := s.try("cluster", "status")
		serve := strings.Count(status, "leader") + strings.Count(status, "follower")
		return strings.Contains(status, "3 of 3 connected") && serve == 3, errors.Join(err, errors.New(status))
	})
}

func (s *site) put(value string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if _, err := s.client.Put(ctx, "key", value); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) expect(value string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	got, err := s.client.Get(ctx, "key")
	if err != nil {
		s.t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		s.t.Fatalf("etcd answers %v, expected %q", got.Kvs, value)
	}
}

// expectUnits fails unless the units run and nothing keeps them stopped, on every node.
func (s *site) expectUnits() {
	s.t.Helper()
	for _, h := range s.nodes {
		h.Run("systemctl", "is-active", "etcd", "kube-apiserver")
		if left := h.Run("find", "/etc/systemd/system", "/var/lib", "-name", "*requorum-stop*", "-o", "-name", "*.staging-*"); left != "" {
			s.t.Errorf("%s: left behind: %s", h.Name, left)
		}
	}
}
