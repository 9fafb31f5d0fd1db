package exec_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/exec"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	runtimetest.Main()
	goleak.VerifyTestMain(m)
}

// The operator's scripts; DIR stands for a directory of theirs, ETCD for etcd's command.
const (
	startScript = `#!/bin/sh
set -e
rm -f DIR/stopped
DIR/status >/dev/null && exit 0
nohup setsid env ETCD >>DIR/log 2>&1 </dev/null &
echo $! >DIR/pid
`
	stopScript = `#!/bin/sh
touch DIR/stopped
DIR/status >/dev/null || exit 0
kill $(cat DIR/pid)
`
	statusScript = `#!/bin/sh
[ "$REQUORUM_MEMBER" = m1 ] && [ -n "$REQUORUM_DATA_DIR" ] || { echo "not told which member"; exit 1; }
[ -s DIR/pid ] || exit 3
grep -q '(.*) [^Z]' /proc/$(cat DIR/pid)/stat 2>/dev/null && exit 0
echo "etcd is not running"
exit 3
`
)

func TestRuntime(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		e := runtimetest.NewEtcd(t)
		o := exec.Options{Member: e.Member}
		dir := t.TempDir()
		for name, s := range map[string]struct {
			text    string
			command *[]string
		}{"start": {startScript, &o.Start}, "stop": {stopScript, &o.Stop}, "status": {statusScript, &o.Status}} {
			path := filepath.Join(dir, name)
			text := strings.NewReplacer("DIR/", dir+"/", " ETCD ", " "+strings.Join(append(e.Env, e.Command...), " ")+" ").Replace(s.text)
			if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
			*s.command = []string{path}
		}
		o.Logs = []string{"tail", "-n5", filepath.Join(dir, "log")}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := open(t, o).Stop(ctx); err != nil {
				t.Error(err)
			}
		})
		return runtimetest.Subject{Open: func(t *testing.T) runtime.Runtime { return open(t, o) }}
	})
}

func open(t *testing.T, o exec.Options) *exec.Runtime {
	t.Helper()
	r, err := exec.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// options have commands that do nothing, but for status, which is given.
func options(t *testing.T, status ...string) exec.Options {
	return exec.Options{
		Member: runtime.Member{Name: "m1", DataDir: t.TempDir()},
		Stop:   []string{"true"}, Start: []string{"true"}, Status: status,
	}
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestStatusExitCodes(t *testing.T) {
	for script, want := range map[string]struct {
		running bool
		says    string // in the error; none if empty
	}{
		"exit 0":                          {running: true},
		"exit 3":                          {},
		"exit 1":                          {says: "exit status 1"},
		"echo oh dear >&2; exit 4":        {says: "oh dear"},
		"kill -9 $$":                      {says: "signal: killed"},
		"seq 1000; exit 1":                {says: "989\n990\n991\n992\n993\n994\n995\n996\n997\n998\n999\n1000"},
		"echo $REQUORUM_MEMBER; exit 1":   {says: "m1"},
		"echo $REQUORUM_DATA_DIR; exit 1": {says: os.TempDir()},
	} {
		m, err := open(t, options(t, sh(script)...)).Inspect(t.Context())
		if m.Running != want.running || m.Wanted != want.running {
			t.Errorf("%q: running %v, wanted %v", script, m.Running, m.Wanted)
		}
		if (err != nil) != (want.says != "") || err != nil && !strings.Contains(err.Error(), want.says) {
			t.Errorf("%q: error %v, expected it to say %q", script, err, want.says)
		}
	}
	var failed *exec.CommandError
	if _, err := open(t, options(t, "/no/such/command")).Inspect(t.Context()); !errors.As(err, &failed) || failed.What != "status" {
		t.Errorf("a command that is not there: %v", err)
	}
}

func TestNothingPassesThroughAShell(t *testing.T) {
	o := options(t, "sh", "-c", "exit 3")
	dir := t.TempDir()
	o.Start = []string{"touch", filepath.Join(dir, "a; touch b $(touch c)")}
	if err := open(t, o).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) != 1 || made[0].Name() != "a; touch b $(touch c)" {
		t.Fatalf("made %v, %v", made, err)
	}
}

func TestACommandThatHangsIsKilledWithItsChildren(t *testing.T) {
	for name, test := range map[string]struct {
		timeout time.Duration
		cancel  bool // once it hangs
		says    string
	}{
		"by its timeout": {5 * time.Second, false, "it took longer than 5s"},
		"by its context": {time.Hour, true, context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, "sh", "-c", "exit 3")
			pidFile := filepath.Join(t.TempDir(), "pid")
			o.Stop = sh("echo waiting; sleep 3600 & echo $! >" + pidFile + "; wait")
			o.CommandTimeout = test.timeout
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var waiting sync.WaitGroup
			if test.cancel {
				waiting.Go(func() { waitWritten(ctx, pidFile); cancel() })
			}
			err := open(t, o).Stop(ctx)
			cancel()
			waiting.Wait()
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "waiting") {
				t.Fatalf("error %v", err)
			}
			pid, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			waitGone(t, strings.TrimSpace(string(pid)))
		})
	}
}

// waitWritten waits until there is something in a file, or ctx ends.
func waitWritten(ctx context.Context, file string) {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for ctx.Err() == nil {
		if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// waitGone waits until a process is dead, reaped or not.
func waitGone(t *testing.T, pid string) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-look.C {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it lives: %s", stat)
		}
	}
}

func TestControlPlaneIsStoppedAndStartedByCommands(t *testing.T) {
	o := options(t, "true")
	if r := open(t, o); len(r.ControlPlane()) != 0 || r.StopControlPlane(t.Context()) != nil {
		t.Error("without commands there is no control plane")
	}
	file := filepath.Join(t.TempDir(), "down")
	o.ControlPlaneStop, o.ControlPlaneStart = []string{"touch", file}, []string{"rm", file}
	r := open(t, o)
	if got := r.ControlPlane(); len(got) != 1 || got[0] != "touch "+file {
		t.Errorf("control plane %q", got)
	}
	if err := r.StopControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if err := r.StartControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.ControlPlaneStart = nil
	if _, err := exec.New(o); err == nil {
		t.Error("took a stop command without a start command")
	}
}
