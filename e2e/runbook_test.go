package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// Whoever follows the runbook, section by section, gets the data back: of a cluster that has lost its quorum, of nodes that
// have lost their copies, without one of the machines, and what was there before the restore.
func TestRunbook(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	c := harness.Start(t, harness.Options{Control: b.configure})
	book := openRunbook(t, c, b)
	c.Write(300)
	saved := c.Now()
	save(t, c, "nightly", "--remote", "off-site")
	c.Write(100)
	later := c.Now()

	damage(t, c, "etcd-1")
	c.KillEtcd("etcd-1")
	c.KillEtcd("etcd-2")
	c.Wipe("etcd-2")
	book.follow("1. Look")
	book.follow("2. Ask whether it would work")
	book.follow("3. Restore")
	holds(t, c, saved)

	book.follow("It was the wrong snapshot", "SAFETY="+safetySnapshot(t, c))
	holds(t, c, later)

	for _, node := range c.NodeNames() {
		must(t, os.RemoveAll(c.Vault(node)))
		must(t, os.Mkdir(c.Vault(node), 0o700))
	}
	book.follow("No node has a good copy")
	holds(t, c, saved)

	must(t, c.Process("etcd-3").Kill())
	c.KillEtcd("etcd-3")
	waitNode(t, c, "etcd-3", "is away", func(n *requorumv1.Node) bool { return !n.GetConnected() })
	c.Write(10)
	book.follow("A machine is gone for good")
	holds(t, c, saved, "etcd-1", "etcd-2")

	book.wholeWasFollowed()
}

// damage makes a node's database unreadable.
func damage(t *testing.T, c *harness.Cluster, node string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(c.Node(node).DataDir, "member", "snap", "db"), []byte("garbage"), 0o600))
}

// safetySnapshot is the name that the newest restore has given to what it replaced.
func safetySnapshot(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	var resp requorumv1.ListSnapshotsResponse
	c.JSON(&resp, "snapshot", "ls")
	for _, s := range resp.GetSnapshots() { // the newest first
		if s.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY {
			return s.GetManifest().GetName()
		}
	}
	t.Fatalf("there is no safety snapshot: %v", resp.GetSnapshots())
	return ""
}

// runbook is docs/runbook.md and whoever follows it.
type runbook struct {
	t        *testing.T
	c        *harness.Cluster
	commands map[string]string // of a section, by its heading
	path     string            // where requorum is
	dir      string            // where the key of the remote is
}

var runbookSection = regexp.MustCompile("(?ms)^## ([^\n]+)\n.*?^```sh\n(.*?)^```$")

func openRunbook(t *testing.T, c *harness.Cluster, b *bucket) *runbook {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "runbook.md"))
	must(t, err)
	book := &runbook{t: t, c: c, commands: map[string]string{}, path: t.TempDir(), dir: filepath.Dir(b.keyFile)}
	for _, m := range runbookSection.FindAllStringSubmatch(string(text), -1) {
		book.commands[m[1]] = m[2]
	}
	if blocks := strings.Count(string(text), "```sh\n"); blocks != len(book.commands) {
		t.Fatalf("%d blocks of commands in %d sections; one in each can be followed", blocks, len(book.commands))
	}
	plain, _ := harness.Binaries(t)
	link(t, plain, filepath.Join(book.path, "requorum"))
	return book
}

// follow runs the commands of a section, which must all end with 0.
func (b *runbook) follow(heading string, env ...string) {
	b.t.Helper()
	commands, found := b.commands[heading]
	if !found {
		b.t.Fatalf("the runbook has no section %q with commands that was not followed yet", heading)
	}
	delete(b.commands, heading)
	env = append([]string{"--chdir=" + b.dir}, append(env, "PATH="+b.path+":"+os.Getenv("PATH"), "REQUORUM_CONFIG="+b.c.AdminConfig())...)
	if r := b.c.Run("env", append(env, "bash", "-euc", commands)...); r.Code != 0 {
		b.t.Fatalf("%s: %s", heading, r)
	}
}

// wholeWasFollowed makes sure that no section was left out.
func (b *runbook) wholeWasFollowed() {
	b.t.Helper()
	for heading := range b.commands {
		b.t.Errorf("nothing has followed the section %q", heading)
	}
}
