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

// MemberName is the name of the member.
const MemberName = "server-1-0a1b2c3d"

// Configure writes what k3s writes into etcd's data directory at every start, and returns the path of the configuration.
// How a cluster begins is told only to a member without data. The URLs are lists joined by commas.
func Configure(dir, clients, peers string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	name := filepath.Join(dir, "name")
	if err := os.WriteFile(name, []byte(MemberName), 0o600); err != nil {
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
`, MemberName, dir, clients, last(clients), peers)
	if _, err := os.Stat(filepath.Join(dir, "member/wal")); err != nil {
		text += fmt.Sprintf("initial-advertise-peer-urls: %s\ninitial-cluster: %s=%[1]s\ninitial-cluster-state: new\n", last(peers), MemberName)
	}
	config := filepath.Join(dir, "config")
	return config, os.WriteFile(config, []byte(text), 0o600)
}

// Server is a server of a test.
type Server struct {
	DataDir string // the distribution's
	Clients string // URLs of its etcd, joined by commas
	Peers   string // the last one is not on the loopback interface
}

// NewServer chooses ports and a data directory.
func NewServer(t *testing.T) Server {
	t.Helper()
	e := runtimetest.NewEtcd(t)
	ip := address(t)
	both := func(url string) string { return url + "," + strings.Replace(url, "127.0.0.1", ip, 1) }
	return Server{DataDir: filepath.Dir(e.Member.DataDir), Clients: both(e.Member.ListenClientURLs[0]), Peers: both(e.Member.ListenPeerURLs[0])}
}

// EtcdDir is where its etcd has its data.
func (s Server) EtcdDir() string { return filepath.Join(s.DataDir, k3s.EtcdDir) }

// Unit returns the unit of a server that program runs, with lines more in its section Service.
func (s Server) Unit(program, environment string, more ...string) string {
	return fmt.Sprintf(`[Service]
Type=exec
KillMode=process
Delegate=yes
Restart=always
RestartSec=100ms
Environment=%s
ExecStart=%s server --data-dir %s
%s

[Install]
WantedBy=multi-user.target
`, environment, program, s.DataDir, strings.Join(more, "\n"))
}

// address returns the host's own address.
func address(t *testing.T) string {
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
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
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
