package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/internal/names"
)

func TestSaverIsTheMostCaughtUpVotingFollower(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fleet)
		among  []string
		want   string
	}{
		"a follower, not the leader":    {func(*fleet) {}, []string{"a", "b", "c"}, "b"},
		"the one that has applied most": {func(f *fleet) { f.member("c").RaftAppliedIndex = 1000 }, []string{"a", "b", "c"}, "c"},
		"in the order of names":         {func(f *fleet) { f.member("c").RaftAppliedIndex = f.member("b").GetRaftAppliedIndex() }, []string{"c", "b"}, "b"},
		"a voter before a learner":      {func(f *fleet) { f.member("b").Learner = true }, []string{"a", "b", "c"}, "c"},
		"a learner before the leader":   {func(f *fleet) { f.member("b").Learner = true }, []string{"a", "b"}, "b"},
		"the leader if it must":         {func(*fleet) {}, []string{"a"}, "a"},
		"indices far apart":             {func(f *fleet) { f.member("c").RaftAppliedIndex = 1 << 62; f.member("b").RaftAppliedIndex = 1 }, []string{"b", "c"}, "c"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet()
			c.change(f)
			if got := chooseSaver(f.facts, c.among); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestTargetsFetchFromTheNearestBeforeThem(t *testing.T) {
	f := newFleet()
	f.offline["h"] = true
	var got []string
	for _, s := range sources(f, "prod", []string{"t1", "t2", "t3"}, []string{"h", "i"}) {
		got = append(got, s.GetNode()+"="+s.GetAddress())
	}
	if want := []string{"t3=t3:1", "t2=t2:1", "t1=t1:1", "h=h:1", "i=i:1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAgreeTellsMissingUnreadableAndDifferentApart(t *testing.T) {
	m := &requorumv1.Manifest{Name: "s"}
	all := []*requorumv1.Copy{
		{Node: "a", State: requorumv1.CopyState_COPY_STATE_GOOD},
		{Node: "b", State: requorumv1.CopyState_COPY_STATE_MISSING},
		{Node: "c", State: requorumv1.CopyState_COPY_STATE_UNREADABLE, Detail: "input/output error"},
		{Node: "d", State: requorumv1.CopyState_COPY_STATE_DIFFERENT},
	}
	err := Agree(m, all)
	var d *DisagreementError
	if !errors.As(err, &d) || len(d.Copies) != 3 {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"b missing", "c unreadable (input/output error)", "d different", "requorum snapshot distribute s"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if err := Agree(m, all[:1]); err != nil {
		t.Errorf("good copies: %v", err)
	}
	if len(all) != 4 || all[0].GetNode() != "a" {
		t.Error("the argument was changed")
	}
}

func TestNewNamesAreUniqueAndAllowed(t *testing.T) {
	for _, cluster := range []string{"prod", "d", strings.Repeat("x", names.MaxLength)} {
		seen := map[string]bool{}
		for range 1000 {
			name := NewName("on-demand", cluster)
			if err := names.Check("snapshot", name); err != nil || seen[name] || !strings.HasPrefix(name, "on-demand-") {
				t.Fatalf("%q: %v, seen %v", name, err, seen[name])
			}
			if has := strings.Contains(name, cluster); len(cluster) < 60 && !has {
				t.Errorf("%s does not name the cluster", name)
			}
			seen[name] = true
		}
	}
}

func TestCheckReadsEveryCopyBack(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b")
		d.expect(d.ended(d.Check("prod", "latest", "", "alice")), refused, "c missing")
		states := map[string]string{}
		for _, c := range d.entry("s").GetCopies() {
			states[c.GetNode()] = CopyStateName(c.GetState())
		}
		if fmt.Sprint(states) != "map[a:good b:good c:missing]" || !catalog.Good(d.entry("s")) {
			t.Errorf("copies %v, state %v", states, d.entry("s").GetState())
		}
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), succeeded, "")
		d.expect(d.ended(d.Check("prod", "s", "", "alice")), succeeded, "")
	})
}

func TestDistributeGivesTheFileToWhoLacksIt(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "b")
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), succeeded, "")
		if d.fleet.holding("s") != "a b c" || d.fleet.count("FetchCopy") != 2 {
			t.Errorf("held by %s; %v", d.fleet.holding("s"), d.fleet.asked)
		}
	})
	atDesk(t, func(d *desk) {
		d.ready("s")
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), refused, "no node holds a good copy: a missing, b missing, c missing|import the file")
	})
}

// A holder that cannot serve its copy, or does not answer, costs no time where another one can.
func TestDistributeTurnsToAHolderThatServes(t *testing.T) {
	gone := errors.New("its disk is gone")
	for name, c := range map[string]struct {
		change func(*fleet)
		end    requorumv1.OperationState
		told   string
	}{
		"one fails":       {func(f *fleet) { f.cannotServe = map[string]error{"a": gone} }, succeeded, ""},
		"one is silent":   {func(f *fleet) { f.hangs = map[string]bool{"a": true} }, succeeded, ""},
		"no one can":      {func(f *fleet) { f.cannotServe = map[string]error{"a": gone, "b": gone} }, reverted, gone.Error()},
		"everybody can":   {func(*fleet) {}, succeeded, ""},
		"the other hangs": {func(f *fleet) { f.hangs = map[string]bool{"b": true} }, succeeded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.ready("s", "a", "b")
				c.change(d.fleet)
				d.fleet.answer = func(_ string, task *agentv1.Task) (*agentv1.TaskResult, error) {
					if s := task.GetFetchCopy().GetSources(); len(s) > 0 && (d.fleet.hangs[s[0].GetNode()] || d.fleet.cannotServe[s[0].GetNode()] != nil) {
						t.Errorf("c is sent to %s first", s[0].GetNode())
					}
					return nil, nil
				}
				began := time.Now()
				d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), c.end, c.told)
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// What a distribution could not do leaves the copies that were good alone.
func TestDistributeThatFailsRemovesNoGoodCopy(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "b")
		d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
			if node == "c" && task.GetFetchCopy() != nil {
				return nil, errors.New("network is down")
			}
			return nil, nil
		}
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), reverted, "network is down")
		if held := d.fleet.holding("s"); !strings.Contains(held, "b") || !catalog.Good(d.entry("s")) {
			t.Errorf("held by %q", held)
		}
	})
}

func TestOnlyReadySnapshotsAreCheckedOrDistributed(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s")
		if err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.State = requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED }); err != nil {
			t.Fatal(err)
		}
		var invalid *InvalidError
		if _, err := d.Check("prod", "s", "", "alice"); !errors.As(err, &invalid) || invalid.Message != "snapshot s is FAILED, not READY" {
			t.Errorf("got %v", err)
		}
		if _, err := d.Distribute("prod", "nope", "", "alice", ""); !errors.As(err, new(*catalog.NotFoundError)) {
			t.Errorf("got %v", err)
		}
	})
}

func (d *desk) remove(name, requestID string, force bool) (*requorumv1.Operation, error) {
	return d.Delete(&requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: name, RequestId: requestID, Force: force}, "alice")
}

func TestDeleteKeepsTheLastGoodSnapshot(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b", "c")
		d.expect(d.ended(d.remove("s", "", false)), refused, "s is the last good snapshot of cluster prod|save another one first, or give --force")
		d.ready("damaged")
		d.expect(d.ended(d.remove("s", "", false)), refused, "s is the last good snapshot of cluster prod")
		d.ready("t", "a")
		d.expect(d.ended(d.remove("s", "r1", false)), succeeded, "")
		if held := d.fleet.holding("s"); held != "" {
			t.Errorf("held by %s", held)
		}
		if op, err := d.remove("s", "r1", false); err != nil || op.GetState() != succeeded {
			t.Errorf("repeated: %v, %v", op, err)
		}
		d.expect(d.ended(d.remove("t", "", true)), succeeded, "")
		if _, err := d.Catalog.Snapshot("prod", "t"); !errors.As(err, new(*catalog.NotFoundError)) {
			t.Errorf("by force: %v", err)
		}
	})
}

func TestSafetySnapshotIsNotTheLastGoodOne(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a")
		d.ready("kept", "a")
		if err := d.Catalog.Update("prod", "kept", func(s *requorumv1.Snapshot) { s.Kind = requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY }); err != nil {
			t.Fatal(err)
		}
		d.expect(d.ended(d.remove("s", "", false)), refused, "last good snapshot")
	})
}

func TestDeleteWhileANodeIsAway(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a", "b", "c")
		d.ready("t")
		d.fleet.offline["c"] = true
		d.expect(d.ended(d.remove("s", "", false)), refused, "c|its agent is not connected")
		d.expect(d.ended(d.remove("s", "", true)), succeeded, "")
		if held := d.fleet.holding("s"); held != "c" {
			t.Errorf("held by %q, want only the node that was away", held)
		}
	})
}

// Past the pivot a node that fails by force is a warning, one that was removed is nothing at all.
func TestDeleteEndsWhateverANodeSays(t *testing.T) {
	for name, c := range map[string]struct {
		force    bool
		err      error
		warnings int
	}{
		"by force, a node fails": {true, errors.New("disk on fire"), 1},
		"a node was removed":     {false, dispatch.ErrRemoved, 0},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.ready("s", "a", "b", "c")
				d.ready("t", "a")
				d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
					if node == "b" && task.GetDropCopy() != nil {
						return nil, c.err
					}
					return nil, nil
				}
				op := d.ended(d.remove("s", "", c.force))
				d.expect(op, succeeded, "")
				if len(op.GetWarnings()) != c.warnings || d.fleet.holding("s") != "b" {
					t.Errorf("warnings %q, held by %q", op.GetWarnings(), d.fleet.holding("s"))
				}
			})
		})
	}
}
