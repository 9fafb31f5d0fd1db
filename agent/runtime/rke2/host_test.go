package rke2_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/k3s/k3stest"
	"github.com/requorum/requorum/agent/runtime/rke2"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/internal/hosttest"
)

func TestMain(m *testing.M) {
	runtimetest.Main()
	if program := programs[filepath.Base(os.Args[0])]; program != nil {
		goruntime.LockOSThread() // children die with the thread that started them
		if err := program(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if text := os.Getenv(agentStory); text != "" {
		if err := agent(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// TestOnHost runs the tests of this package that need systemd on a host that has it as init.
func TestOnHost(t *testing.T) {
	h := hosttest.Start(t, hosttest.Options{}, "server-1").Hosts[0]
	h.Install()
	h.Run("ln", "-s", binary, program)
	h.GoTest("^TestInside")

	h.GoTest("^TestStepRunAndStop$")
	h.Reboot()
	h.GoTest("^TestStepStoppedAndStart$")
	h.Reboot()
	h.GoTest("^TestStepRuns$")
}

// unitName is the one that is looked for where nothing is said.
const unitName = "rke2-server.service"

// Of the host.
const (
	program    = "/usr/local/bin/rke2"
	memberName = "server-1-0a1b2c3d"
)

// install installs a server. When the test ends, it is stopped, and so are its containers.
func install(t *testing.T, s k3stest.Server) {
	t.Helper()
	t.Cleanup(func() {
		for _, pid := range containers(t) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
		}
		await(t, "the shims have written that their containers ended", func() bool { return len(containers(t)) == 0 })
		if err := os.RemoveAll(filepath.Dir(socket)); err != nil {
			t.Error(err)
		}
	})
	k3stest.Install(t, unitName, s.Unit(program))
}

// containers returns the processes of the containers that there were, by the component.
func containers(t *testing.T) map[string]int {
	t.Helper()
	found := map[string]int{}
	files, err := filepath.Glob(filepath.Dir(socket) + "/tasks/*.pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			t.Fatal(err)
		}
		config, err := os.ReadFile(strings.TrimSuffix(file, ".pid") + ".config")
		if err != nil {
			t.Fatal(err)
		}
		var c struct{ Metadata struct{ Name string } }
		if err := json.Unmarshal(config, &c); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(strings.TrimSuffix(file, ".pid") + ".exit"); err == nil {
			continue
		}
		found[c.Metadata.Name] = pid
	}
	return found
}

// await waits until done.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute) // cleanups wait too
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !done() {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("in vain it was waited until %s", what)
		}
	}
}

func options(t *testing.T) rke2.Options { return rke2.Options{Dir: t.TempDir()} }

func open(t *testing.T, o rke2.Options) *rke2.Runtime {
	t.Helper()
	r, err := rke2.New(o)
	must(t, err)
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestInsideRuntime(t *testing.T) {
	hosttest.Inside(t)
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		s, o := k3stest.NewServer(t), options(t)
		must(t, s.Configure()) // as RKE2 has once
		install(t, s)
		return runtimetest.Subject{Open: func(t *testing.T) runtime.Runtime { return open(t, o) }}
	})
}

// running starts a server and waits until its control plane runs.
func running(t *testing.T) (*rke2.Runtime, rke2.Options) {
	t.Helper()
	s, o := k3stest.NewServer(t), options(t)
	install(t, s)
	k3stest.Systemctl(t, "start", unitName)
	awaitAll(t)
	return open(t, o), o
}

var components = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy"}

func awaitAll(t *testing.T) {
	t.Helper()
	await(t, "every component runs", func() bool { return len(containers(t)) == len(components) })
}

func TestInsideWhatIsNotStoppedGoesOn(t *testing.T) {
	hosttest.Inside(t)
	r, _ := running(t)
	m, err := r.Inspect(t.Context())
	if err != nil || m.Name != memberName || m.Version != "3.7.0" || !m.Running || !m.Wanted {
		t.Errorf("%+v, %v", m, err)
	}
	before := containers(t)
	must(t, r.Stop(t.Context()))
	if left := containers(t); len(left) != 1 || left["kube-proxy"] != before["kube-proxy"] {
		t.Errorf("left after the stop: %v, before it %v", left, before)
	}
	if exec.Command("systemctl", "start", unitName).Run() == nil {
		t.Error("systemctl starts what was stopped")
	}
	if out, err := exec.Command("systemctl", "is-active", "requorum-rke2-containerd.service").Output(); err == nil {
		t.Errorf("the containerd that was run for the stop is %s", out)
	}
	if after, err := r.Inspect(t.Context()); err != nil || after.Running || after.Wanted {
		t.Errorf("after the stop: %+v, %v", after, err)
	}
	must(t, r.Start(t.Context()))
	awaitAll(t)
	must(t, r.Alive(t.Context()))
	if again, err := r.Inspect(t.Context()); err != nil || !slices.Equal(again.AdvertisePeerURLs, m.AdvertisePeerURLs) || strings.Contains(again.AdvertisePeerURLs[0], "127.0.0.1") {
		t.Errorf("started again: %+v, %v", again, err)
	}
}

// Etcd does not end with RKE2, so neither is that taken for its end, nor the unit's stop for a stop of etcd.
func TestInsideEtcdOutlivesRKE2(t *testing.T) {
	hosttest.Inside(t)
	r, _ := running(t)
	must(t, r.Stop(t.Context()))
	must(t, r.Start(t.Context()))
	awaitAll(t)
	before := containers(t)["etcd"]
	k3stest.Systemctl(t, "kill", "--kill-whom=main", "--signal=KILL", unitName)
	must(t, r.Alive(t.Context()))
	k3stest.Systemctl(t, "stop", unitName)
	must(t, r.Alive(t.Context()))
	if m, err := r.Inspect(t.Context()); err != nil || !m.Running || containers(t)["etcd"] != before {
		t.Errorf("RKE2 was stopped by a person, and etcd is as it was: %+v, %v", m, err)
	}
	must(t, r.Stop(t.Context()))
	if m, err := r.Inspect(t.Context()); err != nil || m.Running || containers(t)["etcd"] != 0 {
		t.Errorf("after the stop: %+v, %v", m, err)
	}
}

func TestInsideEtcdThatIsStartedAgainHasEnded(t *testing.T) {
	hosttest.Inside(t)
	r, _ := running(t)
	must(t, r.Start(t.Context())) // it runs, and is taken note of
	first := containers(t)["etcd"]
	must(t, syscall.Kill(first, syscall.SIGKILL))
	await(t, "the kubelet has started etcd again", func() bool { now := containers(t)["etcd"]; return now != 0 && now != first })
	if err := r.Alive(t.Context()); err == nil || !strings.Contains(err.Error(), "started it again") {
		t.Errorf("%v", err)
	}
}

// A kubelet that outlived RKE2 would start again what is ended.
func TestInsideAKubeletThatLingersIsEnded(t *testing.T) {
	hosttest.Inside(t)
	s := k3stest.NewServer(t)
	install(t, s)
	dir := "/etc/systemd/system/" + unitName + ".d"
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "linger.conf"), []byte("[Service]\nEnvironment="+lingering+"=1\n"), 0o644))
	k3stest.Systemctl(t, "daemon-reload")
	k3stest.Systemctl(t, "start", unitName)
	awaitAll(t)
	must(t, open(t, options(t)).Stop(t.Context()))
	if left := containers(t); len(left) != 1 {
		t.Errorf("left after the stop: %v", left)
	}
	if out, err := exec.Command("pgrep", "-x", "kubelet|containerd").Output(); err == nil {
		t.Errorf("left after the stop: processes %s", out)
	}
}

func TestInsideDetectFindsServersWithEtcd(t *testing.T) {
	hosttest.Inside(t)
	s := k3stest.NewServer(t)
	install(t, s)
	k3stest.Install(t, "rke2-agent.service", "[Service]\nExecStart=/usr/local/bin/rke2 agent\n[Install]\nWantedBy=multi-user.target\n")
	k3stest.Systemctl(t, "enable", unitName, "rke2-agent")
	detected := func() (detect.Found, string) {
		t.Helper()
		found, err := rke2.Detector{}.Detect(t.Context())
		must(t, err)
		return found, strings.Join(found.Looked, "\n")
	}
	if found, looked := detected(); len(found.Candidates) != 0 || !strings.Contains(looked, "keeps no etcd") {
		t.Errorf("a server that never started: %+v", found)
	}
	must(t, s.Configure())
	found, looked := detected()
	if len(found.Candidates) != 1 || found.Candidates[0].Place != unitName || found.Candidates[0].Member.Name != memberName || len(found.Candidates[0].Missing) > 0 {
		t.Errorf("one server, which does not run: %+v", found)
	}
	for _, want := range []string{"rke2-agent.service is passed over", "stand-in for rke2 only"} {
		if !strings.Contains(looked, want) {
			t.Errorf("%q does not say %q", looked, want)
		}
	}
}

func stepRuntime(t *testing.T) *rke2.Runtime {
	t.Helper()
	hosttest.Inside(t)
	return open(t, rke2.Options{Dir: "/var/lib/requorum/agent/rke2"})
}

// stepClient connects to etcd.
func stepClient(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://127.0.0.1:2379"}, DialTimeout: time.Minute, Logger: zap.NewNop(), Context: t.Context()})
	must(t, err)
	t.Cleanup(func() { _ = c.Close() }) // its context has ended
	return c
}

func TestStepRunAndStop(t *testing.T) {
	r := stepRuntime(t)
	ip := k3stest.Address(t)
	s := k3stest.Server{DataDir: "/var/lib/rancher/rke2", Etcd: k3stest.Etcd{
		Clients: "http://127.0.0.1:2379,http://" + ip + ":2379", Peers: "http://127.0.0.1:2380,http://" + ip + ":2380",
	}}
	must(t, os.WriteFile("/etc/systemd/system/"+unitName, []byte(s.Unit(program)), 0o644))
	k3stest.Systemctl(t, "daemon-reload")
	k3stest.Systemctl(t, "enable", "--now", unitName)
	awaitAll(t)
	_, err := stepClient(t).Put(t.Context(), "k", "v")
	must(t, err)
	must(t, r.Stop(t.Context()))
}

func TestStepStoppedAndStart(t *testing.T) {
	r := stepRuntime(t)
	m, err := r.Inspect(t.Context())
	if err != nil || m.Running || m.Wanted || len(containers(t)) != 0 {
		t.Fatalf("after a reboot of a host whose etcd is stopped: %+v, %v, containers %v", m, err, containers(t))
	}
	must(t, r.Stop(t.Context()))
	must(t, r.Start(t.Context()))
	awaitAll(t)
}

func TestStepRuns(t *testing.T) {
	r := stepRuntime(t)
	awaitAll(t) // by itself, since the host has booted
	if m, err := r.Inspect(t.Context()); err != nil || !m.Running || !m.Wanted {
		t.Errorf("%+v, %v", m, err)
	}
	got, err := stepClient(t).Get(t.Context(), "k")
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}
