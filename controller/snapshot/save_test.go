package snapshot

import (
	"errors"
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
)

func TestSaveMakesEveryNodeHoldTheSameFile(t *testing.T) {
	atDesk(t, func(d *desk) {
		op := d.saved(&requorumv1.SaveSnapshotRequest{Labels: map[string]string{"why": "upgrade"}})
		d.expect(op, succeeded, "")
		s := d.entry("s")
		m := s.GetManifest()
		if !catalog.Good(s) || len(GoodOn(s.GetCopies())) != 3 || d.fleet.holding("s") != "a b c" {
			t.Errorf("entry %v, held by %s", s, d.fleet.holding("s"))
		}
		if m.GetNode() != "b" || m.GetMd5() != "md5" || m.GetRevision() != 98 || m.GetEtcdVersion() != "3.6.5" || m.GetLabels()["why"] != "upgrade" || m.GetFormatVersion() != 1 {
			t.Errorf("manifest %v", m)
		}
		if saves := d.fleet.count("SaveCopy"); saves != 1 {
			t.Errorf("%d nodes were asked to save, want 1", saves)
		}
		if rec, err := d.Catalog.Cluster("prod"); err != nil || rec.GetVoters() != 3 {
			t.Errorf("voters %d, %v", rec.GetVoters(), err)
		}
	})
}

func TestSaveIsRefusedWhenTheClusterIsNotFitForIt(t *testing.T) {
	for name, c := range map[string]struct {
		wrong func(*fleet)
		want  string
	}{
		"an agent is away":            {func(f *fleet) { f.offline["c"] = true }, "c|its agent is not connected (last heard of 1m0s ago)|start the agent"},
		"a member does not answer":    {func(f *fleet) { f.member("c").Serving, f.member("c").Error = false, "no route" }, "c|its member does not answer: no route|repair it"},
		"no member answers":           {func(f *fleet) { f.member("a").Serving = false }, "a|its member does not answer"},
		"there is no leader":          {func(f *fleet) { f.member("a").Leader = "" }, "a|its member sees no leader: the cluster has lost its quorum"},
		"there are two leaders":       {func(f *fleet) { f.member("b").Leader = "id-c" }, "b|its member sees the leader id-c, others see id-a"},
		"there are two etcd clusters": {func(f *fleet) { f.member("c").ClusterId = "beef" }, "c|its member belongs to the etcd cluster beef, others to cafe"},
		"the quota is used up": {
			func(f *fleet) { f.member("b").Alarms = []*requorumv1.Alarm{{MemberId: "id-b", Type: "NOSPACE"}} },
			"b|member id-b has raised the alarm NOSPACE|compact, defragment",
		},
		"a member is corrupt": {
			func(f *fleet) { f.member("b").Alarms = []*requorumv1.Alarm{{MemberId: "id-c", Type: "CORRUPT"}} },
			"b|member id-c has raised the alarm CORRUPT|replace the corrupt member",
		},
		"followers differ":          {func(f *fleet) { f.hashes["c"].Hash = 43 }, "c|its data differs from that of b: HashKV at revision 98 is 43, there 42"},
		"a node has no space":       {func(f *fleet) { f.facts["c"].VaultFreeBytes = 5 }, "c|5 B are free where snapshots are kept (snapshots_dir), 65 MiB are needed"},
		"a node keeps another file": {func(f *fleet) { f.vaults["c"]["s"] = &requorumv1.Manifest{Name: "s"} }, "c|it keeps a snapshot s already, which the catalog does not know|choose another name"},
		"a node fails": {func(f *fleet) {
			f.answer = func(node string, _ *agentv1.Task) (*agentv1.TaskResult, error) {
				if node == "c" {
					return nil, errors.New("cannot read its configuration")
				}
				return nil, nil
			}
		}, "cannot read its configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				c.wrong(d.fleet)
				before := d.fleet.holding("s")
				d.expect(d.saved(&requorumv1.SaveSnapshotRequest{}), refused, c.want)
				if s, err := d.Catalog.Snapshot("prod", "s"); !errors.As(err, new(*catalog.NotFoundError)) {
					t.Errorf("entry %v, %v", s, err)
				}
				if d.fleet.count("SaveCopy")+d.fleet.count("DropCopy") > 0 || d.fleet.holding("s") != before {
					t.Errorf("something was changed: %v", d.fleet.asked)
				}
			})
		})
	}
}

func TestSaveOfADegradedCluster(t *testing.T) {
	degraded := func() *requorumv1.SaveSnapshotRequest {
		return &requorumv1.SaveSnapshotRequest{AllowDegraded: true}
	}
	for name, c := range map[string]struct {
		wrong func(*fleet)
		state requorumv1.OperationState
		held  string
		want  string
	}{
		"an agent is away":         {func(f *fleet) { f.offline["c"] = true }, succeeded, "a b", ""},
		"a member does not answer": {func(f *fleet) { f.member("b").Serving = false }, succeeded, "a b c", ""},
		"only the leader answers":  {func(f *fleet) { f.member("b").Serving, f.member("c").Serving = false, false }, succeeded, "a b c", ""},
		"all agents are away":      {func(f *fleet) { f.offline = map[string]bool{"a": true, "b": true, "c": true} }, refused, "", "no member answers"},
		"an alarm is one all the same": {
			func(f *fleet) { f.member("b").Alarms = []*requorumv1.Alarm{{Type: "CORRUPT"}} }, refused, "", "alarm CORRUPT",
		},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				c.wrong(d.fleet)
				d.expect(d.saved(degraded()), c.state, c.want)
				if got := d.fleet.holding("s"); got != c.held {
					t.Errorf("held by %q, want %q", got, c.held)
				}
			})
		})
	}
}

// A compaction that falls between two answers makes them incomparable; the question is asked again.
func TestCompactionBetweenAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		times    int
		warnings int
		refused  bool // by the member, whose revision was compacted away
	}{"once": {1, 0, false}, "always": {100, 1, false}, "refused once": {1, 0, true}, "always refused": {100, 1, true}} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
					if task.GetHashKv() == nil || node != "c" || c.times == 0 {
						return nil, nil
					}
					c.times--
					if c.refused {
						return nil, &failure.Error{Node: node, Message: "compacted", Cause: &dispatch.TaskError{Code: agentv1.TaskErrorCode_TASK_ERROR_CODE_COMPACTED}}
					}
					h := &agentv1.HashKVResult{Hash: 1, Revision: 98, CompactRevision: 50}
					return &agentv1.TaskResult{Result: &agentv1.TaskResult_HashKv{HashKv: h}}, nil
				}
				op := d.saved(&requorumv1.SaveSnapshotRequest{})
				d.expect(op, succeeded, "")
				if len(op.GetWarnings()) != c.warnings {
					t.Errorf("warnings %q", op.GetWarnings())
				}
			})
		})
	}
}

func TestHashIsComputedOnTheLeaderOnlyOnRequest(t *testing.T) {
	for _, leader := range []bool{false, true} {
		atDesk(t, func(d *desk) {
			d.member("c").Learner = true
			op := d.saved(&requorumv1.SaveSnapshotRequest{HashLeader: leader})
			want, warnings := 0, 1 // one follower alone has nobody to be compared with, which is told
			if leader {
				want, warnings = 2, 0
			}
			if len(op.GetWarnings()) != warnings {
				t.Errorf("leader %v: warnings %q", leader, op.GetWarnings())
			}
			if got := d.fleet.count("HashKv"); got != want {
				t.Errorf("leader %v: %d nodes were asked for HashKV, want %d", leader, got, want)
			}
		})
	}
}

func (d *desk) member(node string) *requorumv1.Member { return d.fleet.member(node) }

func TestCopiesThatDoNotAgreeRevertTheSave(t *testing.T) {
	for state, word := range map[requorumv1.CopyState]string{
		requorumv1.CopyState_COPY_STATE_MISSING:    "c missing",
		requorumv1.CopyState_COPY_STATE_UNREADABLE: "c unreadable",
		requorumv1.CopyState_COPY_STATE_DIFFERENT:  "c different",
	} {
		t.Run(word, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.fleet.found["c"] = state
				op := d.saved(&requorumv1.SaveSnapshotRequest{})
				d.expect(op, reverted, "the copies of s do not agree: "+word)
				if got := d.fleet.holding("s"); got != "" {
					t.Errorf("left on %s", got)
				}
				if s := d.entry("s"); s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED {
					t.Errorf("entry %v", s)
				}
				delete(d.fleet.found, "c")
				d.expect(d.saved(&requorumv1.SaveSnapshotRequest{}), succeeded, "") // the name is free again
			})
		})
	}
}

func TestImport(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.expect(d.ended(d.Import(t.Context(), &requorumv1.ImportSnapshotRequest{Cluster: "prod", Node: "c", Path: "/backup/old.db", Name: "s"}, "alice")), succeeded, "")
		if s := d.entry("s"); s.GetManifest().GetNode() != "c" || s.GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED || d.fleet.holding("s") != "a b c" {
			t.Errorf("entry %v", s)
		}
		for why, req := range map[string]*requorumv1.ImportSnapshotRequest{
			"clean absolute path": {Cluster: "prod", Node: "c", Path: "../etc/passwd"},
			"not a clean":         {Cluster: "prod", Node: "c", Path: "/a/../b"},
			"has no node":         {Cluster: "prod", Node: "x", Path: "/a"},
			"there is no cluster": {Cluster: "nope", Node: "c", Path: "/a"},
		} {
			if _, err := d.Import(t.Context(), req, "alice"); err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%v: %v, want %q", req, err, why)
			}
		}
	})
}

func TestNamesThatCannotBeMeant(t *testing.T) {
	atDesk(t, func(d *desk) {
		for _, name := range []string{"latest", "a/b", "..", strings.Repeat("x", 200)} {
			if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Name: name}, "alice"); err == nil {
				t.Errorf("%q was accepted", name)
			}
		}
		if _, err := d.remove("latest", "", false); err == nil {
			t.Error("latest was removed")
		}
		d.ready("s")
		if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Name: "s"}, "alice"); !errors.As(err, new(*catalog.ExistsError)) {
			t.Errorf("a name that is taken: %v", err)
		}
	})
}
