package e2e

import (
	"fmt"
	"os"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// A copy that is missing, one that cannot be read and one that is different are three answers. Each is repaired from a
// good copy, on request or by a restore; without any good copy nothing is stopped.
func TestBadCopies(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Members: 4}) // one of each, and a good one
	c.Write(300)
	saved := c.Now()
	save(t, c, "before")
	good, err := os.ReadFile(c.Copy("etcd-4", "before"))
	if err != nil {
		t.Fatal(err)
	}

	spoil(t, c)
	r := c.Expect(3, "snapshot", "check", "before")
	says(t, r, "etcd-1", "missing", "etcd-2", "unreadable", "etcd-3", "different")
	copiesAre(t, c, map[string]requorumv1.CopyState{
		"etcd-1": requorumv1.CopyState_COPY_STATE_MISSING, "etcd-2": requorumv1.CopyState_COPY_STATE_UNREADABLE,
		"etcd-3": requorumv1.CopyState_COPY_STATE_DIFFERENT, "etcd-4": requorumv1.CopyState_COPY_STATE_GOOD,
	})

	c.Do("snapshot", "distribute", "before")
	c.Do("snapshot", "check", "before")
	sameFile(t, c, good)

	spoil(t, c)
	c.Write(100)
	restore(t, c, "before")
	holds(t, c, saved)
	sameFile(t, c, good)
	nothingLeft(t, c)

	spoil(t, c)
	if err := os.Truncate(c.Copy("etcd-4", "before"), 100); err != nil {
		t.Fatal(err)
	}
	id, _ := serving(t, c)
	r = c.Expect(3, "restore", "--snapshot", "before", "--yes")
	says(t, r, "no node holds a good copy", "etcd-1", "etcd-2", "etcd-3", "etcd-4")
	if now, _ := serving(t, c); now != id {
		t.Error("a restore without a good copy changed the cluster")
	}
	holds(t, c, saved)
}

// spoil makes the copy of etcd-1 missing, that of etcd-2 unreadable and that of etcd-3 different. Root reads any file, so
// what cannot be read is a directory in its place.
func spoil(t *testing.T, c *harness.Cluster) {
	t.Helper()
	steps := []error{
		os.Remove(c.Copy("etcd-1", "before")),
		os.Remove(c.Copy("etcd-2", "before")),
		os.Mkdir(c.Copy("etcd-2", "before"), 0o700),
		flip(c.Copy("etcd-3", "before"), 20_000),
	}
	for _, err := range steps {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// flip changes one bit of a file, counted from the end if offset is negative.
func flip(path string, offset int64) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if offset < 0 {
		offset += int64(len(data))
	}
	if offset < 0 || offset >= int64(len(data)) {
		return fmt.Errorf("%s has %d bytes", path, len(data))
	}
	data[offset] ^= 0x10
	return os.WriteFile(path, data, 0o600)
}

func copiesAre(t *testing.T, c *harness.Cluster, want map[string]requorumv1.CopyState) {
	t.Helper()
	copies := show(t, c, "before").GetCopies()
	if len(copies) != len(want) {
		t.Errorf("%d copies are listed, want %d", len(copies), len(want))
	}
	for _, copy := range copies {
		if copy.GetState() != want[copy.GetNode()] {
			t.Errorf("the copy of %s is listed as %s, want %s", copy.GetNode(), copy.GetState(), want[copy.GetNode()])
		}
	}
}

func sameFile(t *testing.T, c *harness.Cluster, want []byte) {
	t.Helper()
	for _, node := range c.NodeNames() {
		got, err := os.ReadFile(c.Copy(node, "before"))
		if err != nil || string(got) != string(want) {
			t.Errorf("the copy of %s is not the file that was saved: %v", node, err)
		}
	}
}
