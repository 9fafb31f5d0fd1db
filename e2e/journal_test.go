package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/e2e/harness"
)

// An agent refuses a damaged journal and names the way out, which works; etcd serves all the while.
func TestDamagedJournalOfAnAgent(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(100)
	saved := c.Now()
	save(t, c, "before")
	restore(t, c, "before") // so that there is something to forget
	id, _ := serving(t, c)

	node := c.Node("etcd-2")
	journal := filepath.Join(node.AgentDir, "agent.db")
	kill(t, node.Agent)
	if err := flip(journal, 20); err != nil { // in a meta page
		t.Fatal(err)
	}
	endsSaying(t, node.Agent, journal, "is damaged", "enrol the node again", "docs/troubleshooting.md")
	holds(t, c, saved)

	if err := os.Rename(journal, journal+".damaged"); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(c.Do("token", "create", "--cluster", harness.Name, "--node", "etcd-2").Stdout)
	node.Agent.Env = append(node.Agent.Env, "REQUORUM_TOKEN="+token)
	c.StartAgain("etcd-2")
	holds(t, c, saved)
	if now, _ := serving(t, c); now != id {
		t.Errorf("the cluster ID was %x and is %x", id, now)
	}
	c.Write(50)
	restore(t, c, "before") // the node takes part as before
	holds(t, c, saved)
}

// A controller refuses a damaged store and names the way out, which works; etcd serves all the while.
func TestDamagedStoreOfTheController(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(100)
	saved := c.Now()
	save(t, c, "before")
	file := filepath.Join(c.Dir, "controller", "requorum.db")
	kill(t, c.Controller)
	backup, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.StartAgain("controller")
	reconnected(t, c)
	save(t, c, "later")

	kill(t, c.Controller)
	if err := os.Truncate(file, 3*4096+7); err != nil {
		t.Fatal(err)
	}
	endsSaying(t, c.Controller, file, "is damaged", "cut off", "--epoch-at-least", "docs/troubleshooting.md")
	holds(t, c, saved)

	if err := os.WriteFile(file, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := slices.Clone(c.Controller.Args)
	c.Controller.Args = append(plain, "--epoch-at-least", "1000")
	c.StartAgain("controller")
	reconnected(t, c)
	kill(t, c.Controller)
	c.Controller.Args = plain // it is told only once
	c.StartAgain("controller")
	reconnected(t, c)
	c.Write(50)
	restore(t, c, "before")
	holds(t, c, saved)
}

func kill(t *testing.T, p *dev.Process) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}

// endsSaying starts a process, which must end by itself and log all these words.
func endsSaying(t *testing.T, p *dev.Process, words ...string) {
	t.Helper()
	before, err := os.ReadFile(p.Log())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	after, err := os.ReadFile(p.Log())
	if err != nil {
		t.Fatal(err)
	}
	said := string(after[len(before):])
	for _, word := range words {
		if !strings.Contains(said, word) {
			t.Errorf("nothing says %q\n%s", word, said)
		}
	}
	if strings.Contains(said, "goroutine ") {
		t.Errorf("it crashed\n%s", said)
	}
}

// reconnected waits until every agent has found the controller again.
func reconnected(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, node := range c.NodeNames() {
		c.StartAgain(node) // it runs: this only waits
	}
}
