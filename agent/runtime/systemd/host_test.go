package systemd_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/agent/runtime/systemd"
	"github.com/requorum/requorum/internal/hosttest"
)

func TestMain(m *testing.M) {
	runtimetest.Main()
	goleak.VerifyTestMain(m)
}

// TestOnHost runs the tests of this package that need systemd on a host that has it as init.
func TestOnHost(t *testing.T) {
	h := hosttest.Start(t, hosttest.Options{}, "etcd-1").Hosts[0]
	h.Install()
	h.Run("useradd", "--system", "etcd")
	h.Run("ln", "-s", "/usr/local/lib/requorum/tests", "/usr/local/bin/etcd")
	h.GoTest("^TestInside")

	h.GoTest("^TestStepRunAndStop$")
	h.Reboot()
	h.GoTest("^TestStepStoppedAndStart$")
	h.Reboot()
	h.GoTest("^TestStepRuns$")
}

// etcdUnit is a unit for the member e, whose lines more add to the section Service.
func etcdUnit(e runtimetest.Etcd, more ...string) string {
	return fmt.Sprintf(`[Unit]
Description=etcd

[Service]
Type=notify
User=etcd
Restart=always
RestartSec=100ms
Environment="DAEMON_ARGS=%s" %s
ExecStart=/usr/local/bin/etcd $DAEMON_ARGS
%s

[Install]
WantedBy=multi-user.target
`, strings.Join(e.Command[1:], " "), strings.Join(e.Env, " "), strings.Join(more, "\n"))
}

// install writes a unit and lets systemd read it. When the test ends, it is stopped and taken away.
func install(t *testing.T, name, content string) {
	t.Helper()
	path := "/etc/systemd/system/" + name
	write(t, path, content)
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		systemctl(t, "disable", "--now", name)
		for _, p := range []string{path, path + ".d"} {
			if err := os.RemoveAll(p); err != nil {
				t.Error(err)
			}
		}
		systemctl(t, "daemon-reload")
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func open(t *testing.T, o systemd.Options) *systemd.Runtime {
	t.Helper()
	r, err := systemd.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// account returns the numbers of the user etcd.
func account(t *testing.T) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup("etcd")
	if err != nil {
		t.Fatal(err)
	}
	uid, err = strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		t.Fatal(err)
	}
	return uid, gid
}

// newEtcd is a member whose directory the user etcd can write to.
func newEtcd(t *testing.T) runtimetest.Etcd {
	t.Helper()
	e := runtimetest.NewEtcd(t)
	e.Member.UID, e.Member.GID = account(t)
	dir := filepath.Dir(e.Member.DataDir)
	if err := os.Chown(dir, e.Member.UID, e.Member.GID); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestInsideRuntime(t *testing.T) {
	hosttest.Inside(t)
	for layout, place := range map[string]func(*testing.T, *runtimetest.Etcd){
		"one directory":                  func(*testing.T, *runtimetest.Etcd) {},
		"a mount point behind a symlink": mountBoth,
	} {
		t.Run(layout, func(t *testing.T) {
			runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
				e := newEtcd(t)
				place(t, &e)
				install(t, "etcd.service", etcdUnit(e))
				t.Cleanup(func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					if err := open(t, systemd.Options{}).Stop(ctx); err != nil {
						t.Error(err)
					}
				})
				return runtimetest.Subject{Open: func(t *testing.T) runtime.Runtime { return open(t, systemd.Options{}) }}
			})
		})
	}
}

// mountBoth gives the member two file systems, one for its data and one for its WAL, and a data directory that is a
// symlink to the first.
func mountBoth(t *testing.T, e *runtimetest.Etcd) {
	t.Helper()
	root := filepath.Dir(e.Member.DataDir)
	for _, name := range []string{"disk", "wal"} {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=400m,mode=0700,uid=%d,gid=%d", e.Member.UID, e.Member.GID)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
	}
	if err := os.Symlink("disk", e.Member.DataDir); err != nil {
		t.Fatal(err)
	}
	e.Member.WALDir = filepath.Join(root, "wal", "etcd") // etcd makes its WAL by rename, which a mount point does not allow
	e.Command = append(e.Command, "--wal-dir="+e.Member.WALDir)
}

// The steps of a story that reboots the host between them. The member's configuration is in a file, for no temporary
// directory survives a reboot.
func steps(t *testing.T) *systemd.Runtime {
	hosttest.Inside(t)
	return open(t, systemd.Options{})
}

const storyUnit = `[Service]
Type=notify
User=etcd
StateDirectory=etcd
Restart=always
Environment=REQUORUM_TEST_ETCD=1 ETCD_DATA_DIR=/var/lib/etcd
ExecStart=/usr/local/bin/etcd

[Install]
WantedBy=multi-user.target
`

func TestStepRunAndStop(t *testing.T) {
	r := steps(t)
	write(t, "/etc/systemd/system/etcd.service", storyUnit)
	systemctl(t, "daemon-reload")
	systemctl(t, "enable", "--now", "etcd")
	expectState(t, r, true, true)
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectState(t, r, false, false)
	if out, err := exec.Command("systemctl", "start", "etcd").CombinedOutput(); err == nil {
		t.Errorf("systemctl starts what was stopped: %s", out)
	}
	if out := systemctl(t, "show", "etcd", "--property=AssertResult"); out != "AssertResult=no" {
		t.Error(out)
	}
	expectState(t, r, false, false)
}

func TestStepStoppedAndStart(t *testing.T) {
	r := steps(t)
	expectState(t, r, false, false)
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectState(t, r, true, true)
	if left, err := filepath.Glob("/etc/systemd/system/etcd.service.d*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestStepRuns(t *testing.T) { expectState(t, steps(t), true, true) }

func expectState(t *testing.T, r *systemd.Runtime, running, wanted bool) {
	t.Helper()
	m, err := r.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Running != running || m.Wanted != wanted {
		t.Errorf("running %v, wanted %v; expected %v, %v", m.Running, m.Wanted, running, wanted)
	}
}
