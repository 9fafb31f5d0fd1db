package e2e

import (
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

const drilled = `
name: frequent
cluster: prod
every: 2s
prefix: drilled
drill: {after: 2}
localStorage:
  last: 3
`

// drillsAs waits for a drill, other than those before, that has ended so, and returns it.
func drillsAs(t *testing.T, c *harness.Cluster, result requorumv1.RunResult, before map[string]bool) *requorumv1.ScheduleDrill {
	t.Helper()
	var found *requorumv1.ScheduleDrill
	must(t, c.Until("no drill ends as "+result.String(), func() bool {
		for _, r := range runs(t, c) {
			if d := r.GetDrill(); d.GetResult() == result && !before[d.GetOperationId()] {
				found = d
			}
		}
		return found != nil
	}))
	return found
}

// drillsUntilNow are the operations of the drills that there have been.
func drillsUntilNow(t *testing.T, c *harness.Cluster) map[string]bool {
	t.Helper()
	known := make(map[string]bool)
	for _, op := range c.Operations() {
		known[op.GetId()] = op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_VERIFY
	}
	return known
}

// Drills follow the runs of a schedule and prove its newest snapshot beside the live cluster. One that fails is told until
// another succeeds, one whose controller dies is carried on, and none runs during a restore or any other operation.
func TestScheduledDrills(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	save(t, c, "kept")
	apply(t, c, drilled)
	first := drillsAs(t, c, requorumv1.RunResult_RUN_RESULT_SUCCEEDED, nil)
	for _, op := range c.Operations() {
		if op.GetId() == first.GetOperationId() && (op.GetSnapshot() != first.GetSnapshot() || op.GetRequestedBy() != "schedule frequent") {
			t.Errorf("the drill %v was operation %s", first, format(op))
		}
	}
	says(t, c.Do("schedule", "get", "frequent"), "after every 2 runs", "drill of drilled-prod-")
	says(t, c.Do("schedule", "history", "frequent"), "drill of drilled-prod-")
	verified := func() bool {
		return strings.Contains(c.Do("snapshot", "ls").Stdout, " on etcd-") // the snapshots of the schedule are few and go soon
	}
	must(t, c.Until("the catalog does not say that a snapshot was proved", verified))

	before := drillsUntilNow(t, c)
	c.Arm("agent/drill-copy/middle", "", "error once the disk is broken")
	bad := drillsAs(t, c, requorumv1.RunResult_RUN_RESULT_FAILED, before)
	if !strings.Contains(bad.GetReason(), "the disk is broken") {
		t.Errorf("the drill that fails says %q", bad.GetReason())
	}
	c.Disarm()
	must(t, c.Until("the cluster's status goes on telling of a drill that another has followed", func() bool {
		return !strings.Contains(c.Do("cluster", "status").Stdout, "its latest drill failed")
	}))

	before = drillsUntilNow(t, c)
	c.Arm("controller/verify/drill/after-intent", "", "kill once")
	c.WaitFired("controller/verify/drill/after-intent", "")
	<-c.Controller.Done()
	c.Disarm()
	c.StartAgain("controller")
	drillsAs(t, c, requorumv1.RunResult_RUN_RESULT_SUCCEEDED, before)

	c.Write(50)
	must(t, c.Until("the restore is refused for ever", func() bool {
		return c.CLI("restore", "--snapshot", "kept", "--yes").Code == 0 // another operation may be in its way
	}))
	before = drillsUntilNow(t, c)
	c.Do("schedule", "pause", "frequent")
	c.Settle()
	holds(t, c, saved)
	c.Do("schedule", "resume", "frequent")
	drillsAs(t, c, requorumv1.RunResult_RUN_RESULT_SUCCEEDED, before)
	c.Do("schedule", "pause", "frequent")
	c.Settle()
	oneAtATime(t, c)
	nothingLeft(t, c)
}

// oneAtATime makes sure that no operation began before the one before it had ended, and that each drill was done once.
func oneAtATime(t *testing.T, c *harness.Cluster) {
	t.Helper()
	all := c.Operations() // newest first
	for i, op := range all[:len(all)-1] {
		if older := all[i+1]; op.GetCreated().AsTime().Before(older.GetEnded().AsTime()) {
			t.Errorf("%s began while %s was under way", format(op), format(older))
		}
	}
	drills := make(map[string]bool)
	for _, r := range runs(t, c) {
		drills[r.GetDrill().GetOperationId()] = true
	}
	for _, op := range all {
		if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_VERIFY && !drills[op.GetId()] {
			t.Errorf("no run knows of the drill %s", format(op))
		}
	}
}
