package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/e2e/harness"
)

// The operator's commands, as somebody without systemd would write them. DIR is a directory of the node's own, ETCD etcd's
// command, LOG a file that all nodes write to: time, command, node.
var commands = map[string]string{
	"start": `#!/bin/sh
echo "$(date +%s%N) start $REQUORUM_MEMBER" >>LOG
rm -f DIR/stopped
DIR/status >/dev/null && exit 0
setsid ETCD >>DIR/etcd.log 2>&1 </dev/null &
echo $! >DIR/pid
`,
	"stop": `#!/bin/sh
echo "$(date +%s%N) stop $REQUORUM_MEMBER" >>LOG
touch DIR/stopped
DIR/status >/dev/null || exit 0
kill $(cat DIR/pid)
`,
	"status": `#!/bin/sh
[ -s DIR/pid ] && grep -q '(.*) [^Z]' /proc/$(cat DIR/pid)/stat 2>/dev/null && exit 0
echo "etcd is not running"
exit 3
`,
	// Slow, so that it shows if nobody waits for it.
	"control-plane": `#!/bin/sh
sleep 0.3
echo "$(date +%s%N) control-plane-$1 $REQUORUM_MEMBER" >>LOG
`,
}

// Where etcd is run by the operator's own commands, a restore calls them in order: every control plane is down before any
// etcd stops, every etcd is down before any starts, and no control plane starts before the restored cluster is verified.
func TestExecRuntime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	stopAll := func() { stopCommands(t, dir) }
	t.Cleanup(stopAll)
	c := harness.Start(t, harness.Options{Configure: func(node string, a *agent.Config) { useCommands(t, filepath.Join(dir, node), log, a) }})
	t.Cleanup(stopAll) // before the harness looks for what still runs
	c.Write(200)
	save(t, c, "before")
	saved := c.Now()
	c.Write(100)
	plan := c.Do("restore", "--snapshot", "before", "--plan")
	says(t, plan, "control-plane stop")
	if called(t, log, "stop")+called(t, log, "control-plane-stop") != 0 {
		t.Error("something was stopped before the restore")
	}

	must(t, os.Truncate(log, 0))
	op := restore(t, c, "before")
	holds(t, c, saved)
	inOrder(t, c, log, op)
	if stops := called(t, log, "control-plane-stop"); stops != len(c.Nodes) {
		t.Errorf("the control planes of %d nodes were stopped %d times", len(c.Nodes), stops)
	}
	if left := besidesEtcd(c.LeftBehind()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	was := stands(t, c)
	must(t, os.Truncate(log, 0))
	c.Arm("agent/verify/before", "etcd-2", "error")
	r := c.CLI("restore", "--snapshot", "before", "--yes")
	c.Disarm()
	if r.Code != 4 {
		t.Errorf("a restore that fails in verify ends with %d\n%s", r.Code, r)
	}
	was.same(t, c)
	for _, n := range c.Nodes {
		if lines := calls(t, log, n.Name); len(lines) == 0 || lines[len(lines)-1].command != "control-plane-start" {
			t.Errorf("after the restore was reverted the last call on %s is not the start of the control plane: %v", n.Name, lines)
		}
	}

	reconfigure(t, c, "etcd-2", func(a *agent.Config) { a.Runtime.Exec.Member.Version = "3.5.0" })
	versions(t, c, was)
}

// versions makes sure that a restore across minor versions is refused, and done where it is asked for.
func versions(t *testing.T, c *harness.Cluster, was standing) {
	t.Helper()
	mismatch := []string{"restore", "--snapshot", "before", "--yes"}
	refused(t, c, 3, mismatch, "version on etcd-2", "its etcd is 3.5.0", "install etcd 3.7", "--allow-version-mismatch")
	was.same(t, c)
	op := restore(t, c, "before", "--allow-version-mismatch")
	if !slices.ContainsFunc(op.GetWarnings(), func(w string) bool { return strings.Contains(w, "etcd-2") && strings.Contains(w, "3.5.0") }) {
		t.Errorf("nothing warns of the version: %v", op.GetWarnings())
	}
	holds(t, c, was.data)
}

// useCommands makes the agent run etcd by commands instead of by itself.
func useCommands(t *testing.T, dir, log string, a *agent.Config) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	etcd := a.Runtime.Process.Command
	flag := func(name string) string {
		for _, arg := range etcd {
			if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
				return value
			}
		}
		t.Fatalf("etcd has no --%s", name)
		return ""
	}
	at := func(name string, args ...string) []string { return append([]string{filepath.Join(dir, name)}, args...) }
	for name, text := range commands {
		text = strings.NewReplacer("DIR/", dir+"/", "ETCD", "'"+strings.Join(etcd, "' '")+"'", "LOG", log).Replace(text)
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700))
	}
	a.Runtime.Process = nil
	a.Runtime.Exec = &agent.Exec{
		Stop: at("stop"), Start: at("start"), Status: at("status"), Logs: []string{"tail", "-n", "20", filepath.Join(dir, "etcd.log")},
		ControlPlaneStop: at("control-plane", "stop"), ControlPlaneStart: at("control-plane", "start"),
		Member: agent.ExecMember{
			Name: flag("name"), DataDir: flag("data-dir"),
			ListenClientURLs: []string{flag("listen-client-urls")}, AdvertiseClientURLs: []string{flag("advertise-client-urls")},
			ListenPeerURLs: []string{flag("listen-peer-urls")}, AdvertisePeerURLs: []string{flag("initial-advertise-peer-urls")},
		},
	}
	must(t, exec.CommandContext(t.Context(), filepath.Join(dir, "start")).Run()) // the operator did, long ago
}

// stopCommands ends the etcd of every node and waits for its end.
func stopCommands(t *testing.T, dir string) {
	t.Helper()
	stops, err := filepath.Glob(filepath.Join(dir, "*", "stop"))
	must(t, err)
	for _, stop := range stops {
		if err := exec.Command(stop).Run(); err != nil {
			t.Errorf("%s: %v", stop, err)
		}
	}
	for _, stop := range stops {
		within(t, "etcd does not end", func() error {
			if exec.Command(filepath.Join(filepath.Dir(stop), "status")).Run() == nil {
				return errRuns
			}
			return nil
		})
	}
}

// call is one line of the commands' log.
type call struct {
	at      time.Time
	command string
	node    string
}

// calls reads the log, of one node or, with an empty name, of all.
func calls(t *testing.T, log, node string) []call {
	t.Helper()
	data, err := os.ReadFile(log)
	must(t, err)
	var all []call
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) != 3 || node != "" && words[2] != node {
			continue
		}
		nanos, err := strconv.ParseInt(words[0], 10, 64)
		must(t, err)
		all = append(all, call{time.Unix(0, nanos), words[1], words[2]})
	}
	return all
}

func called(t *testing.T, log, command string) int {
	t.Helper()
	n := 0
	for _, c := range calls(t, log, "") {
		if c.command == command {
			n++
		}
	}
	return n
}

// inOrder makes sure of the order in which a restore called the commands.
func inOrder(t *testing.T, c *harness.Cluster, log string, op *requorumv1.Operation) {
	t.Helper()
	first, last := map[string]time.Time{}, map[string]time.Time{}
	down := map[string]bool{} // nodes whose control plane was down when the first etcd was stopped
	for _, call := range calls(t, log, "") {
		if first[call.command].IsZero() {
			first[call.command] = call.at
		}
		last[call.command] = call.at
		if call.command == "control-plane-stop" && first["stop"].IsZero() {
			down[call.node] = true
		}
	}
	if len(down) != len(c.Nodes) {
		t.Errorf("when the first etcd was stopped, the control plane was down on %v", down)
	}
	for _, command := range []string{"stop", "start", "control-plane-start"} {
		if n := called(t, log, command); n != len(c.Nodes) {
			t.Errorf("%s was called %d times on %d nodes", command, n, len(c.Nodes))
		}
	}
	if !last["stop"].Before(first["start"]) {
		t.Error("an etcd was started before all were stopped")
	}
	var verified time.Time
	for _, step := range op.GetSteps() {
		if step.GetName() == "verify" {
			verified = step.GetEnded().AsTime()
		}
	}
	if verified.IsZero() || first["control-plane-start"].Before(verified) {
		t.Errorf("a control plane was started at %s, and the cluster was verified at %s", first["control-plane-start"], verified)
	}
}

// besidesEtcd leaves out the processes of etcd, which only the operator's commands know.
func besidesEtcd(left []string) []string {
	return slices.DeleteFunc(left, func(line string) bool {
		return strings.HasPrefix(line, "process ") && strings.Contains(line, "--data-dir=")
	})
}
