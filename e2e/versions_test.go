package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/lacking"
	"github.com/requorum/requorum/internal/loopback"
)

// A cluster of older etcd servers comes back whole, and works on as a cluster does: it takes writes, its membership changes,
// and its members come back after they were all killed. REQUORUM_ETCDS names the directory that make etcds fills.
func TestEtcdVersions(t *testing.T) {
	needEtcds(t)
	for _, minor := range minors {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			restoresVersion(t, etcdBinary(t, minor), minor)
		})
	}
}

// needEtcds ends the test where there are no servers of other versions, but not in CI.
func needEtcds(t *testing.T) {
	t.Helper()
	if os.Getenv("REQUORUM_ETCDS") == "" {
		lacking.Part(t, "REQUORUM_ETCDS is not set; make etcds builds the servers, and make e2e sets it")
	}
}

// etcdBinary is the etcd of that version. Without Debian's package of 3.4 the test ends here, but not in CI.
func etcdBinary(t *testing.T, minor string) string {
	t.Helper()
	binary := filepath.Join(os.Getenv("REQUORUM_ETCDS"), "etcd-"+minor)
	_, err := os.Stat(binary)
	if minor == "3.4" && os.IsNotExist(err) {
		lacking.Part(t, "etcd 3.4 comes as a Debian package, and make etcds could not download that here")
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
	changesMembers(t, c, binary)
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
	must(t, hasVersion(t, c, node, minor))
}

// hasVersion returns an error unless the node's member answers and is of that version.
func hasVersion(t *testing.T, c *harness.Cluster, node, minor string) error {
	t.Helper()
	status, err := c.Client(node).Status(t.Context(), c.Endpoint(node))
	if err == nil && !strings.HasPrefix(status.Version, minor+".") {
		err = fmt.Errorf("%s runs etcd %s, not %s", node, status.Version, minor)
	}
	return err
}

// changesMembers adds a fourth member, as a learner that becomes a voter once it has all the data, and removes it again. etcd
// refuses as long as its members have not been connected for some seconds.
func changesMembers(t *testing.T, c *harness.Cluster, binary string) {
	t.Helper()
	client := c.Client(c.NodeNames()[0])
	held := c.Now()
	ports, err := loopback.Ports(2)
	must(t, err)
	clientURL, peerURL := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	var added *clientv3.MemberAddResponse
	within(t, "no member can be added", func() (err error) {
		added, err = client.MemberAddAsLearner(t.Context(), []string{peerURL})
		return err
	})
	initial := []string{"fourth=" + peerURL}
	for _, m := range added.Members {
		if m.ID != added.Member.ID {
			initial = append(initial, m.Name+"="+m.PeerURLs[0])
		}
	}
	for _, node := range c.NodeNames() { // a member that joins ends at once if the one it asks does not know of it yet
		within(t, node+" does not know of the added member", func() error {
			known, err := c.Client(node).MemberList(t.Context())
			if err == nil && len(known.Members) != len(added.Members) {
				err = fmt.Errorf("it knows %d members, not %d", len(known.Members), len(added.Members))
			}
			return err
		})
	}
	fourth := exec.CommandContext(t.Context(), binary, "--name=fourth", "--data-dir="+filepath.Join(t.TempDir(), "fourth"),
		"--initial-cluster="+strings.Join(initial, ","), "--initial-cluster-state=existing",
		"--listen-client-urls="+clientURL, "--advertise-client-urls="+clientURL,
		"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL)
	var said bytes.Buffer
	fourth.Stderr = &said
	must(t, fourth.Start())
	ended := make(chan error, 1)
	go func() { ended <- fourth.Wait() }()
	within(t, "the fourth member does not become a voter", func() error {
		select {
		case err := <-ended:
			t.Fatalf("the fourth member has ended: %v\n%s", err, said.String())
		default:
		}
		_, err := client.MemberPromote(t.Context(), added.Member.ID) // refused until it is in sync
		return err
	})
	own, err := clientv3.New(clientv3.Config{Endpoints: []string{clientURL}})
	must(t, err)
	defer own.Close()
	var count *clientv3.GetResponse
	within(t, "the fourth member does not answer", func() (err error) { // it hears of its promotion a moment later
		count, err = own.Get(t.Context(), "/e2e/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err
	})
	if int(count.Count) != len(held) {
		t.Errorf("the fourth member holds %d keys, not %d", count.Count, len(held))
	}
	removed, err := client.MemberRemove(t.Context(), added.Member.ID)
	must(t, err)
	if len(removed.Members) != len(c.Nodes) {
		t.Errorf("after it was removed there are %d members, not %d", len(removed.Members), len(c.Nodes))
	}
	within(t, "a removed member does not end", func() error { // etcd ends by itself then
		select {
		case <-ended:
			return nil
		default:
			return errRuns
		}
	})
}
