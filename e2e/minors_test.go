package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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
// In the end, with the data of the newest, their members are upgraded again, minor by minor and one after the other.
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
	for i, minor := range minors {
		t.Run("restore to "+minor, func(t *testing.T) {
			t.Parallel()
			c := clusterOf(t, minor, shared)
			for _, of := range minors {
				if of != minor {
					restoresFrom(t, c, minor, of, saved[of])
				}
			}
			for _, next := range minors[i+1:] {
				upgrades(t, c, next)
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

// snapsSoon makes etcd write its state down every few changes, and begin its log anew there. etcd 3.7 panics where that holds what
// etcd 3.5 put there about members and versions, on data that was never restored, too; 10 000 changes by 3.6 put an end to it.
const snapsSoon = "--snapshot-count=50"

// upgrades replaces the etcd of one node after the other. With each, the members agree and work on; with the last, etcd takes the new
// version for the cluster's and, since 3.6, for that of what it stores.
func upgrades(t *testing.T, c *harness.Cluster, minor string) {
	t.Helper()
	for _, node := range c.NodeNames() {
		must(t, c.Process(node).Stop())
		reconfigure(t, c, node, func(a *agent.Config) {
			command := a.Runtime.Process.Command
			command[0] = etcdBinary(t, minor)
			a.Runtime.Process.Command = append(slices.DeleteFunc(command, func(arg string) bool { return arg == snapsSoon }), snapsSoon)
		})
		c.KillEtcd(node)
		c.StartAgain(node)
		within(t, "etcd "+minor+" does not start on "+node, func() error { return hasVersion(t, c, node, minor) })
		c.Write(20)
		holds(t, c, c.Now())
	}
	for range 60 { // and each has its log behind it
		_, err := c.Client(c.NodeNames()[0]).Put(t.Context(), "log", minor)
		must(t, err)
	}
	stores := minor + ".0"
	if minor < "3.6" {
		stores = ""
	}
	for _, node := range c.NodeNames() {
		within(t, node+" does not note the upgrade", func() error {
			status, err := c.Client(node).Status(t.Context(), c.Endpoint(node))
			if err != nil {
				return err
			}
			if cluster := clusterVersion(t, c, node); status.StorageVersion != stores || cluster != minor+".0" {
				return fmt.Errorf("what is stored is of %q, the cluster of %q", status.StorageVersion, cluster)
			}
			return nil
		})
	}
}

// clusterVersion asks a member for the version that it takes the cluster to have.
func clusterVersion(t *testing.T, c *harness.Cluster, node string) string {
	t.Helper()
	ask, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Endpoint(node)+"/version", nil)
	must(t, err)
	answer, err := http.DefaultClient.Do(ask)
	must(t, err)
	defer answer.Body.Close()
	var versions struct{ EtcdCluster string }
	must(t, json.NewDecoder(answer.Body).Decode(&versions))
	return versions.EtcdCluster
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
