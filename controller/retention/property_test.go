package retention_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/retention"
)

// schedules are names of which some begin with others.
var schedules = []string{"myname", "myname1", "my", "gone"}

func anySnapshot(t *rapid.T, i int) *requorumv1.Snapshot {
	s := snap(fmt.Sprintf("s%d", i), time.Duration(rapid.Int64Range(0, 90*24*3600).Draw(t, "age"))*time.Second)
	s.State = rapid.SampledFrom([]requorumv1.SnapshotState{ready, ready, ready, failed, creating, requorumv1.SnapshotState_SNAPSHOT_STATE_DELETING}).Draw(t, "state")
	s.Kind = rapid.SampledFrom([]requorumv1.SnapshotKind{scheduledKind, scheduledKind, scheduledKind, onDemand, safety, imported, requorumv1.SnapshotKind_SNAPSHOT_KIND_POST_RESTORE}).Draw(t, "kind")
	if s.Schedule = ""; s.GetKind() == scheduledKind {
		s.Schedule = rapid.SampledFrom(schedules).Draw(t, "schedule")
	} else if rapid.Bool().Draw(t, "expires") {
		s.Expires = timestamppb.New(now.Add(time.Duration(rapid.IntRange(-48, 48).Draw(t, "hours")) * time.Hour))
	}
	s.Copies[0].State = rapid.SampledFrom([]requorumv1.CopyState{good, good, good, missing}).Draw(t, "copy")
	return s
}

func anyRetention(t *rapid.T) *requorumv1.Retention {
	n := rapid.Uint32Range(0, 6)
	r := &requorumv1.Retention{Last: n.Draw(t, "last"), Hourly: n.Draw(t, "hourly"), Daily: n.Draw(t, "daily"), Weekly: n.Draw(t, "weekly"), Monthly: n.Draw(t, "monthly")}
	if rapid.Bool().Draw(t, "has ttl") {
		r.Ttl = durationpb.New(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ttl")) * time.Hour)
	}
	return r
}

type world struct {
	snapshots []*requorumv1.Snapshot
	policies  map[string]retention.Policy
}

func anyWorld(t *rapid.T) world {
	w := world{policies: map[string]retention.Policy{}}
	for i := range rapid.IntRange(0, 40).Draw(t, "snapshots") {
		w.snapshots = append(w.snapshots, anySnapshot(t, i))
	}
	for _, name := range schedules[:3] {
		w.policies[name] = retention.Policy{Retention: anyRetention(t), Zone: time.UTC, Paused: rapid.IntRange(0, 4).Draw(t, "paused") == 0}
	}
	return w
}

func (w world) judge() []retention.Verdict { return retention.Judge(w.snapshots, w.policies, now) }

// after is the world once everything that goes is gone.
func (w world) after() world {
	gone := map[string]bool{}
	for _, v := range w.judge() {
		gone[v.Snapshot.GetName()] = v.Remove
	}
	w.snapshots = slices.DeleteFunc(slices.Clone(w.snapshots), func(s *requorumv1.Snapshot) bool { return gone[s.GetName()] })
	return w
}

func restorable(s *requorumv1.Snapshot) bool {
	return s.GetState() == ready && s.GetCopies()[0].GetState() == good && s.GetKind() != safety && s.GetKind() != imported
}

func TestTheLastGoodOneIsNeverRemoved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWorld(t)
		if slices.ContainsFunc(w.snapshots, restorable) && !slices.ContainsFunc(w.after().snapshots, restorable) {
			t.Fatal("there was a good snapshot, and there is none any more")
		}
	})
}

func TestWhatIsRemovedOnceIsAllThatIsRemoved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if again := removed(anyWorld(t).after().judge()); again != "" {
			t.Fatalf("applied to what it has left, it removes %s", again)
		}
	})
}

// Taken one at a time, in any order, the same ones go: what is interrupted is carried on to the same end.
func TestOneAtATimeEndsAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWorld(t)
		whole := w.after()
		for {
			var goes []string
			for _, v := range w.judge() {
				if v.Remove {
					goes = append(goes, v.Snapshot.GetName())
				}
			}
			if len(goes) == 0 {
				break
			}
			one := rapid.SampledFrom(goes).Draw(t, "first")
			w.snapshots = slices.DeleteFunc(slices.Clone(w.snapshots), func(s *requorumv1.Snapshot) bool { return s.GetName() == one })
		}
		if !slices.Equal(w.snapshots, whole.snapshots) {
			t.Fatalf("one at a time leaves %d snapshots, all at once %d", len(w.snapshots), len(whole.snapshots))
		}
	})
}

// What is not READY is neither removed nor does it push anything out.
func TestFailedOnesNeverCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWorld(t)
		without := w
		without.snapshots = slices.DeleteFunc(slices.Clone(w.snapshots), func(s *requorumv1.Snapshot) bool { return s.GetState() != ready })
		if a, b := removed(w.judge()), removed(without.judge()); a != b {
			t.Fatalf("with failed ones it removes %q, without %q", a, b)
		}
	})
}

// The snapshots of one schedule, by exactly its name, are judged as if there were no others.
func TestOtherSchedulesDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWorld(t)
		w.snapshots = append(w.snapshots, alone("anchor", onDemand, 0)) // so that none of them is the last good one
		one := rapid.SampledFrom(schedules).Draw(t, "schedule")
		own := w
		own.snapshots = slices.DeleteFunc(slices.Clone(w.snapshots), func(s *requorumv1.Snapshot) bool {
			return s.GetSchedule() != one && s.GetName() != "anchor"
		})
		of := func(verdicts []retention.Verdict) string {
			return removed(slices.DeleteFunc(verdicts, func(v retention.Verdict) bool { return v.Snapshot.GetSchedule() != one }))
		}
		if a, b := of(w.judge()), of(own.judge()); a != b {
			t.Fatalf("of %s, beside others %q go, alone %q", one, a, b)
		}
	})
}

// What a person took goes by its own age, and no policy touches it.
func TestOnlyTheirOwnAgeRemovesOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWorld(t)
		for _, v := range w.judge() {
			s := v.Snapshot
			if v.Remove && s.GetKind() != scheduledKind && (s.GetExpires() == nil || s.GetExpires().AsTime().After(now)) {
				t.Fatalf("%s is removed: %s", s.GetName(), v.Reason)
			}
			if policy, known := w.policies[s.GetSchedule()]; v.Remove && s.GetKind() == scheduledKind && (!known || policy.Paused) {
				t.Fatalf("%s of %s is removed: %s", s.GetName(), s.GetSchedule(), v.Reason)
			}
		}
	})
}

// A policy that keeps more removes nothing that one which keeps less has kept.
func TestMoreKeepsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyWorld(t)
		less := removedNames(w.judge())
		for name, p := range w.policies {
			r := p.Retention
			if r.GetLast()+r.GetHourly()+r.GetDaily()+r.GetWeekly()+r.GetMonthly() == 0 {
				continue // a first number turns "all" into "so many"
			}
			p.Retention = &requorumv1.Retention{Ttl: r.GetTtl(), Last: r.GetLast() + 1, Hourly: r.GetHourly() + 1, Daily: r.GetDaily() + 1, Weekly: r.GetWeekly() + 1, Monthly: r.GetMonthly() + 1}
			w.policies[name] = p
		}
		for name := range removedNames(w.judge()) {
			if !less[name] {
				t.Fatalf("%s goes although more is kept", name)
			}
		}
	})
}

func removedNames(verdicts []retention.Verdict) map[string]bool {
	names := map[string]bool{}
	for _, v := range verdicts {
		if v.Remove {
			names[v.Snapshot.GetName()] = true
		}
	}
	return names
}
