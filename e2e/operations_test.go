package e2e

import (
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// One operation at a time changes a cluster; another is refused and told which one runs.
func TestSecondOperationIsRefused(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	save(t, c, "before")
	c.Write(100)
	c.Arm("agent/stage/before", "etcd-1", "hang")
	id := detached(t, c, "before")
	c.WaitFired("agent/stage/before", "etcd-1")
	for _, command := range [][]string{
		{"restore", "--snapshot", "before", "--yes"},
		{"snapshot", "save", "--name", "second"},
		{"snapshot", "check", "before"},
		{"snapshot", "rm", "before", "--yes", "--force"},
	} {
		says(t, c.Expect(3, command...), id)
	}
	c.Disarm()
	if op := c.Settle(); op.GetId() != id || op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the first operation, %s: %s", id, format(op))
	}
	holds(t, c, saved)
	if r := c.CLI("snapshot", "show", "second"); r.Code == 0 {
		t.Errorf("a refused save is in the catalog\n%s", r)
	}
	nothingLeft(t, c)
}

// A request that is repeated with its ID has its effect once, also after the operation has ended.
func TestSameRequestIDIsOneOperation(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Members: 1})
	c.Write(100)
	ids := map[string]bool{}
	for range 2 {
		var saved requorumv1.SaveSnapshotResponse
		if r := c.JSON(&saved, "snapshot", "save", "--name", "before", "--request-id", "save-1"); r.Code != 0 {
			t.Fatal(r)
		}
		ids[saved.GetOperation().GetId()] = true
	}
	now := c.Now()
	restoring := []string{"restore", "--snapshot", "before", "--yes", "--request-id", "restore-1"}
	for range 2 {
		var restored requorumv1.StartRestoreResponse
		if r := c.JSON(&restored, restoring...); r.Code != 0 {
			t.Fatal(r)
		}
		ids[restored.GetOperation().GetId()] = true
	}
	if ops := c.Operations(); len(ids) != 2 || len(ops) != 2 {
		t.Errorf("two requests, each sent twice, made %d operations: %v", len(ops), ids)
	}
	holds(t, c, now)
	r := c.CLI("snapshot", "save", "--name", "other", "--request-id", "restore-1")
	if r.Code != 2 && r.Code != 3 {
		t.Errorf("the request ID of a restore is taken for a save\n%s", r)
	}
}

// Before the pivot a cancelled restore puts everything back; after it, cancelling is refused and changes nothing.
func TestCancel(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	save(t, c, "before")
	c.Write(100)
	now := c.Now()
	first, _ := serving(t, c)

	for _, point := range []string{"agent/stage/before", "agent/swap/after", "agent/verify/before"} {
		c.Arm(point, "etcd-2", "hang")
		id := detached(t, c, "before")
		c.WaitFired(point, "etcd-2")
		c.Do("operation", "cancel", id)
		says(t, c.Expect(4, "operation", "watch", id), "cancelled on request")
		c.Disarm()
		untouched(t, c, first, now)
		says(t, c.Do("operation", "cancel", id), "ended already", "as it was")
	}

	c.Arm("agent/open/before", "etcd-2", "hang")
	id := detached(t, c, "before")
	c.WaitFired("agent/open/before", "etcd-2")
	c.Expect(3, "operation", "cancel", id)
	c.Disarm()
	if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("after the pivot: %s", format(op))
	}
	says(t, c.Expect(3, "operation", "cancel", id), "succeeded")
	holds(t, c, saved)
	nothingLeft(t, c)
}
