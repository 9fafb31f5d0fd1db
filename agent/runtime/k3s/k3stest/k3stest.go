// Package k3stest has what the stand-ins for servers of k3s and RKE2 share: how such a server configures its etcd, and units
// for them on a host of a test. It is for tests only.
package k3stest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/agent/runtime/k3s"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
)

// Etcd is how the etcd of a server is configured. URLs are lists joined by commas, of which the last one is advertised.
type Etcd struct {
	Clients, Peers string
	Cluster        string // as etcd's initial-cluster; empty for a cluster of its own
}

// MemberName returns the name of the host's member.
func MemberName() (string, error) {
	host, err := os.Hostname()
	return host + "-0a1b2c3d", err
}

// Configure writes what k3s writes into etcd's data directory at every start, and returns the path of the configuration.
// How a cluster begins is told only to a member without data.
func (e Etcd) Configure(dir string) (string, error) {
	member, err := MemberName()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "name"), []byte(member), 0o600); err != nil {
		return "", err
	}
	last := func(list string) string { return list[strings.LastIndex(list, ",")+1:] }
	text := fmt.Sprintf(`name: %s
data-dir: %s
listen-client-urls: %s
advertise-client-urls: %s
listen-peer-urls: %s
heartbeat-interval: 50
election-timeout: 500
logger: zap
log-outputs:
- stderr
`, member, dir, e.Clients, last(e.Clients), e.Peers)
	if _, err := os.Stat(filepath.Join(dir, "member/wal")); err != nil {
		cluster := e.Cluster
		if cluster == "" {
			cluster = member + "=" + last(e.Peers)
		}
		text += fmt.Sprintf("initial-advertise-peer-urls: %s\ninitial-cluster: %s\ninitial-cluster-state: new\n", last(e.Peers), cluster)
	}
	config := filepath.Join(dir, "config")
	return config, os.WriteFile(config, []byte(text), 0o600)
}

// Server is a server of a test.
type Server struct {
	DataDir string // the distribution's
	Etcd    Etcd   // the advertised URLs are not on the loopback interface
}

// The variables by which a stand-in is told of its Etcd.
const (
	clientsVariable = "REQUORUM_TEST_CLIENTS"
	peersVariable   = "REQUORUM_TEST_PEERS"
	clusterVariable = "REQUORUM_TEST_CLUSTER"
)

// FromEnvironment returns what the unit tells a stand-in.
func FromEnvironment() Etcd {
	return Etcd{Clients: os.Getenv(clientsVariable), Peers: os.Getenv(peersVariable), Cluster: os.Getenv(clusterVariable)}
}

// NewServer chooses ports and a data directory.
func NewServer(t *testing.T) Server {
	t.Helper()
	e := runtimetest.NewEtcd(t)
	ip := Address(t)
	both := func(url string) string { return url + "," + strings.Replace(url, "127.0.0.1", ip, 1) }
	return Server{DataDir: filepath.Dir(e.Member.DataDir), Etcd: Etcd{Clients: both(e.Member.ListenClientURLs[0]), Peers: both(e.Member.ListenPeerURLs[0])}}
}

// EtcdDir is where its etcd has its data.
func (s Server) EtcdDir() string { return filepath.Join(s.DataDir, k3s.EtcdDir) }

// Configure writes what the server writes at every start.
func (s Server) Configure() error {
	_, err := s.Etcd.Configure(s.EtcdDir())
	return err
}

// Unit returns the unit of a server that program runs.
func (s Server) Unit(program string) string {
	return fmt.Sprintf(`[Service]
Type=exec
KillMode=process
Delegate=yes
Restart=always
RestartSec=100ms
Environment=%s=%s %s=%s %s=%s
ExecStart=%s server --data-dir %s

[Install]
WantedBy=multi-user.target
`, clientsVariable, s.Etcd.Clients, peersVariable, s.Etcd.Peers, clusterVariable, s.Etcd.Cluster, program, s.DataDir)
}

// Address returns the host's own address.
func Address(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	t.Fatal("the host has no address")
	return ""
}

// Install writes a unit. When the test ends, it is stopped and taken away.
func Install(t *testing.T, name, content string) {
	t.Helper()
	path := "/etc/systemd/system/" + name
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	Systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		Systemctl(t, "disable", "--now", name)
		for _, p := range []string{path, path + ".d"} {
			if err := os.RemoveAll(p); err != nil {
				t.Error(err)
			}
		}
		Systemctl(t, "daemon-reload")
	})
}

// Systemctl runs systemctl; the test fails if it fails.
func Systemctl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
