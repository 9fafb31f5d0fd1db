package k3s_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/requorum/requorum/agent/runtime/k3s/k3stest"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/internal/hosttest"
)

func TestMain(m *testing.M) {
	if k3stest.FromEnvironment().Peers != "" {
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
	config, err := k3stest.FromEnvironment().Configure(filepath.Join(args[3], k3s.EtcdDir))
	if err != nil {
		return err
	}
	etcdmain.Main([]string{"etcd", "--config-file=" + config})
	return nil
}

// memberName is the one of the host's member.
const memberName = "server-1-0a1b2c3d"

// program is where the stand-in is on the host.
const program = "/usr/local/bin/k3s"

const shimSeconds = "100077" // of sleep, by which the process is found that is left behind

// TestOnHost runs the tests of this package that need systemd on a host that has it as init.
func TestOnHost(t *testing.T) {
	h := hosttest.Start(t, hosttest.Options{}, "server-1").Hosts[0]
	h.Install()
	h.Run("ln", "-s", "/usr/local/lib/requorum/tests", program)
	h.GoTest("^TestInside")
}

// install installs a unit. When the test ends, it is stopped, with what it left behind, and taken away.
func install(t *testing.T, name, content string) {
	t.Helper()
	t.Cleanup(func() {
		for _, pid := range shims(t) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Errorf("end process %d, which the unit has left behind: %v", pid, err)
			}
		}
	})
	k3stest.Install(t, name, content)
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
		s := k3stest.NewServer(t)
		if err := s.Configure(); err != nil { // as k3s has once
			t.Fatal(err)
		}
		install(t, "k3s.service", s.Unit(program))
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
	install(t, "k3s.service", k3stest.NewServer(t).Unit(program))
	k3stest.Systemctl(t, "start", "k3s")
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
	install(t, "k3s.service", k3stest.NewServer(t).Unit(program))
	k3stest.Systemctl(t, "start", "k3s")
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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
	s := k3stest.NewServer(t)
	install(t, "k3s.service", s.Unit(program))
	k3stest.Systemctl(t, "enable", "k3s")
	found := detected()
	if len(found.Candidates) != 0 {
		t.Errorf("a server without etcd: %+v", found)
	}
	says(found, "keeps no etcd")

	if err := s.Configure(); err != nil {
		t.Fatal(err)
	}
	install(t, "k3s-agent.service", "[Service]\nExecStart=/usr/local/bin/k3s agent\n[Install]\nWantedBy=multi-user.target\n")
	k3stest.Systemctl(t, "enable", "k3s-agent")
	found = detected()
	if len(found.Candidates) != 1 || found.Candidates[0].Place != "k3s.service" || found.Candidates[0].Member.Name != memberName || len(found.Candidates[0].Missing) > 0 {
		t.Errorf("one server, which does not run: %+v", found)
	}
	says(found, "k3s-agent.service is passed over")
	says(found, "stand-in")

	install(t, "k3s-two.service", s.Unit(program))
	k3stest.Systemctl(t, "enable", "k3s-two")
	if found = detected(); len(found.Candidates) != 2 {
		t.Fatalf("two servers: %+v", found)
	}
	if _, err := detect.Choose([]detect.Report{{Kind: k3s.Kind, Found: found}}); !errors.Is(err, detect.ErrAmbiguous) {
		t.Errorf("choosing between two: %v", err)
	}
}
