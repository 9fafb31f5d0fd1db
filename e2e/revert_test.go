package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/task"
	"github.com/requorum/requorum/controller/operation"
	restoring "github.com/requorum/requorum/controller/restore"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/fault"
)

// plan is the restore's own: a step that is added to it is tested without anybody thinking of it.
func plan() operation.Plan { return new(restoring.Jobs).Builder(nil).Plan }

// Whatever fails before the pivot, in the controller or on a node, the restore ends by itself with the cluster as it was.
func TestRestoreRevertsWhereverItFails(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(300)
	saved := c.Now()
	save(t, c, "before")
	points := pointsBeforePivot(t, c)
	holds(t, c, saved)
	c.Write(100)
	c.Delete(20)
	for _, p := range points {
		t.Run(p.String(), func(t *testing.T) { failsAt(t, c, p) })
	}
}

// place is a fault point on a node, on the controller, or, without a node, on whichever comes there first.
type place struct{ point, node string }

func (p place) String() string {
	return strings.TrimSuffix(strings.ReplaceAll(p.point, "/", "-")+"@"+p.node, "@")
}

func (p place) inController() bool { return p.node == "controller" }

// failsAt restores with one failure and looks at everything afterwards.
func failsAt(t *testing.T, c *harness.Cluster, p place) {
	id, _ := serving(t, c)
	now := c.Now()
	if err := os.Remove(c.Copy("etcd-3", "before")); err != nil { // there is something to distribute
		t.Fatal(err)
	}
	c.Arm(p.point, p.node, "error once out of order")
	r := c.CLI("restore", "--snapshot", "before", "--yes")
	op := c.Settle()
	if !c.Fired(p.point, p.node) {
		t.Fatalf("nothing failed\n%s", r)
	}
	switch {
	case r.Code == 4 && op.GetState() == requorumv1.OperationState_OPERATION_STATE_REVERTED:
	case r.Code == 3 && op.GetState() == requorumv1.OperationState_OPERATION_STATE_REFUSED && op.GetFailure().GetStep() == "preflight":
	case r.Code == 3 && strings.Contains(r.Stderr, "out of order") && !p.inController(): // refused while it was only planned
	default:
		t.Errorf("the operation ended with %s at %s\n%s", op.GetState(), op.GetFailure(), r)
	}
	if step := strings.Split(p.point, "/")[2]; p.inController() && op.GetFailure().GetStep() != step {
		t.Errorf("step %s is said to have failed, it was %s", op.GetFailure().GetStep(), step)
	}
	if !p.inController() && p.node != "" {
		says(t, r, p.node)
	}
	if len(op.GetQuarantines()) > 0 {
		t.Errorf("people are told of what is not there any more: %s", format(op))
	}
	safetyStaysFromStopOn(t, c, op)
	untouched(t, c, id, now)
	c.Do("snapshot", "distribute", "before")
}

// safetyStaysFromStopOn makes sure that the safety snapshot is there once anything was stopped, and only then.
func safetyStaysFromStopOn(t *testing.T, c *harness.Cluster, op *requorumv1.Operation) {
	t.Helper()
	stopped := slices.ContainsFunc(op.GetSteps(), func(s *requorumv1.Step) bool { return s.GetName() == "stop" && s.GetAttempt() > 0 })
	name := op.GetSafetySnapshot()
	// A controller that fails as the step begins has stopped nothing yet.
	if name != "" && !stopped || name == "" && stopped && op.GetFailure().GetStep() != "stop" {
		t.Errorf("the safety snapshot is %q: %s", name, format(op))
	}
	if name != "" && show(t, c, name).GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY {
		t.Errorf("the safety snapshot is not there: %s", format(op))
	}
}

// pointsBeforePivot makes every point tell that it was passed, restores once and returns those that were passed before the
// pivot. Of a point on several nodes it takes one, another for each point. A neighbour that does not serve its copy fails
// nothing: it is waited for, then another is asked. A node that does not list its copies has them read instead.
func pointsBeforePivot(t *testing.T, c *harness.Cluster) []place {
	t.Helper()
	var all []string
	pivot := ""
	for _, step := range plan() {
		all = append(all, "controller/restore/"+step.Name+"/after-intent", "controller/restore/"+step.Name+"/before-outcome")
		if step.Pivot {
			pivot = all[len(all)-2]
		}
	}
	all = append(all, slices.DeleteFunc(slices.Clone(task.Points()), func(point string) bool {
		return strings.HasPrefix(point, "agent/serve-copy/") || strings.HasPrefix(point, "agent/list-copies/")
	})...)
	for _, point := range all {
		c.Arm(point, "", "delay 0s")
	}
	if err := os.Remove(c.Copy("etcd-3", "before")); err != nil {
		t.Fatal(err)
	}
	detachedID := detached(t, c, "before") // planning passes points, too: what counts is what comes after
	op := c.Settle()
	if op.GetId() != detachedID || op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("a restore without failures: %s", format(op))
	}
	passed := map[string][]fault.Firing{}
	for _, point := range all {
		firings, err := fault.ReadFirings(filepath.Join(string(c.Faults), fault.FileName(point, "")+fault.FiredSuffix))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		passed[point] = firings
	}
	c.Disarm()
	if len(passed[pivot]) == 0 {
		t.Fatalf("the pivot %q was not passed", pivot)
	}
	return before(t, all, passed, op.GetCreated().AsTime(), passed[pivot][0].Time)
}

func before(t *testing.T, all []string, passed map[string][]fault.Firing, created, pivot time.Time) []place {
	t.Helper()
	var places []place
	for i, point := range all {
		var nodes []string
		for _, f := range passed[point] {
			if f.Time.After(created) && f.Time.Before(pivot) && !slices.Contains(nodes, f.Node) {
				nodes = append(nodes, f.Node)
			}
		}
		slices.Sort(nodes)
		switch {
		case len(nodes) == 1 && nodes[0] != "controller":
			places = append(places, place{point: point}) // another node the next time, maybe
		case len(nodes) > 0:
			places = append(places, place{point, nodes[i%len(nodes)]})
		}
	}
	for _, step := range plan() {
		if step.Pivot {
			break
		}
		if !slices.Contains(places, place{"controller/restore/" + step.Name + "/after-intent", "controller"}) {
			t.Errorf("step %s was not passed", step.Name)
		}
	}
	if len(places) < 30 {
		t.Errorf("only %d points were passed: %v", len(places), places)
	}
	return places
}

// Reverting never gives up: each undo may fail, in the controller and on the nodes, and is tried again.
func TestRevertingIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	save(t, c, "before")
	c.Write(100)
	now := c.Now()
	id, _ := serving(t, c)
	var undos []string
	for _, step := range plan() {
		if step.Undo != nil {
			undos = append(undos, "controller/restore/"+step.Name+"/undo-after-intent", "controller/restore/"+step.Name+"/undo-before-outcome")
		}
	}
	for _, kind := range []string{"unstage", "swap-back", "drop-copy"} {
		undos = append(undos, "agent/"+kind+"/before", "agent/"+kind+"/after")
	}
	for _, point := range undos {
		c.Arm(point, "", "error once out of order")
	}
	c.Arm("agent/verify/before", "etcd-2", "error once out of order")
	r := c.Expect(4, "restore", "--snapshot", "before", "--yes")
	says(t, r, "etcd-2", "out of order")
	for _, point := range undos {
		if !c.Fired(point, "") {
			t.Errorf("%s was not passed", point)
		}
	}
	untouched(t, c, id, now)
}

// A save that fails anywhere leaves no copy, and the snapshot counts for nothing.
func TestSaveLeavesNothingWhereverItFails(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	now := c.Now()
	id, _ := serving(t, c)
	points := []place{{"agent/save-copy/before", ""}, {"agent/save-copy/after", ""}, {"agent/inspect-copy/after", ""}, {"agent/fetch-copy/before", ""}, {"agent/fetch-copy/after", ""}, {"agent/hash-copy/before", "etcd-2"}, {"agent/write-manifest/before", ""}}
	for _, step := range []string{"check", "save", "files", "inspect", "distribute", "agree", "record"} {
		points = append(points, place{"controller/save/" + step + "/after-intent", "controller"}, place{"controller/save/" + step + "/before-outcome", "controller"})
	}
	for i, p := range points {
		name := fmt.Sprintf("try-%d", i)
		c.Arm(p.point, p.node, "error once out of order")
		r := c.CLI("snapshot", "save", "--name", name)
		if !c.Fired(p.point, p.node) {
			t.Errorf("%s was not passed\n%s", p, r)
		}
		want := 4
		if strings.HasPrefix(p.point, "controller/save/check/") {
			want = 3
		}
		if r.Code != want {
			t.Errorf("%s: want exit code %d\n%s", p, want, r)
		}
		shown := c.CLI("snapshot", "show", name)
		if refused := want == 3; refused != (shown.Code == 3) || !refused && !strings.Contains(shown.Stdout, "failed") {
			t.Errorf("%s: a refused snapshot is not to be found, another one has failed\n%s", p, shown)
		}
	}
	untouched(t, c, id, now)
	if r := c.CLI("restore", "--snapshot", "latest", "--plan"); r.Code == 0 {
		t.Errorf("a failed snapshot counts as the latest\n%s", r)
	}
}
