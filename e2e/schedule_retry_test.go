package e2e

import (
	"slices"
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

const retried = `
name: frequent
cluster: prod
every: 1h
prefix: retried
retry: {limit: 2, after: 1s}
`

// A run that fails is tried again by a controller that was killed meanwhile, and each try is told with its reason.
func TestScheduleTriesAgain(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(50)
	c.Arm("agent/save-copy/middle", "", "error once the disk is broken")
	c.Arm("controller/save/agree/after-intent", "", "kill once") // which the first try does not come to
	apply(t, c, retried)
	c.WaitFired("controller/save/agree/after-intent", "")
	<-c.Controller.Done()
	c.Disarm()
	c.StartAgain("controller")
	must(t, c.Until("no try succeeds", func() bool {
		return slices.ContainsFunc(runs(t, c), func(r *requorumv1.ScheduleRun) bool {
			return r.GetResult() == requorumv1.RunResult_RUN_RESULT_SUCCEEDED
		})
	}))
	all := runs(t, c) // newest first
	if len(all) != 2 || !all[0].GetDue().AsTime().Equal(all[1].GetDue().AsTime()) || all[0].GetRetry() != 1 || all[0].GetAgain() != nil {
		t.Fatalf("the runs are %v", all)
	}
	if first := all[1]; first.GetResult() != requorumv1.RunResult_RUN_RESULT_FAILED || !strings.Contains(first.GetReason(), "the disk is broken") || first.GetAgain() == nil {
		t.Errorf("the first try is %v", first)
	}
	if saves := scheduledSaves(c); len(saves) != 2 {
		t.Errorf("two tries made the operations %v", saves)
	}
	if names := catalogNames(t, c); !slices.Equal(names, []string{all[0].GetSnapshot()}) {
		t.Errorf("the catalog holds %v", names)
	}
	says(t, c.Do("schedule", "history", "frequent"), "the disk is broken", "tried again at", "retry 1")
	says(t, c.Do("schedule", "get", "frequent", "-o", "yaml"), "limit: 2", "after: 1s", "retry: 1", "again: ")
}
