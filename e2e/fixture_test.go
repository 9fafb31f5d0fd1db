package e2e

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// save saves a snapshot that must become ready on all nodes.
func save(t *testing.T, c *harness.Cluster, name string, flags ...string) *requorumv1.Snapshot {
	t.Helper()
	c.Do(append([]string{"snapshot", "save", "--name", name}, flags...)...)
	return show(t, c, name)
}

func show(t *testing.T, c *harness.Cluster, name string) *requorumv1.Snapshot {
	t.Helper()
	var resp requorumv1.GetSnapshotResponse
	if r := c.JSON(&resp, "snapshot", "show", name); r.Code != 0 {
		t.Fatal(r)
	}
	return resp.GetSnapshot()
}

// restore restores a snapshot, which must succeed, and returns the operation.
func restore(t *testing.T, c *harness.Cluster, name string, flags ...string) *requorumv1.Operation {
	t.Helper()
	var resp requorumv1.StartRestoreResponse
	r := c.JSON(&resp, append([]string{"restore", "--snapshot", name, "--yes"}, flags...)...)
	op := resp.GetOperation()
	if r.Code != 0 || op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatal(r)
	}
	return op
}

// detached starts a restore without waiting for its end and returns its ID.
func detached(t *testing.T, c *harness.Cluster, name string, flags ...string) string {
	t.Helper()
	var resp requorumv1.StartRestoreResponse
	r := c.JSON(&resp, append([]string{"restore", "--snapshot", name, "--yes", "--detach"}, flags...)...)
	if r.Code != 0 || resp.GetOperation().GetId() == "" {
		t.Fatal(r)
	}
	return resp.GetOperation().GetId()
}

// startTheDead waits until an armed agent has died, disarms, and starts it again.
func startTheDead(t *testing.T, c *harness.Cluster) {
	t.Helper()
	died := ""
	must(t, c.Until("no agent died", func() bool {
		for _, n := range c.Nodes {
			if !n.Agent.Running() {
				died = n.Name
			}
		}
		return died != ""
	}))
	c.Disarm()
	c.StartAgain(died)
}

// serving returns the cluster's ID and revision, once all members serve as one.
func serving(t *testing.T, c *harness.Cluster, nodes ...string) (id uint64, revision int64) {
	t.Helper()
	id, revision, err := c.Serving(nodes...)
	if err != nil {
		t.Fatal(err)
	}
	return id, revision
}

// holds makes sure that the nodes' members, all if none is named, serve just that data.
func holds(t *testing.T, c *harness.Cluster, want harness.State, nodes ...string) {
	t.Helper()
	serving(t, c, nodes...)
	if diff := c.Now(nodes...).Diff(want); diff != "" {
		t.Error(diff)
	}
}

func nothingLeft(t *testing.T, c *harness.Cluster) {
	t.Helper()
	if left := c.LeftBehind(); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// untouched makes sure that the cluster is the one it was, with all its data.
func untouched(t *testing.T, c *harness.Cluster, id uint64, want harness.State) {
	t.Helper()
	holds(t, c, want)
	if now, _ := serving(t, c); now != id {
		t.Errorf("the cluster ID was %x and is %x", id, now)
	}
	nothingLeft(t, c)
}

// says makes sure that what a command told people has all these words in it.
func says(t *testing.T, r harness.Result, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(r.Stdout+r.Stderr, word) {
			t.Errorf("nothing says %q\n%s", word, r)
		}
	}
}

func format(op *requorumv1.Operation) string {
	return protojson.MarshalOptions{Multiline: true}.Format(op)
}
