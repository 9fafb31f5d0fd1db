package docker_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/lacking"
)

// Whatever the policy, it is gone while etcd is stopped, and afterwards nothing that the engine was told differs.
func TestRestartPolicyComesBackAsItWas(t *testing.T) {
	for _, policy := range []api.RestartPolicy{always, {Name: "unless-stopped"}, {Name: "on-failure", MaximumRetryCount: 5}, {Name: "no"}} {
		t.Run(string(policy.Name), func(t *testing.T) {
			b := newBench(t)
			name := b.createEtcd(t.TempDir(), policy)
			before := b.inspect(name).HostConfig
			r := b.open(name)
			b.must(r.Start(t.Context()))
			for range 2 {
				b.must(b.open(name).Stop(t.Context()))
				b.expectPolicy(name, api.RestartPolicy{Name: "no"})
				b.expect(r, false, false)
			}
			for range 2 {
				b.must(b.open(name).Start(t.Context()))
				b.expect(r, true, true)
			}
			if diff := cmp.Diff(before, b.inspect(name).HostConfig); diff != "" {
				t.Error(diff)
			}
			b.expectNothingKept()
		})
	}
}

func (b *bench) expectNothingKept() {
	b.t.Helper()
	left, err := os.ReadDir(b.dir)
	if err != nil || len(left) > 0 {
		b.t.Errorf("left behind: %v, %v", left, err)
	}
}

// holdFile is where it is kept that a container is to stay stopped.
func (b *bench) holdFile(name string) string { return filepath.Join(b.dir, name+".json") }

// writeState puts what is kept of a stopped container into another state.
func (b *bench) writeState(name, state string) {
	b.t.Helper()
	was, err := os.ReadFile(b.holdFile(name))
	b.must(err)
	now := bytes.Replace(was, []byte(`"stopped"`), []byte(`"`+state+`"`), 1)
	if bytes.Equal(was, now) && state != "stopped" {
		b.t.Fatalf("what is kept does not say stopped: %s", was)
	}
	b.must(os.WriteFile(b.holdFile(name), now, 0o600))
}

func (b *bench) setPolicy(name string, policy api.RestartPolicy) {
	b.t.Helper()
	_, err := b.engine.ContainerUpdate(b.t.Context(), name, client.ContainerUpdateOptions{RestartPolicy: &policy})
	b.must(err)
}

func (b *bench) run(name string) {
	b.t.Helper()
	_, err := b.engine.ContainerStart(b.t.Context(), name, client.ContainerStartOptions{})
	b.must(err)
}

// An agent that is killed leaves a container between two of the steps of Stop or Start. The next one stops and starts it
// all the same, and the policy is as it was.
func TestAnAgentThatWasKilledLosesNoPolicy(t *testing.T) {
	policy := api.RestartPolicy{Name: "on-failure", MaximumRetryCount: 7}
	none := api.RestartPolicy{Name: "no"}
	for _, test := range []struct {
		died            string
		state           string
		has             api.RestartPolicy
		runs            bool
		running, wanted bool
	}{
		{"when the policy was written down", "stopped", policy, true, true, false},
		{"when the policy was taken away", "stopped", none, true, true, false},
		{"when the container was stopped", "stopped", none, false, false, false},
		{"when the start was begun", "starting", none, false, false, true},
		{"when the policy was put back", "starting", policy, false, false, true},
		{"when the container was started", "starting", policy, true, true, true},
	} {
		for _, stop := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stop %v", test.died, stop), func(t *testing.T) {
				b := newBench(t)
				name := b.createEtcd(t.TempDir(), policy)
				r := b.open(name)
				b.must(r.Start(t.Context()))
				b.must(r.Stop(t.Context()))
				b.writeState(name, test.state)
				if test.has != none {
					b.setPolicy(name, test.has)
				}
				if test.runs {
					b.run(name)
				}

				r = b.open(name)
				b.expect(r, test.running, test.wanted)
				if stop {
					b.must(r.Stop(t.Context()))
					b.expect(r, false, false)
					b.expectPolicy(name, none)
				}
				b.must(r.Start(t.Context()))
				b.expect(r, true, true)
				b.expectPolicy(name, policy)
				b.expectNothingKept()
			})
		}
	}
}

// RKE1 makes a new container under the same name where its configuration changes. That one's policy is its own.
func TestANewContainerOfTheNameKeepsItsPolicy(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	name := b.createEtcd(dir, always)
	r := b.open(name)
	b.must(r.Start(t.Context()))
	b.must(r.Stop(t.Context()))
	_, err := b.engine.ContainerRemove(t.Context(), name, client.ContainerRemoveOptions{})
	b.must(err)

	unlessStopped := api.RestartPolicy{Name: api.RestartPolicyUnlessStopped}
	b.createEtcd(dir, unlessStopped)
	b.run(name)
	b.expect(r, true, false) // and so the agent stops it
	for _, stop := range []bool{false, true} {
		if stop {
			b.must(r.Stop(t.Context()))
		}
		b.must(r.Start(t.Context()))
		b.expectPolicy(name, unlessStopped)
		b.expectNothingKept()
	}
}

// Restarts that are past when Start is called say nothing against etcd.
func TestOnlyRestartsSinceStartCount(t *testing.T) {
	b := newBench(t)
	name := b.createEtcd(t.TempDir(), always)
	r := b.open(name)
	b.must(r.Start(t.Context()))
	for range 2 {
		b.killEtcd(name)
		if err := r.Alive(t.Context()); err == nil || !strings.Contains(err.Error(), "ended 1 times") {
			t.Errorf("after the engine started it again: %v", err)
		}
		b.must(r.Start(t.Context())) // it runs already
		b.must(r.Alive(t.Context()))
		b.must(r.Stop(t.Context()))
		b.must(r.Start(t.Context()))
		b.must(r.Alive(t.Context()))
	}
}

// killEtcd kills etcd and returns once the engine has started it again.
func (b *bench) killEtcd(name string) {
	b.t.Helper()
	was := b.inspect(name)
	b.must(unix.Kill(was.State.Pid, unix.SIGKILL))
	b.await("the engine has started etcd again", func() bool {
		now := b.inspect(name)
		return now.RestartCount == was.RestartCount+1 && now.State.Pid != 0
	})
}

func (b *bench) await(what string, done func() bool) {
	b.t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-look.C:
		case <-deadline:
			b.t.Fatalf("in vain it was waited until %s", what)
		}
	}
}

// ownEngine is an engine of the test's own, which it can restart.
type ownEngine struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
}

func newOwnEngine(t *testing.T) *ownEngine {
	t.Helper()
	newBench(t) // skips where there is none
	if os.Geteuid() != 0 {
		lacking.Part(t, "only root can start a Docker engine")
	}
	e := &ownEngine{t: t, dir: t.TempDir()}
	t.Setenv("DOCKER_HOST", "unix://"+e.dir+"/sock")
	e.start()
	t.Cleanup(func() {
		e.end()
		e.unmount()
	})
	return e
}

func (e *ownEngine) start() {
	e.t.Helper()
	log, err := os.OpenFile(e.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	e.cmd = exec.Command("dockerd", "--data-root="+e.dir+"/data", "--exec-root="+e.dir+"/exec", "--pidfile="+e.dir+"/pid",
		"--host=unix://"+e.dir+"/sock", "--bridge=none", "--iptables=false", "--ip6tables=false")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	b := &bench{t: e.t}
	b.await("the engine serves", func() bool {
		err := withEngine(func(engine *client.Client) error {
			_, err := engine.Ping(e.t.Context(), client.PingOptions{})
			return err
		})
		return err == nil
	})
}

// end ends the engine in order, with all containers.
func (e *ownEngine) end() {
	e.t.Helper()
	state := e.signal(unix.SIGTERM)
	if !state.Success() {
		text, err := os.ReadFile(e.dir + "/log")
		e.t.Errorf("the engine ended with %v: %v\n%s", state, err, text)
	}
}

// crash ends the engine and its containerd at once, as a crash of the host does. No container may run.
func (e *ownEngine) crash() {
	e.t.Helper()
	text, err := os.ReadFile(e.dir + "/exec/containerd/containerd.pid")
	if err != nil {
		e.t.Fatal(err)
	}
	containerd, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		e.t.Fatal(err)
	}
	e.signal(unix.SIGKILL)
	if err := unix.Kill(containerd, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		e.t.Fatal(err)
	}
	for _, file := range []string{"/pid", "/exec/containerd/containerd.pid"} {
		if err := os.Remove(e.dir + file); err != nil {
			e.t.Fatal(err)
		}
	}
	e.unmount()
}

// unmount undoes the mounts that the engine leaves behind.
func (e *ownEngine) unmount() {
	e.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		e.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for _, line := range slices.Backward(lines) {
		point := strings.Fields(line)[4]
		if !strings.HasPrefix(point, e.dir+"/") {
			continue
		}
		if err := unix.Unmount(point, 0); err != nil {
			e.t.Errorf("unmount %s: %v", point, err)
		}
	}
}

func (e *ownEngine) signal(signal unix.Signal) *os.ProcessState {
	e.t.Helper()
	if err := e.cmd.Process.Signal(signal); err != nil {
		e.t.Fatal(err)
	}
	state, err := e.cmd.Process.Wait()
	if err != nil {
		e.t.Fatal(err)
	}
	return state
}

// What was stopped stays stopped over a restart of the engine, as at a reboot; what was started comes up.
func TestAnEngineThatRestarts(t *testing.T) {
	e := newOwnEngine(t)
	if err := importImage(); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	name := b.createEtcd(t.TempDir(), always)
	r := b.open(name)
	b.must(r.Start(t.Context()))

	b.must(r.Stop(t.Context()))
	e.end()
	if _, err := r.Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), "no Docker engine answers") {
		t.Errorf("without an engine: %v", err)
	}
	e.start()
	b.expect(r, false, false)
	e.crash()
	e.start()
	b.expect(r, false, false)

	b.must(r.Start(t.Context()))
	e.end()
	e.start()
	b.await("etcd runs again", func() bool { return b.inspect(name).State.Running })
	b.expect(r, true, true)
	b.expectPolicy(name, always)
}
