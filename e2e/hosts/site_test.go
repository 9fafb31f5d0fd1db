package hosts

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/e2e/hosts/operator"
	"github.com/requorum/requorum/internal/hosttest"
)

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
	binary := operator.Binary(t)
	for _, h := range hosts {
		h.Copy(binary, "/usr/local/bin/requorum")
		h.Run("ln", "-s", "/usr/local/bin/requorum", "/usr/local/bin/etcd")
	}
	start(s)
	s.controller.Write("/etc/requorum/controller.yaml", "listen: \":7079\"\ndata_dir: /var/lib/requorum/controller\nadvertise: [controller]\n")
	run(s.controller, "requorum-controller.service", unit("controller"))
	operator.AwaitServing(s.t, s.controller)
	token := s.cli("token", "create", "--cluster", "prod")
	for _, h := range s.nodes {
		h.Write("/etc/requorum/join-token", token)
		h.Write("/etc/requorum/agent.yaml", "controller: controller:7079\ntoken_file: /etc/requorum/join-token\n")
		run(h, "requorum-agent.service", unit("agent"))
	}
	s.awaitHealthy()
	return s
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
		run(h, "kube-apiserver.service", operator.APIServerUnit)
		run(h, "etcd.service", operator.EtcdUnit)
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
		operator.ExpectNothingLeft(s.t, h)
	}
}
