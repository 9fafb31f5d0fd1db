package e2e

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

const bump = 1_000_000_000 // what a restore adds to the revision

// Later writes and deletes are gone, all that the snapshot holds is back on every member, and clients notice. The safety
// snapshot brings the later writes back.
func TestRestoreHealthyCluster(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(500)
	c.Delete(20)
	saved := c.Now()
	before, savedAt := serving(t, c)
	snapshot := save(t, c, "before")
	if snapshot.GetManifest().GetRevision() < savedAt {
		t.Errorf("the snapshot is of revision %d, the last write was %d", snapshot.GetManifest().GetRevision(), savedAt)
	}
	c.Write(300)
	c.Delete(100)
	later := c.Now()

	op := restore(t, c, "before")
	if diff := c.Now().Diff(saved); diff != "" {
		t.Errorf("after the restore: %s", diff)
	}
	after, revision := serving(t, c)
	if after == before {
		t.Errorf("the cluster ID is still %x: old members could join", before)
	}
	bumped := snapshot.GetManifest().GetRevision() + bump
	if revision < bumped || revision > bumped+10 {
		t.Errorf("the revision is %d, want %d", revision, bumped)
	}
	watchFails(t, c, savedAt)
	quarantineKept(t, c, op)
	nothingLeft(t, c)

	restore(t, c, op.GetSafetySnapshot())
	if _, again := serving(t, c); again <= revision {
		t.Errorf("the second restore took the revision from %d to %d: clients would not notice", revision, again)
	}
	if diff := c.Now().Diff(later); diff != "" {
		t.Errorf("after restoring the safety snapshot: %s", diff)
	}
	nothingLeft(t, c)
}

// watchFails makes sure that a client that watched before the restore is told to list again.
func watchFails(t *testing.T, c *harness.Cluster, revision int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for resp := range c.Client("etcd-1").Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(revision)) {
		if err := resp.Err(); err != nil {
			if !errors.Is(err, rpctypes.ErrCompacted) || resp.CompactRevision < revision {
				t.Errorf("a watch from revision %d fails with %v at compact revision %d, want compacted", revision, err, resp.CompactRevision)
			}
			return
		}
	}
	t.Errorf("a watch from revision %d goes on as if nothing had happened", revision)
}

func quarantineKept(t *testing.T, c *harness.Cluster, op *requorumv1.Operation) {
	t.Helper()
	if len(op.GetQuarantines()) != len(c.Nodes) {
		t.Errorf("old data is kept on %d nodes, want %d", len(op.GetQuarantines()), len(c.Nodes))
	}
	for _, q := range op.GetQuarantines() {
		for _, path := range q.GetPaths() {
			if _, err := os.Stat(path + "/member/snap/db"); err != nil {
				t.Errorf("the old data of %s: %v", q.GetNode(), err)
			}
			if !strings.HasPrefix(path, c.Node(q.GetNode()).DataDir) {
				t.Errorf("the old data of %s is at %s, not beside its data directory", q.GetNode(), path)
			}
		}
		if left := time.Until(q.GetExpires().AsTime()); left < 71*time.Hour || left > 72*time.Hour {
			t.Errorf("the old data of %s is kept for %s, want 72 h", q.GetNode(), left)
		}
	}
}
