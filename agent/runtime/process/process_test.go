package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/agent/runtime/process"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/internal/etcdtest"
)

// agentOptions is set in the environment of a test binary that stands for an agent: options, as JSON, of
// a runtime that it starts before it hangs.
const agentOptions = "REQUORUM_TEST_AGENT"

func TestMain(m *testing.M) {
	runtimetest.Main()
	if o := os.Getenv(agentOptions); o != "" {
		os.Exit(agent(o))
	}
	goleak.VerifyTestMain(m)
}

func agent(text string) int {
	var o process.Options
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return 1
	}
	r, err := process.New(o)
	if err != nil || r.Start(context.Background()) != nil {
		return 1
	}
	if _, err := os.Stdout.WriteString("started\n"); err != nil {
		return 1
	}
	select {}
}

func open(t *testing.T, o process.Options) *process.Runtime {
	t.Helper()
	r, err := process.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// stopAtEnd stops what a test leaves running.
func stopAtEnd(t *testing.T, o process.Options) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := open(t, o).Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

func etcd(t *testing.T) process.Options {
	e := runtimetest.NewEtcd(t)
	o := process.Options{Command: e.Command, Env: e.Env, Dir: filepath.Join(t.TempDir(), "state")}
	stopAtEnd(t, o)
	return o
}

// script is a process that does what the shell script says in place of etcd. It is in a directory that
// every user can enter.
func script(t *testing.T, text string) process.Options {
	t.Helper()
	dir, err := os.MkdirTemp("", "requorum-test-") //nolint:usetesting // TempDir is for its owner alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "etcd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n[ \"$1\" = --version ] && echo etcd Version: 3.5.99 && exit\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	free := runtimetest.NewEtcd(t).Member
	o := process.Options{
		Command: []string{
			path, "--data-dir=" + filepath.Join(dir, "data"),
			"--listen-client-urls=" + free.ListenClientURLs[0], "--listen-peer-urls=" + free.ListenPeerURLs[0],
		},
		Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: filepath.Join(t.TempDir(), "state"),
	}
	stopAtEnd(t, o)
	return o
}

func TestRuntime(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		o := etcd(t)
		return runtimetest.Subject{Open: func(t *testing.T) runtime.Runtime { return open(t, o) }}
	})
}

const sleep = "exec sleep 3600\n"

func TestEtcdOutlivesAnAgentThatIsKilled(t *testing.T) {
	for name, forget := range map[string]func(t *testing.T, o process.Options){
		"and is found by its record": func(*testing.T, process.Options) {},
		"and is found without": func(t *testing.T, o process.Options) {
			if err := os.Remove(filepath.Join(o.Dir, "etcd.pid.json")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := script(t, sleep)
			killAgentAfterStart(t, o)
			forget(t, o)
			r := open(t, o)
			if m, err := r.Inspect(t.Context()); err != nil || !m.Running {
				t.Fatalf("running %v, %v", m.Running, err)
			}
			start(t, r)
			pid := recorded(t, o).PID
			stop(t, r)
			if !dead(pid) {
				t.Errorf("stopped, process %d lives", pid)
			}
		})
	}
}

func killAgentAfterStart(t *testing.T, o process.Options) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(self)
	agent.Env = append(os.Environ(), agentOptions+"="+string(text))
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Errorf("the agent did not start etcd: %v", err)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var killed *exec.ExitError
	if err := agent.Wait(); !errors.As(err, &killed) {
		t.Fatal(err)
	}
}

// record mirrors what the runtime writes down.
type record struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	BootID    string `json:"boot_id"`
	Restarts  int    `json:"restarts"`
}

func recorded(t *testing.T, o process.Options) record {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(o.Dir, "etcd.pid.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func hasRecord(o process.Options) bool {
	_, err := os.Stat(filepath.Join(o.Dir, "etcd.pid.json"))
	return err == nil
}

// logged is what the process has written so far, or nothing.
func logged(o process.Options) string {
	text, err := os.ReadFile(filepath.Join(o.Dir, "etcd.log"))
	if err != nil {
		return ""
	}
	return string(text)
}

func start(t *testing.T, r *process.Runtime) {
	t.Helper()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func stop(t *testing.T, r *process.Runtime) {
	t.Helper()
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestARecycledPIDIsNotTakenForEtcd(t *testing.T) {
	for name, change := range map[string]func(*record){
		"another start":   func(r *record) { r.StartTime++ },
		"before the boot": func(r *record) { r.BootID = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			o := script(t, sleep)
			r := open(t, o)
			innocent := exec.Command("sleep", "3600")
			if err := innocent.Start(); err != nil {
				t.Fatal(err)
			}
			start(t, r)
			own := recorded(t, o)
			stop(t, r)
			fake := record{PID: innocent.Process.Pid, StartTime: startTime(t, innocent.Process.Pid), BootID: own.BootID}
			writeRecord(t, o, fake)
			if m, err := r.Inspect(t.Context()); err != nil || !m.Running {
				t.Fatalf("the record as it should be: running %v, %v", m.Running, err)
			}
			change(&fake)
			writeRecord(t, o, fake)
			if m, err := r.Inspect(t.Context()); err != nil || m.Running {
				t.Errorf("running %v, %v", m.Running, err)
			}
			stop(t, r)
			if err := innocent.Process.Kill(); err != nil {
				t.Errorf("stop ended it: %v", err)
			}
			var killed *exec.ExitError
			if err := innocent.Wait(); !errors.As(err, &killed) || killed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("stop ended it: %v", err)
			}
		})
	}
}

func startTime(t *testing.T, pid int) uint64 {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	ticks, err := strconv.ParseUint(strings.Fields(string(stat))[21], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ticks
}

func writeRecord(t *testing.T, o process.Options, r record) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "etcd.pid.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAnEtcdThatLingersIsKilledWithItsChildren(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	o := script(t, "trap '' TERM\nsleep 3600 &\necho $! >"+pidFile+".part; mv "+pidFile+".part "+pidFile+"\nwhile :; do wait; done\n")
	o.Grace = 100 * time.Millisecond
	r := open(t, o)
	start(t, r)
	wait(t, func() bool { _, err := os.Stat(pidFile); return err == nil })
	stop(t, r)
	child, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(child)))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return dead(pid) })
}

// An etcd that has closed its data has nothing left to lose, and is not waited for.
func TestAnEtcdThatHasLetGoOfItsDataIsNotWaitedFor(t *testing.T) {
	if _, err := exec.LookPath("flock"); err != nil {
		t.Skipf("flock, of util-linux, is not here: %v", err)
	}
	up := filepath.Join(t.TempDir(), "up")
	o := script(t, `dir=$(echo "$*" | sed 's/.*--data-dir=\([^ ]*\).*/\1/')/member/snap
mkdir -p "$dir"
exec 9>"$dir/db"
flock -x 9
trap 'exec 9>&-' TERM
touch `+up+`
while :; do sleep 3600 9>&- & wait; done
`)
	o.Grace = time.Hour
	r := open(t, o)
	start(t, r)
	wait(t, func() bool { _, err := os.Stat(up); return err == nil })
	stop(t, r)
}

// A disk that fails must not keep an etcd alive that is fenced.
func TestAnEtcdWhoseDataCannotBeReadIsEnded(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	o := script(t, `dir=$(echo "$*" | sed 's/.*--data-dir=\([^ ]*\).*/\1/')/member/snap
mkdir -p "$dir"
ln -s db "$dir/db" # of itself
echo $$ >`+pidFile+`.part; mv `+pidFile+`.part `+pidFile+`
exec sleep 3600
`)
	r := open(t, o)
	start(t, r)
	wait(t, func() bool { _, err := os.Stat(pidFile); return err == nil })
	if err := r.Stop(t.Context()); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("it is not told: %v", err)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return dead(pid) })
	if err := os.RemoveAll(filepath.Join(filepath.Dir(o.Command[0]), "data")); err != nil { // to be stopped without a word at the end
		t.Error(err)
	}
}

// dead tells whether a process has ended. One that is not our child may stay a zombie for a while.
func dead(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z")
}

// wait waits until a condition holds that nothing tells of.
func wait(t *testing.T, holds func() bool) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-look.C {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}

func TestADeadChildIsReaped(t *testing.T) {
	o := script(t, "exit 7\n")
	r := open(t, o)
	start(t, r)
	pid := recorded(t, o).PID
	wait(t, func() bool { return r.Alive(t.Context()) != nil })
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

// run supervises until the test, or the function that it returns, ends it.
func run(t *testing.T, r *process.Runtime) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(end)
	return end
}

func TestRunKeepsEtcdRunning(t *testing.T) {
	o := script(t, "echo I am up\n"+sleep)
	r := open(t, o)
	end := run(t, r)
	pid := func() int {
		m, err := r.Inspect(t.Context())
		if err != nil || !m.Running || !hasRecord(o) { // it is seen before its record is written
			return 0
		}
		return recorded(t, o).PID
	}
	wait(t, func() bool { return pid() != 0 }) // as after a boot
	first := pid()
	wait(t, func() bool { return strings.HasSuffix(logged(o), "\n") })
	wantedIs(t, r, true)
	if err := r.Alive(t.Context()); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { p := pid(); return p != 0 && p != first })
	if err := r.Alive(t.Context()); err == nil || !strings.Contains(err.Error(), "ended 1 times") || !strings.Contains(err.Error(), "I am up") {
		t.Errorf("alive after a restart: %v", err)
	}
	start(t, r)
	if err := r.Alive(t.Context()); err != nil {
		t.Errorf("alive after a start: %v", err)
	}
	end()
	if pid() == 0 {
		t.Error("etcd ended with the agent")
	}
	if err := syscall.Kill(pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return pid() == 0 })
	wantedIs(t, r, true) // between its end and the next start
	stop(t, r)
	wantedIs(t, r, false)
}

// On a full disk etcd runs although it could not be written down. It is, once that can be done again.
func TestAnEtcdThatCouldNotBeWrittenDownIsLater(t *testing.T) {
	o := script(t, sleep)
	r := open(t, o)
	start(t, r)
	first := recorded(t, o)
	if err := os.Remove(filepath.Join(o.Dir, "etcd.pid.json")); err != nil {
		t.Fatal(err)
	}
	end := run(t, r)
	wait(t, func() bool { return hasRecord(o) })
	end()
	if now := recorded(t, o); now.PID != first.PID {
		t.Errorf("process %d is written down, it is %d", now.PID, first.PID)
	}
	stop(t, r)
}

func wantedIs(t *testing.T, r *process.Runtime, want bool) {
	t.Helper()
	if m, err := r.Inspect(t.Context()); err != nil || m.Wanted != want {
		t.Errorf("wanted %v, expected %v: %v", m.Wanted, want, err)
	}
}

func TestRunLeavesAStoppedEtcdStopped(t *testing.T) {
	o := script(t, sleep)
	r := open(t, o)
	end := run(t, r)
	wait(t, func() bool { m, err := r.Inspect(t.Context()); return err == nil && m.Running })
	stop(t, r)
	end()

	r = open(t, o) // the agent's next process
	run(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // nothing tells that it did nothing
	defer cancel()
	<-ctx.Done()
	if m, err := r.Inspect(t.Context()); err != nil || m.Running {
		t.Fatalf("running %v, %v", m.Running, err)
	}
	start(t, r)
	pid := recorded(t, o).PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool {
		m, err := r.Inspect(t.Context())
		return err == nil && m.Running && recorded(t, o).PID != pid
	})
}

func TestEtcdRunsAsItsUserInItsEnvironment(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("running as another user needs root")
	}
	t.Setenv("REQUORUM_TEST_SECRET", "x")
	o := script(t, "id -u; id -g; ps -o sid= -p $$; env\n")
	o.UID, o.GID = 4242, 4343
	r := open(t, o)
	start(t, r)
	wait(t, func() bool { return r.Alive(t.Context()) != nil })
	log, err := os.ReadFile(filepath.Join(o.Dir, "etcd.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(log), "4242\n4343\n") {
		t.Errorf("it runs as %q", log)
	}
	if strings.Contains(string(log), "REQUORUM_TEST_SECRET") {
		t.Error("it was given the agent's environment")
	}
	if m, err := r.Inspect(t.Context()); err != nil || m.UID != 4242 || m.GID != 4343 {
		t.Errorf("data must belong to %d:%d, %v", m.UID, m.GID, err)
	}
}

func TestALargeLogIsSetAsideAtTheStart(t *testing.T) {
	o := script(t, "echo a line\n"+sleep)
	o.LogLimit = 1
	r := open(t, o)
	for range 3 {
		start(t, r)
		wait(t, func() bool { return strings.HasSuffix(logged(o), "\n") })
		stop(t, r)
	}
	logs, err := filepath.Glob(filepath.Join(o.Dir, "etcd.log*"))
	if err != nil || len(logs) != 2 {
		t.Fatalf("logs %q, %v", logs, err)
	}
	for _, l := range logs {
		if text, err := os.ReadFile(l); err != nil || strings.Count(string(text), "\n") != 1 {
			t.Errorf("%s holds %q, %v", l, text, err)
		}
	}
}

func TestVersionIsThatOfTheBinary(t *testing.T) {
	o := script(t, sleep)
	r := open(t, o)
	version := func() string {
		m, err := r.Inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return m.Version
	}
	if got := version(); got != "3.5.99" {
		t.Errorf("version %q", got)
	}
	if err := os.WriteFile(o.Command[0], []byte("#!/bin/sh\necho etcd Version: 3.6.0-rc.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := version(); got != "3.6.0-rc.1" {
		t.Errorf("version %q after an upgrade", got)
	}
	if err := os.WriteFile(o.Command[0], []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := version(); got != "" {
		t.Errorf("version %q of a binary that does not tell", got)
	}
}

func TestALearnerJoinsWithAnEmptyDataDir(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	e := runtimetest.NewEtcd(t)
	name := "--name=learner"
	for i, arg := range e.Command {
		if strings.HasPrefix(arg, "--name=") {
			e.Command[i] = name
		}
		if strings.HasPrefix(arg, "--initial-cluster=") {
			e.Command[i] = "--initial-cluster=learner=" + e.Member.AdvertisePeerURLs[0]
		}
	}
	o := process.Options{Command: e.Command, Env: append(e.Env, "ETCD_INITIAL_CLUSTER_STATE=new"), Dir: filepath.Join(t.TempDir(), "state")}
	stopAtEnd(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := c.Client(t)
	if _, err := client.MemberAddAsLearner(ctx, e.Member.AdvertisePeerURLs); err != nil {
		t.Fatal(err)
	}
	r := open(t, o)
	if err := r.StartJoining(ctx, c.InitialCluster()+",learner="+e.Member.AdvertisePeerURLs[0]); err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool {
		if err := r.Alive(ctx); err != nil {
			t.Fatal(err)
		}
		list, err := client.MemberList(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.Members {
			if m.IsLearner && m.Name == "learner" { // it publishes its name once it has joined
				return true
			}
		}
		return false
	})
}

func TestJoiningIsRefusedWithAConfigurationFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	if err := os.WriteFile(file, []byte("name: m1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := open(t, process.Options{Command: []string{"/bin/false", "--config-file=" + file}, Dir: t.TempDir()})
	if err := r.StartJoining(t.Context(), "m1=http://127.0.0.1:1"); !errors.Is(err, etcdconf.ErrConfigFile) {
		t.Fatalf("error %v", err)
	}
}
