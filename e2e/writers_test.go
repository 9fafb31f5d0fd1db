package e2e

import (
	"context"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

const (
	writers  = 6
	someAcks = 50
)

// No write that etcd has acknowledged is lost by a restore, whenever it was sent: one of before the restore is in the
// safety snapshot, one of after it in the restored cluster, and one of before a revert in the reverted cluster. That
// members are killed as they are about to be stopped changes nothing.
func TestWritersLoseNothing(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(100)
	save(t, c, "before")
	for name, killed := range map[string]func() []string{
		"none": func() []string { return nil }, "the leader": func() []string { return []string{leader(t, c)} }, "all": c.NodeNames,
	} {
		t.Run(name+" killed, finished", func(t *testing.T) { finishedUnderWrites(t, c, killed()) })
		t.Run(name+" killed, reverted", func(t *testing.T) { revertedUnderWrites(t, c, killed()) })
	}
	nothingLeft(t, c)
}

func finishedUnderWrites(t *testing.T, c *harness.Cluster, killed []string) {
	old, _ := serving(t, c)
	w := c.StartWriters("/"+filepath.Base(t.Name()), writers)
	c.WaitAcked(t, w, someAcks)
	op := restoreKilling(t, c, killed)
	if op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("the restore: %s", format(op))
	}
	c.WaitAcked(t, w, someAcks)
	acked := w.Stop()
	kept, now := keysIn(t, safetyFile(t, c, op)), c.Now()
	ofOld := 0
	var lost []harness.Ack
	for _, a := range acked {
		found := kept[a.Key] == a.Revision
		if a.ClusterID == old {
			ofOld++
		} else {
			found = now[a.Key].Mod == a.Revision
		}
		if !found {
			lost = append(lost, a)
		}
	}
	report(t, lost, ofOld, len(acked)-ofOld)
}

// revertedUnderWrites lets verify fail: by then the members of the restored cluster have been serving for a while.
func revertedUnderWrites(t *testing.T, c *harness.Cluster, killed []string) {
	old, _ := serving(t, c)
	w := c.StartWriters("/"+filepath.Base(t.Name()), writers)
	c.WaitAcked(t, w, someAcks)
	c.Arm("agent/verify/after", "etcd-2", "error once out of order")
	op := restoreKilling(t, c, killed)
	if op.GetState() != requorumv1.OperationState_OPERATION_STATE_REVERTED {
		t.Fatalf("the restore: %s", format(op))
	}
	c.WaitAcked(t, w, someAcks)
	acked := w.Stop()
	now := c.Now()
	ofOld := 0
	var lost []harness.Ack
	for _, a := range acked {
		if a.ClusterID == old {
			ofOld++
		}
		if now[a.Key].Mod != a.Revision {
			lost = append(lost, a)
		}
	}
	if ofOld < len(acked) {
		t.Errorf("the restored cluster acknowledged %d writes before there was no way back", len(acked)-ofOld)
	}
	report(t, lost, ofOld, someAcks)
}

// report tells of what was lost, and fails a test in which nothing could have been.
func report(t *testing.T, lost []harness.Ack, ofOld, ofNew int) {
	t.Helper()
	if ofOld < someAcks || ofNew < someAcks {
		t.Errorf("only %d and %d writes were acknowledged before and after", ofOld, ofNew)
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost, as %+v and %+v", len(lost), ofOld+ofNew, lost[0], lost[len(lost)-1])
	}
}

// restoreKilling restores and kills members as the first of them is about to be stopped.
func restoreKilling(t *testing.T, c *harness.Cluster, killed []string) *requorumv1.Operation {
	t.Helper()
	const stopping = "agent/stop/before"
	for _, node := range killed {
		c.Arm(stopping, node, "hang once")
	}
	detached(t, c, "before")
	for _, node := range killed {
		c.WaitFired(stopping, node)
		c.KillEtcd(node)
	}
	for _, node := range killed {
		must(t, c.Faults.Forget(stopping, node))
	}
	return c.Settle()
}

// leader is the node whose member leads.
func leader(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	serving(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	for _, node := range c.NodeNames() {
		st, err := c.Client(node).Status(ctx, c.Endpoint(node))
		must(t, err)
		if st.Leader == st.Header.MemberId {
			return node
		}
	}
	t.Fatal("nobody leads")
	return ""
}

// safetyFile is the file of a restore's safety snapshot, on the node that holds it.
func safetyFile(t *testing.T, c *harness.Cluster, op *requorumv1.Operation) string {
	t.Helper()
	copies := show(t, c, op.GetSafetySnapshot()).GetCopies()
	if len(copies) == 0 {
		t.Fatalf("there is no safety snapshot: %s", format(op))
	}
	return c.Copy(copies[0].GetNode(), op.GetSafetySnapshot())
}

// keysIn reads the keys of a snapshot's file, each with the revision of its last change.
func keysIn(t *testing.T, path string) map[string]int64 {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	must(t, err)
	defer db.Close()
	keys := make(map[string]int64)
	must(t, db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("key")).ForEach(func(_, value []byte) error {
			kv := new(mvccpb.KeyValue)
			if err := proto.Unmarshal(value, kv); err != nil {
				return err
			}
			keys[string(kv.Key)] = kv.ModRevision // 0 of one that was deleted
			return nil
		})
	}))
	return keys
}
