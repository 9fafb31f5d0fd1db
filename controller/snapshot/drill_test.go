package snapshot

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
)

func (d *desk) verified(node string) *requorumv1.Operation {
	d.Helper()
	return d.ended(d.Verify(&requorumv1.VerifySnapshotRequest{Cluster: "prod", Name: "s", Node: node}, "alice"))
}

// drills makes nodes answer drills.
func (d *desk) drills(err error) {
	d.fleet.answer = func(_ string, t *agentv1.Task) (*agentv1.TaskResult, error) {
		if t.GetDrillCopy() == nil {
			return nil, nil
		}
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Drilled{Drilled: &agentv1.Drilled{
			Keys: 5, StagedIn: durationpb.New(2 * time.Second), ServedIn: durationpb.New(time.Second), ReadIn: durationpb.New(time.Second),
		}}}, err
	}
}

func TestVerifyNotesWhatItHasProved(t *testing.T) {
	for name, c := range map[string]struct {
		node, want string
	}{
		"a follower with a good copy by itself": {"", "c"}, // a leads, b has none
		"the node that is asked for":            {"a", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.ready("s", "a", "c")
				d.drills(nil)
				op := d.verified(c.node)
				d.expect(op, succeeded, "")
				v := d.entry("s").GetVerified()
				if v.GetNode() != c.want || v.GetOperationId() != op.GetId() || v.GetTook().AsDuration() != 4*time.Second || v.GetTime() == nil || d.entry("s").GetFailedVerification() != nil {
					t.Errorf("the catalog says %v", d.entry("s"))
				}
				for _, asked := range d.fleet.asked {
					if !strings.HasSuffix(asked, " "+c.want) {
						t.Errorf("asked %s", asked)
					}
				}
				if len(d.entry("s").GetCopies()) != 2 {
					t.Errorf("copies %v", d.entry("s").GetCopies())
				}
			})
		})
	}
}

func TestVerifyNotesThatTheDataCannotBeRestored(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b", "c")
		d.drills(&failure.Error{Node: "b", Message: "page 7 is broken", Cause: &dispatch.TaskError{Code: agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT}})
		op := d.verified("b")
		d.expect(op, reverted, "page 7 is broken")
		s := d.entry("s")
		if f := s.GetFailedVerification(); f.GetNode() != "b" || f.GetOperationId() != op.GetId() || !strings.Contains(f.GetError(), "page 7") || s.GetVerified() != nil {
			t.Errorf("the catalog says %v", s)
		}
	})
}

func TestVerifyOfACopyThatIsAnotherFile(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b", "c")
		d.drills(nil)
		d.fleet.found = map[string]requorumv1.CopyState{"b": requorumv1.CopyState_COPY_STATE_DIFFERENT}
		d.expect(d.verified("b"), reverted, "b")
		s := d.entry("s")
		if s.GetFailedVerification().GetNode() != "b" || d.fleet.count("DrillCopy") != 0 || len(GoodOn(s.GetCopies())) != 2 {
			t.Errorf("the catalog says %v; %v", s, d.fleet.asked)
		}
	})
}

// What fails for other reasons than the data says nothing about it.
func TestVerifyThatFailsOtherwiseLeavesTheCatalogAsItIs(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b", "c")
		d.drills(&failure.Error{Node: "b", Message: "full", Cause: &dispatch.TaskError{Code: agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE}})
		d.expect(d.verified("b"), reverted, "full")
		if s := d.entry("s"); s.GetFailedVerification() != nil || s.GetVerified() != nil {
			t.Errorf("the catalog says %v", s)
		}
	})
}

func TestVerifyIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		wrong func(*desk)
		want  string
	}{
		"the agent is away": {func(d *desk) { d.fleet.offline["b"] = true }, "b|its agent is not connected"},
		"space is too short": {func(d *desk) {
			d.fleet.facts["b"].ScratchNeededBytes, d.fleet.facts["b"].ScratchFreeBytes = 2<<30, 1<<30
		}, "b|1.0 GiB are free where drills restore to (scratch_dir), 2.0 GiB are needed"},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.ready("s", "a", "b", "c")
				d.drills(nil)
				c.wrong(d)
				d.expect(d.verified("b"), refused, c.want)
				if d.fleet.count("DrillCopy") != 0 {
					t.Error("it was drilled all the same")
				}
			})
		})
	}
}

func TestVerifyRefusesWhatCannotBeMeant(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b", "c")
		for want, req := range map[string]*requorumv1.VerifySnapshotRequest{
			`has no node "z"`:   {Cluster: "prod", Name: "s", Node: "z"},
			`has no snapshot`:   {Cluster: "prod", Name: "t"},
			`is no cluster "x"`: {Cluster: "x", Name: "s"},
		} {
			if _, err := d.Verify(req, "alice"); err == nil || !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "has no snapshot") {
				t.Errorf("%v: %v", req, err)
			}
		}
	})
}

func TestKindsOfSnapshotsThatCanBeAskedFor(t *testing.T) {
	atDesk(t, func(d *desk) {
		op := d.ended(d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE}, "alice"))
		d.expect(op, succeeded, "")
		s := d.entry(op.GetSnapshot())
		if s.GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE || s.GetManifest().GetKind() != s.GetKind() || !strings.HasPrefix(s.GetName(), "pre-upgrade-prod-") {
			t.Errorf("saved %v", s)
		}
		for _, kind := range []requorumv1.SnapshotKind{requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY, requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED, 99} {
			if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Kind: kind}, "alice"); err == nil {
				t.Errorf("a snapshot of kind %s can be asked for", kind)
			}
		}
	})
}
