package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/loopback"
)

// Of two controllers on the same data the nodes obey the newer one only, in the middle of a restore, too. The other one
// does nothing and says so to whoever asks it.
func TestTwoControllers(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	save(t, c, "before")
	old := copyController(t, c) // as from a disk snapshot
	must(t, c.Controller.Kill())
	c.StartAgain("controller")
	gathered(t, c)
	oldOneComesBack(t, c, old)
	holds(t, c, saved)
	nothingLeft(t, c)
	c.Write(100)
	twinComesUp(t, c)
	holds(t, c, saved)
	nothingLeft(t, c)
}

// oldOneComesBack lets a controller of an older state take the place of the newer one while that restores. No node obeys
// it, and the newer one carries on where it was.
func oldOneComesBack(t *testing.T, c *harness.Cluster, old *twin) {
	t.Helper()
	c.Write(100)
	c.Arm("agent/swap/after", "etcd-1", "hang once")
	id := detached(t, c, "before")
	c.WaitFired("agent/swap/after", "etcd-1")
	must(t, c.Controller.Kill())

	old.startAt(t, c.Address)
	for _, node := range c.NodeNames() {
		logged(t, old.process, "this controller is fenced", "node="+node, "--epoch-at-least")
	}
	status := old.run(t, c, 0, "cluster", "status")
	for _, node := range c.NodeNames() {
		says(t, status, node+": it obeys another controller, of epoch 2", "--epoch-at-least 3")
	}
	for _, command := range [][]string{{"snapshot", "save", "--name", "other"}, {"restore", "--snapshot", "before", "--yes"}} {
		r := old.run(t, c, 3, command...)
		says(t, r, "obeys another controller, of epoch 2", "use the other controller")
	}
	must(t, old.process.Kill())

	must(t, c.Faults.Forget("agent/swap/after", "etcd-1"))
	c.StartAgain("controller")
	if op := c.Settle(); op.GetId() != id || op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the restore: %s", format(op))
	}
}

// twinComesUp starts a controller on a copy of the data of one that is in the middle of a restore and goes on. The copy
// takes the restore up, too, and reverts it, for no node comes to it. A node that is then sent to it, by mistake, undoes
// nothing of a restore that has ended.
func twinComesUp(t *testing.T, c *harness.Cluster) {
	t.Helper()
	c.Arm("agent/stage/after", "etcd-1", "hang once")
	id := detached(t, c, "before")
	c.WaitFired("agent/stage/after", "etcd-1")
	second := copyController(t, c)
	second.start(t)
	says(t, second.run(t, c, 0, "cluster", "status"), "0 of 3 connected", "etcd-1: its agent is not connected")
	must(t, c.Faults.Forget("agent/stage/after", "etcd-1"))
	if op := c.Settle(); op.GetId() != id || op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the restore: %s", format(op))
	}
	restored, _ := serving(t, c)

	first := c.Address
	sendTo(t, c, "etcd-2", second.address)
	logged(t, c.Process("etcd-2"), "has ended on this node")
	if now, _ := serving(t, c); now != restored {
		t.Errorf("the cluster was %x and is %x: a node obeyed a controller that reverts a restore which has ended", restored, now)
	}
	sendTo(t, c, "etcd-2", first)
	logged(t, c.Controller, "this controller is fenced", "node=etcd-2")
	says(t, c.Do("cluster", "status"), "etcd-2: it obeys another controller, of epoch 4", "--epoch-at-least 5")
	says(t, c.Expect(3, "restore", "--snapshot", "before", "--yes"), "etcd-2", "obeys another controller")
	must(t, second.process.Kill())

	must(t, c.Controller.Stop())
	args := c.Controller.Args
	c.Controller.Args = append(args[:len(args):len(args)], "--epoch-at-least", "5") // as the advice says
	c.StartAgain("controller")
	c.Controller.Args = args
	gathered(t, c)
	c.Write(10)
	restore(t, c, "before")
}

// sendTo makes a node's agent talk to the controller at an address.
func sendTo(t *testing.T, c *harness.Cluster, node, address string) {
	t.Helper()
	must(t, c.Process(node).Stop())
	reconfigure(t, c, node, func(a *agent.Config) { a.Controller = address })
	must(t, c.Process(node).Start())
}

// twin is a controller that runs on a copy of another one's data.
type twin struct {
	process *dev.Process
	dir     string
	address string
	binary  string // of the command
}

// copyController copies the controller's data as they are on the disk at this moment.
func copyController(t *testing.T, c *harness.Cluster) *twin {
	t.Helper()
	plain, _ := harness.Binaries(t)
	ports, err := loopback.Ports(1)
	must(t, err)
	second := &twin{dir: t.TempDir(), address: fmt.Sprintf("127.0.0.1:%d", ports[0]), binary: plain}
	must(t, os.CopyFS(filepath.Join(second.dir, "controller"), os.DirFS(filepath.Join(c.Dir, "controller"))))
	second.process = &dev.Process{
		Name: "second", Binary: c.Controller.Binary, Dir: second.dir, Env: c.Env,
		Args: []string{"controller", "--config", filepath.Join(second.dir, "controller.yaml")},
	}
	var cfg controller.Config
	must(t, config.Load(filepath.Join(c.Dir, "controller.yaml"), &cfg))
	cfg.DataDir = filepath.Join(second.dir, "controller")
	second.configure(t, cfg)
	return second
}

func (s *twin) configure(t *testing.T, cfg controller.Config) {
	t.Helper()
	cfg.Listen = s.address
	data, err := yaml.Marshal(cfg)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.dir, "controller.yaml"), data, 0o600))
	settings := filepath.Join(s.dir, "controller", "admin", "requorum.yaml")
	must(t, os.WriteFile(settings, []byte("controller: "+s.address+"\nca: ca.crt\ncert: client.crt\nkey: client.key\n"), 0o600))
}

// startAt starts the controller at another's address.
func (s *twin) startAt(t *testing.T, address string) {
	t.Helper()
	s.address = address
	var cfg controller.Config
	must(t, config.Load(filepath.Join(s.dir, "controller.yaml"), &cfg))
	s.configure(t, cfg)
	s.start(t)
}

func (s *twin) start(t *testing.T) {
	t.Helper()
	must(t, s.process.Start())
	t.Cleanup(func() {
		if err := s.process.Kill(); err != nil {
			t.Error(err)
		}
	})
	logged(t, s.process, "controller serves")
}

// run runs a command against this controller, which must end with that code.
func (s *twin) run(t *testing.T, c *harness.Cluster, code int, args ...string) harness.Result {
	t.Helper()
	settings := filepath.Join(s.dir, "controller", "admin", "requorum.yaml")
	r := c.Run(s.binary, append([]string{"--config", settings}, args...)...)
	if r.Code != code {
		t.Errorf("want exit code %d\n%s", code, r)
	}
	return r
}

// logged waits for a line with all these words in a process's log.
func logged(t *testing.T, p *dev.Process, words ...string) {
	t.Helper()
	within(t, fmt.Sprintf("the log of %s has no line with %q", p.Name, words), func() error {
		log, err := os.ReadFile(p.Log())
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			if hasAll(line, words) {
				return nil
			}
		}
		return fmt.Errorf("it ends with %q", log[max(0, len(log)-300):])
	})
}

func hasAll(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}
