package e2e

import (
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/e2e/harness"
)

// minors are the versions of etcd that snapshots are carried between.
var minors = []string{"3.4", "3.5", "3.6", "3.7"}

// A snapshot of each version of etcd comes back on clusters of each other one, if that is asked for, and these clusters work on.
func TestRestoreAcrossMinors(t *testing.T) {
	needEtcds(t)
	shared := t.TempDir()
	saved := map[string]harness.State{}
	t.Run("save", func(t *testing.T) {
		for _, minor := range minors {
			t.Run(minor, func(t *testing.T) {
				c := clusterOf(t, minor, shared)
				c.Write(200)
				c.Delete(20)
				saved[minor] = c.Now()
				save(t, c, "of-"+minor, "--remote", "nfs")
			})
		}
	})
	for _, minor := range minors {
		t.Run("restore to "+minor, func(t *testing.T) {
			t.Parallel()
			c := clusterOf(t, minor, shared)
			for of, state := range saved {
				if of != minor {
					restoresFrom(t, c, minor, of, state)
				}
			}
			nothingLeft(t, c)
		})
	}
}

// clusterOf starts a cluster of that etcd, with a remote in the directory shared.
func clusterOf(t *testing.T, minor, shared string) *harness.Cluster {
	t.Helper()
	binary := etcdBinary(t, minor)
	return harness.Start(t, harness.Options{
		Configure: func(_ string, a *agent.Config) { a.Runtime.Process.Command[0] = binary },
		Control: func(c *controller.Config) {
			c.Remotes = []remote.Config{{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: shared}}}
		},
	})
}

func restoresFrom(t *testing.T, c *harness.Cluster, minor, of string, saved harness.State) {
	t.Helper()
	c.Write(20)
	command := []string{"restore", "--from", "nfs:of-" + of, "--yes"}
	says(t, c.Expect(3, command...), "--allow-version-mismatch", "the snapshot's is "+of)
	var resp requorumv1.StartRestoreResponse
	if r := c.JSON(&resp, append(command, "--allow-version-mismatch")...); r.Code != 0 {
		t.Fatalf("from %s to %s: %s", of, minor, r)
	}
	complete(t, resp.GetOperation())
	holds(t, c, saved)
	for _, node := range c.NodeNames() {
		runsVersion(t, c, node, minor)
	}
	c.Write(20)
	written := c.Now()
	for _, node := range c.NodeNames() {
		c.KillEtcd(node)
	}
	holds(t, c, written)
}

// complete makes sure that a restore predicted what the members answer, and that all of what it replaced was kept.
func complete(t *testing.T, op *requorumv1.Operation) {
	t.Helper()
	for _, warning := range op.GetWarnings() {
		if strings.Contains(warning, "HashKV") || strings.Contains(warning, "lacks") {
			t.Error(warning)
		}
	}
}
