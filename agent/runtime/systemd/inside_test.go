package systemd_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/agent/runtime/systemd"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/hosttest"
)

const asEtcd = "Environment=REQUORUM_TEST_ETCD=1\n"

// service is a unit with these lines in its section Service.
func service(lines ...string) string {
	return "[Service]\n" + strings.Join(lines, "\n") + "\n[Install]\nWantedBy=multi-user.target\n"
}

func TestInsideConfigurationIsReadFromWhereItIs(t *testing.T) {
	hosttest.Inside(t)
	uid, gid := account(t)
	write(t, "/etc/default/etcd-test", "# Debian's way\nETCD_NAME='from file'\nDAEMON_ARGS=\"--data-dir=/file/data \\\n --quota-backend-bytes 4096\"\nETCD_WAL_DIR=/never\n")
	write(t, "/etc/etcd-test.yaml", "name: from-config\ndata-dir: config/data\nlisten-peer-urls: http://10.0.0.1:2380\n")
	member := func(m runtime.Member) runtime.Member {
		if m.ListenPeerURLs == nil {
			m.ListenPeerURLs = []string{etcdconf.DefaultPeerURLs}
		}
		m.ListenClientURLs, m.AdvertiseClientURLs = []string{etcdconf.DefaultClientURLs}, []string{etcdconf.DefaultClientURLs}
		m.AdvertisePeerURLs = []string{etcdconf.DefaultPeerURLs}
		return m
	}
	for name, test := range map[string]struct {
		lines []string
		want  runtime.Member
	}{
		"flags": {
			[]string{"User=etcd", `ExecStart=/usr/local/bin/etcd --name=%H --data-dir "/flag/a b" --wal-dir=/flag/100%%`},
			runtime.Member{Name: "etcd-1", DataDir: "/flag/a b", WALDir: "/flag/100%", UID: uid, GID: gid},
		},
		"an environment file over Environment, with arguments": {
			[]string{"User=etcd", "Group=root", "Environment=ETCD_NAME=never ETCD_WAL_DIR=/never", "EnvironmentFile=-/etc/default/etcd-test", "UnsetEnvironment=ETCD_WAL_DIR", "ExecStart=/usr/local/bin/etcd $DAEMON_ARGS"},
			runtime.Member{Name: "from file", DataDir: "/file/data", QuotaBytes: 4096, UID: uid, GID: 0},
		},
		"flags over Environment": {
			[]string{"Environment=ETCD_NAME=never ETCD_DATA_DIR=data", "WorkingDirectory=-/srv/etcd", "ExecStart=/usr/local/bin/etcd --name=${WHO}x", "Environment=WHO=m1"},
			runtime.Member{Name: "m1x", DataDir: "/srv/etcd/data"},
		},
		"a configuration file over all else": {
			[]string{"WorkingDirectory=/srv", "Environment=ETCD_WAL_DIR=/never", "ExecStart=/usr/local/bin/etcd --config-file /etc/etcd-test.yaml --name=never"},
			runtime.Member{Name: "from-config", DataDir: "/srv/config/data", ListenPeerURLs: []string{"http://10.0.0.1:2380"}},
		},
		"a drop-in over the unit": {
			[]string{"ExecStart=/usr/local/bin/etcd --name=never", "ExecStart=", "ExecStart=/usr/local/bin/etcd --name=m2 --data-dir=/d"},
			runtime.Member{Name: "m2", DataDir: "/d"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			install(t, "etcd-test.service", service(append(test.lines, asEtcd)...))
			got, err := open(t, systemd.Options{Unit: "etcd-test"}).Inspect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(member(test.want), got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(runtime.Member{}, "Version")); diff != "" {
				t.Error(diff)
			}
			if !strings.HasPrefix(got.Version, "3.") {
				t.Errorf("version %q", got.Version)
			}
		})
	}
}

func TestInsideWhatCannotBeReadIsRefused(t *testing.T) {
	hosttest.Inside(t)
	for name, test := range map[string]struct {
		lines []string
		says  string
	}{
		"a dynamic user":                 {[]string{"DynamicUser=yes", "ExecStart=/usr/local/bin/etcd"}, "DynamicUser=yes"},
		"a shell":                        {[]string{`ExecStart=/bin/sh -c "exec /usr/local/bin/etcd --name=m1"`}, "is not etcd"},
		"a root of its own":              {[]string{"RootDirectory=/", "RootDirectory=/srv", "ExecStart=/usr/local/bin/etcd"}, "root file system of its own"},
		"an unknown user":                {[]string{"User=nobody-there", "ExecStart=/usr/local/bin/etcd"}, "nobody-there"},
		"an environment file that lacks": {[]string{"EnvironmentFile=/no/such/file", "ExecStart=/usr/local/bin/etcd"}, "/no/such/file"},
		"two commands":                   {[]string{"Type=oneshot", "ExecStart=/usr/local/bin/etcd", "ExecStart=/usr/local/bin/etcd"}, "2 commands"},
	} {
		t.Run(name, func(t *testing.T) {
			install(t, "etcd-test.service", service(append(test.lines, asEtcd)...))
			r := open(t, systemd.Options{Unit: "etcd-test"})
			if _, err := r.Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v does not say %q", err, test.says)
			}
		})
	}
	if _, err := open(t, systemd.Options{Unit: "no-such-unit"}).Inspect(t.Context()); !errors.Is(err, systemd.ErrNoUnit) {
		t.Error(err)
	}
}

func TestInsideNothingOfTheUnitIsLeft(t *testing.T) {
	hosttest.Inside(t)
	for name, lines := range map[string][]string{
		"systemd ends nothing":           {"KillMode=none"},
		"systemd leaves children":        {"KillMode=process"},
		"etcd does not end when told to": {"KillSignal=SIGCONT", "TimeoutStopSec=infinity"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEtcd(t)
			unit := etcdUnit(e, append(lines, `ExecStartPost=+/bin/sh -c "sleep 100012 & exit 0"`)...)
			install(t, "etcd.service", unit)
			r := open(t, systemd.Options{Grace: 2e9})
			if err := r.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			systemctl(t, "start", "etcd") // waits until it is ready, so that the child is there
			if exec.Command("pgrep", "-f", "sleep 100012").Run() != nil {
				t.Fatal("the unit's child does not run")
			}
			if err := r.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("pgrep", "-af", "sleep 100012").CombinedOutput(); err == nil {
				t.Errorf("left behind: %s", out)
			}
			expectState(t, r, false, false)
		})
	}
}

func TestInsideControlPlaneStopsAndStartsInOrder(t *testing.T) {
	hosttest.Inside(t)
	log := filepath.Join(t.TempDir(), "log")
	note := func(what string) string { return `/bin/sh -c "echo ` + what + ` %N >>` + log + `"` }
	unit := service("ExecStartPre="+note("start"), "ExecStart=/bin/sleep infinity", "ExecStopPost="+note("stop"), "Restart=always")
	names := systemd.DefaultControlPlane()
	for _, n := range append(names, "idle.service") {
		install(t, n, unit)
	}
	systemctl(t, append([]string{"enable", "--now"}, names...)...)
	write(t, log, "")

	r := open(t, systemd.Options{ControlPlane: append(names, "idle", "not-there")})
	if got := r.ControlPlane(); !slices.Equal(got, append(names, "idle.service")) {
		t.Errorf("control plane %q", got)
	}
	for range 2 {
		if err := r.StopControlPlane(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if exec.Command("systemctl", "start", names[0]).Run() == nil {
		t.Error("systemctl starts what was stopped")
	}
	for range 2 {
		if err := r.StartControlPlane(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := "stop kube-apiserver\nstop kube-controller-manager\nstop kube-scheduler\nstart kube-apiserver\nstart kube-controller-manager\nstart kube-scheduler\n"
	if string(text) != want {
		t.Errorf("it went\n%sexpected\n%s", text, want)
	}
	for _, n := range names {
		if got := systemctl(t, "is-active", n); got != "active" {
			t.Errorf("%s is %s", n, got)
		}
	}
}

// An agent that dies while it starts the control plane leaves units without their hold that were not started.
func TestInsideAStartThatBrokeOffIsCarriedThrough(t *testing.T) {
	hosttest.Inside(t)
	install(t, "kube-apiserver.service", service("ExecStart=/bin/sleep infinity"))
	systemctl(t, "start", "kube-apiserver")
	r := open(t, systemd.Options{})
	if err := r.StopControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	const dir = "/etc/systemd/system/kube-apiserver.service.d/"
	if err := os.Rename(dir+"zz-requorum-stopped.conf", dir+"zz-requorum-starting.conf"); err != nil {
		t.Fatal(err)
	}
	if err := r.StartControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := systemctl(t, "is-active", "kube-apiserver"); got != "active" {
		t.Error(got)
	}
}

func TestInsideAMemberJoins(t *testing.T) {
	hosttest.Inside(t)
	first := etcdtest.Start(t, etcdtest.Options{})
	client, err := clientv3.New(clientv3.Config{Endpoints: first.Endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	e := newEtcd(t)
	e.Command[1] = "--name=joining" // the first one has its name already
	install(t, "etcd.service", etcdUnit(e, `Environment="ETCD_LOG_LEVEL=warn" "ETCD_INITIAL_CLUSTER_STATE=new" "ETCD_EXPERIMENTAL=100%% $ \"quoted\""`))
	added, err := client.MemberAddAsLearner(t.Context(), e.Member.AdvertisePeerURLs)
	if err != nil {
		t.Fatal(err)
	}
	cluster := "joining=" + e.Member.AdvertisePeerURLs[0]
	for _, m := range added.Members {
		if m.ID != added.Member.ID {
			cluster += "," + m.Name + "=" + m.PeerURLs[0]
		}
	}
	r := open(t, systemd.Options{})
	if err := r.StartJoining(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	awaitName(t, r, client, added.Member.ID)
	if err := r.Start(t.Context()); err != nil { // which changes only what the next start does
		t.Fatal(err)
	}
	if left, err := filepath.Glob("/etc/systemd/system/etcd.service.d*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Alive(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// awaitName waits until a member has told the cluster its name, which it does once it has joined.
func awaitName(t *testing.T, r *systemd.Runtime, client *clientv3.Client, id uint64) {
	t.Helper()
	for {
		if err := r.Alive(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := client.MemberList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.Members {
			if m.ID == id && m.Name != "" {
				return
			}
		}
	}
}

func TestInsideAMemberWithAConfigurationFileDoesNotJoin(t *testing.T) {
	hosttest.Inside(t)
	write(t, "/etc/etcd-test.yaml", "name: m1\n")
	install(t, "etcd.service", service("ExecStart=/usr/local/bin/etcd --config-file=/etc/etcd-test.yaml"))
	if err := open(t, systemd.Options{}).StartJoining(t.Context(), "a=http://a:2380"); !errors.Is(err, etcdconf.ErrConfigFile) {
		t.Error(err)
	}
}

func TestInsideAStartThatSystemdRefusesIsAnError(t *testing.T) {
	hosttest.Inside(t)
	for name, line := range map[string]string{
		"a condition":  "ConditionPathExists=/no/such/path",
		"a dependency": "Requires=no-such.service\nAfter=no-such.service",
	} {
		t.Run(name, func(t *testing.T) {
			e := runtimetest.NewEtcd(t)
			install(t, "etcd.service", strings.Replace(etcdUnit(e), "[Unit]", "[Unit]\n"+line, 1))
			if err := open(t, systemd.Options{}).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "systemctl status etcd.service") && !strings.Contains(err.Error(), "no-such") {
				t.Errorf("start: %v", err)
			}
		})
	}
}

func TestInsideDetectFindsWhatIsWanted(t *testing.T) {
	hosttest.Inside(t)
	detected := func() detect.Found {
		t.Helper()
		found, err := systemd.Detector{}.Detect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := detected(); len(found.Candidates) != 0 || len(found.Looked) == 0 {
		t.Errorf("without a unit: %+v", found)
	}
	install(t, "etcd-main.service", service("ExecStart=/usr/local/bin/etcd --name=m1 --data-dir=/var/lib/m1", asEtcd))
	if found := detected(); len(found.Candidates) != 0 || !strings.Contains(strings.Join(found.Looked, "\n"), "systemctl enable etcd-main.service") {
		t.Errorf("a unit that is not enabled: %+v", found)
	}
	systemctl(t, "enable", "etcd-main")
	install(t, "kube-apiserver.service", service("ExecStart=/bin/sleep infinity"))
	found := detected()
	if len(found.Candidates) != 1 || found.Candidates[0].Place != "etcd-main.service" || found.Candidates[0].Member.Name != "m1" || len(found.Candidates[0].Missing) > 0 || !slices.Equal(found.Candidates[0].ControlPlane, []string{"kube-apiserver.service"}) {
		t.Errorf("one unit: %+v", found)
	}
	if err := open(t, systemd.Options{Unit: "etcd-main"}).Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	install(t, "etcd-events.service", service("ExecStart=/usr/local/bin/etcd-is-not-there --cert-file=/no/such/cert"))
	systemctl(t, "enable", "etcd-events")
	found = detected()
	if len(found.Candidates) != 2 {
		t.Fatalf("two units, one of them kept stopped: %+v", found)
	}
	missing := strings.Join(found.Candidates[0].Missing, "\n")
	if !strings.Contains(missing, "install etcd") || !strings.Contains(missing, "/no/such/cert") {
		t.Errorf("missing: %s", missing)
	}
}
