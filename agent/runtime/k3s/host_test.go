package k3s_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"go.uber.org/goleak"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/k3s"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/internal/hosttest"
)

// What tells the stand-in for k3s the URLs of its etcd, each a list joined by commas.
const (
	clientsVariable = "REQUORUM_TEST_K3S_CLIENTS"
	peersVariable   = "REQUORUM_TEST_K3S_PEERS"
)

func TestMain(m *testing.M) {
	if os.Getenv(peersVariable) != "" {
		if err := standIn(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// standIn does what k3s does as far as this package sees it: with the arguments server --data-dir DIR it leaves a process
// behind as containerd leaves its shims, writes etcd's configuration, and is etcd itself.
func standIn(args []string) error {
	if len(args) != 4 || args[1] != "server" || args[2] != "--data-dir" {
		return fmt.Errorf("stand-in for k3s: arguments %q", args)
	}
	shim := exec.Command("sleep", shimSeconds)
	shim.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := shim.Start(); err != nil {
		return err
	}
	config, err := configure(filepath.Join(args[3], "server/db/etcd"), os.Getenv(clientsVariable), os.Getenv(peersVariable))
	if err != nil {
		return err
	}
	etcdmain.Main([]string{"etcd", "--config-file=" + config})
	return nil
}

const (
	shimSeconds = "100077" // of sleep, by which the process is found that is left behind
	memberName  = "server-1-0a1b2c3d"
)

// configure writes what k3s writes into etcd's data directory at every start, and returns the path of the configuration.
// How a cluster begins is told only to a member without data.
func configure(dir, clients, peers string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	name := filepath.Join(dir, "name")
	if err := os.WriteFile(name, []byte(memberName), 0o600); err != nil {
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
`, memberName, dir, clients, last(clients), peers)
	if _, err := os.Stat(filepath.Join(dir, "member/wal")); err != nil {
		text += fmt.Sprintf("initial-advertise-peer-urls: %s\ninitial-cluster: %s=%[1]s\ninitial-cluster-state: new\n", last(peers), memberName)
	}
	config := filepath.Join(dir, "config")
	return config, os.WriteFile(config, []byte(text), 0o600)
}

// TestOnHost runs the tests of this package that need systemd on a host that has it as init.
func TestOnHost(t *testing.T) {
	h := hosttest.Start(t, hosttest.Options{}, "server-1").Hosts[0]
	h.Install()
	h.Run("ln", "-s", "/usr/local/lib/requorum/tests", "/usr/local/bin/k3s")
	h.GoTest("^TestInside")
}

// server is a k3s server of a test.
type server struct {
	dataDir string // k3s'
	clients string
	peers   string // the last one is not on the loopback interface
	unit    string // content
}

// newServer chooses ports and a data directory.
func newServer(t *testing.T) server {
	t.Helper()
	e := runtimetest.NewEtcd(t)
	ip := address(t)
	both := func(url string) string { return url + "," + strings.Replace(url, "127.0.0.1", ip, 1) }
	s := server{dataDir: filepath.Dir(e.Member.DataDir), clients: both(e.Member.ListenClientURLs[0]), peers: both(e.Member.ListenPeerURLs[0])}
	s.unit = fmt.Sprintf(`[Service]
Type=exec
KillMode=process
Delegate=yes
Restart=always
RestartSec=100ms
Environment=%s=%s %s=%s
ExecStart=/usr/local/bin/k3s server --data-dir %s

[Install]
WantedBy=multi-user.target
`, clientsVariable, s.clients, peersVariable, s.peers, s.dataDir)
	return s
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

// install writes a unit. When the test ends, it is stopped, with what it left behind, and taken away.
func install(t *testing.T, name, content string) {
	t.Helper()
	path := "/etc/systemd/system/" + name
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		systemctl(t, "disable", "--now", name)
		for _, pid := range shims(t) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Errorf("end process %d, which the unit has left behind: %v", pid, err)
			}
		}
		for _, p := range []string{path, path + ".d"} {
			if err := os.RemoveAll(p); err != nil {
				t.Error(err)
			}
		}
		systemctl(t, "daemon-reload")
	})
}

func systemctl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// shims returns the processes that stand-ins have left behind.
func shims(t *testing.T) (pids []int) {
	t.Helper()
	out, err := exec.Command("pgrep", "-f", "^sleep "+shimSeconds).Output()
	var none *exec.ExitError
	if err != nil && (!errors.As(err, &none) || none.ExitCode() != 1) {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func open(t *testing.T, unit string) *k3s.Runtime {
	t.Helper()
	r, err := k3s.New(k3s.Options{Unit: unit})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestInsideRuntime(t *testing.T) {
	hosttest.Inside(t)
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		s := newServer(t)
		if _, err := configure(filepath.Join(s.dataDir, "server/db/etcd"), s.clients, s.peers); err != nil { // as k3s has once
			t.Fatal(err)
		}
		install(t, "k3s.service", s.unit)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := open(t, "").Stop(ctx); err != nil {
				t.Error(err)
			}
		})
		return runtimetest.Subject{Open: func(t *testing.T) runtime.Runtime { return open(t, "") }}
	})
}

func TestInsideContainersOutliveAStop(t *testing.T) {
	hosttest.Inside(t)
	install(t, "k3s.service", newServer(t).unit)
	systemctl(t, "start", "k3s")
	r := open(t, "")
	m := awaitVersion(t, r)
	if !strings.HasPrefix(m.Version, "3.") {
		t.Errorf("version %q", m.Version)
	}
	before := shims(t)
	if len(before) != 1 {
		t.Fatalf("k3s has left behind %v", before)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := shims(t); !slices.Equal(left, before) {
		t.Errorf("left after the stop: %v, before it %v", left, before)
	}
	if exec.Command("systemctl", "start", "k3s").Run() == nil {
		t.Error("systemctl starts what was stopped")
	}
	after, err := r.Inspect(t.Context())
	if err != nil || after.Running || after.Wanted || after.Version != "" {
		t.Errorf("after the stop: %+v, %v", after, err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := awaitVersion(t, r); again.Name != memberName || !slices.Equal(again.AdvertisePeerURLs, m.AdvertisePeerURLs) || strings.Contains(again.AdvertisePeerURLs[0], "127.0.0.1") {
		t.Errorf("started again: %+v, before: %+v", again, m)
	}
}

// A process that is not k3s and holds the data is named, and not ended.
func TestInsideWhatHoldsTheDataFailsTheStop(t *testing.T) {
	hosttest.Inside(t)
	install(t, "k3s.service", newServer(t).unit)
	systemctl(t, "start", "k3s")
	r := open(t, "")
	m := awaitVersion(t, r)
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	db, err := os.Open(filepath.Join(m.DataDir, "member/snap/db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := syscall.Flock(int(db.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var held *datadir.HeldError
	if err := r.Stop(ctx); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("stop while process %d holds the data: %v", os.Getpid(), err)
	}
}

// awaitVersion waits until the member serves.
func awaitVersion(t *testing.T, r *k3s.Runtime) runtime.Member {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		m, err := r.Inspect(ctx)
		if err == nil && m.Version != "" {
			return m
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("the member does not serve: %+v, %v", m, err)
		}
	}
}

func TestInsideDetectFindsServersWithEtcd(t *testing.T) {
	hosttest.Inside(t)
	detected := func() detect.Found {
		t.Helper()
		found, err := k3s.Detector{}.Detect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	says := func(found detect.Found, want string) {
		t.Helper()
		if !strings.Contains(strings.Join(found.Looked, "\n"), want) {
			t.Errorf("%q does not say %q", found.Looked, want)
		}
	}
	s := newServer(t)
	install(t, "k3s.service", s.unit)
	systemctl(t, "enable", "k3s")
	found := detected()
	if len(found.Candidates) != 0 {
		t.Errorf("a server without etcd: %+v", found)
	}
	says(found, "keeps no etcd")

	if _, err := configure(filepath.Join(s.dataDir, "server/db/etcd"), s.clients, s.peers); err != nil {
		t.Fatal(err)
	}
	install(t, "k3s-agent.service", "[Service]\nExecStart=/usr/local/bin/k3s agent\n[Install]\nWantedBy=multi-user.target\n")
	install(t, "rke2-server.service", "[Service]\nExecStart=/usr/local/bin/rke2 server\n[Install]\nWantedBy=multi-user.target\n")
	systemctl(t, "enable", "k3s-agent", "rke2-server")
	found = detected()
	if len(found.Candidates) != 1 || found.Candidates[0].Place != "k3s.service" || found.Candidates[0].Member.Name != memberName || len(found.Candidates[0].Missing) > 0 {
		t.Errorf("one server, which does not run: %+v", found)
	}
	says(found, "k3s-agent.service is passed over")
	says(found, "stand-in")
	says(found, "rke2-server.service runs RKE2")

	install(t, "k3s-two.service", s.unit)
	systemctl(t, "enable", "k3s-two")
	if found = detected(); len(found.Candidates) != 2 {
		t.Fatalf("two servers: %+v", found)
	}
	if _, err := detect.Choose([]detect.Report{{Kind: k3s.Kind, Found: found}}); !errors.Is(err, detect.ErrAmbiguous) {
		t.Errorf("choosing between two: %v", err)
	}
}
