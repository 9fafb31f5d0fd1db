package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/e2e/harness"
)

// A cluster of older etcd servers comes back whole, and works on as a cluster does: it takes writes, its membership changes,
// and its members come back after they were all killed. REQUORUM_ETCDS names the directory that make etcds fills.
func TestEtcdVersions(t *testing.T) {
	if os.Getenv("REQUORUM_ETCDS") == "" {
		t.Skip("REQUORUM_ETCDS is not set; make etcds builds the servers, and make e2e sets it")
	}
	for _, minor := range minors {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			restoresVersion(t, etcdBinary(t, minor), minor)
		})
	}
}

// etcdBinary is the etcd of that version. Without Debian's package of 3.4 the test ends here, but not in CI.
func etcdBinary(t *testing.T, minor string) string {
	t.Helper()
	binary := filepath.Join(os.Getenv("REQUORUM_ETCDS"), "etcd-"+minor)
	_, err := os.Stat(binary)
	if minor == "3.4" && os.IsNotExist(err) && os.Getenv("CI") == "" {
		t.Skip("etcd 3.4 comes as a Debian package, and make etcds could not download that here")
	}
	must(t, err)
	return binary
}

func restoresVersion(t *testing.T, binary, minor string) {
	t.Helper()
	c := harness.Start(t, harness.Options{Configure: func(_ string, a *agent.Config) { a.Runtime.Process.Command[0] = binary }})
	for _, node := range c.NodeNames() {
		runsVersion(t, c, node, minor)
	}
	c.Write(300)
	c.Delete(50)
	snapshot := save(t, c, "before")
	if have := snapshot.GetManifest().GetEtcdVersion(); !strings.HasPrefix(have, minor+".") {
		t.Errorf("the manifest says etcd %q", have)
	}
	saved := c.Now()
	c.Write(100)

	complete(t, restore(t, c, "before"))
	holds(t, c, saved)
	for _, node := range c.NodeNames() {
		runsVersion(t, c, node, minor)
	}
	c.Write(100)
	changesMembers(t, c)
	written := c.Now()
	for _, node := range c.NodeNames() {
		c.KillEtcd(node)
	}
	holds(t, c, written)
	nothingLeft(t, c)
}

// runsVersion makes sure that it is that etcd which is under test.
func runsVersion(t *testing.T, c *harness.Cluster, node, minor string) {
	t.Helper()
	status, err := c.Client(node).Status(t.Context(), c.Endpoint(node))
	must(t, err)
	if !strings.HasPrefix(status.Version, minor+".") {
		t.Fatalf("%s runs etcd %s, not %s", node, status.Version, minor)
	}
}

// changesMembers adds a learner, which needs no process to be a member, and removes it. etcd refuses as long as its members
// have not been connected for some seconds.
func changesMembers(t *testing.T, c *harness.Cluster) {
	t.Helper()
	client := c.Client(c.NodeNames()[0])
	var added *clientv3.MemberAddResponse
	within(t, "no member can be added", func() (err error) {
		added, err = client.MemberAddAsLearner(t.Context(), []string{"http://127.0.0.1:1"})
		return err
	})
	if want := len(c.Nodes) + 1; len(added.Members) != want {
		t.Errorf("after one was added there are %d members, not %d", len(added.Members), want)
	}
	removed, err := client.MemberRemove(t.Context(), added.Member.ID)
	must(t, err)
	if len(removed.Members) != len(c.Nodes) {
		t.Errorf("after it was removed there are %d members, not %d", len(removed.Members), len(c.Nodes))
	}
}
