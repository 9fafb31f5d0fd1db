package retention_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/retention"
)

const (
	ready    = requorumv1.SnapshotState_SNAPSHOT_STATE_READY
	failed   = requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED
	creating = requorumv1.SnapshotState_SNAPSHOT_STATE_CREATING
	good     = requorumv1.CopyState_COPY_STATE_GOOD
	missing  = requorumv1.CopyState_COPY_STATE_MISSING

	scheduledKind = requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED
	onDemand      = requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND
	safety        = requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY
	imported      = requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED
)

var now = time.Date(2026, 7, 15, 12, 30, 0, 0, time.UTC)

// snap is a READY snapshot of schedule nightly, of that age, held by one node.
func snap(name string, age time.Duration) *requorumv1.Snapshot {
	at := now.Add(-age)
	return &requorumv1.Snapshot{
		Name: name, Cluster: "prod", State: ready, Kind: scheduledKind, Schedule: "nightly", Created: timestamppb.New(at),
		Manifest: &requorumv1.Manifest{Name: name, Created: timestamppb.New(at)}, OperationId: operationAt(at),
		Copies: []*requorumv1.Copy{{Node: "a", State: good}},
	}
}

func operationAt(at time.Time) string { return ulid.MustNew(ulid.Timestamp(at), nil).String() }

func with(s *requorumv1.Snapshot, change func(*requorumv1.Snapshot)) *requorumv1.Snapshot {
	change(s)
	return s
}

func alone(name string, kind requorumv1.SnapshotKind, age time.Duration) *requorumv1.Snapshot {
	return with(snap(name, age), func(s *requorumv1.Snapshot) { s.Kind, s.Schedule = kind, "" })
}

func nightly(r *requorumv1.Retention) map[string]retention.Policy {
	return map[string]retention.Policy{"nightly": {Retention: r, Zone: time.UTC}}
}

// removed lists the names of what goes, the newest first.
func removed(verdicts []retention.Verdict) string {
	var names []string
	for _, v := range verdicts {
		if v.Remove {
			names = append(names, v.Snapshot.GetName())
		}
	}
	return strings.Join(names, " ")
}

func ttl(d time.Duration) *requorumv1.Retention { return &requorumv1.Retention{Ttl: durationpb.New(d)} }

func TestRetention(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	last := func(n uint32) *requorumv1.Retention { return &requorumv1.Retention{Last: n} }
	for name, c := range map[string]struct {
		snapshots []*requorumv1.Snapshot
		policies  map[string]retention.Policy
		want      string
	}{
		"the newest so many stay": {
			[]*requorumv1.Snapshot{snap("a", hour), snap("c", 3*hour), snap("b", 2*hour)}, nightly(last(2)), "c",
		},
		"nothing is said": {[]*requorumv1.Snapshot{snap("a", 9999*hour), snap("b", 0)}, nightly(nil), ""},
		"age":             {[]*requorumv1.Snapshot{snap("a", 0), snap("b", hour), snap("c", hour-time.Second)}, nightly(ttl(hour)), "b"},
		"age goes before number": {
			[]*requorumv1.Snapshot{snap("a", 0), snap("b", 2*hour)}, nightly(&requorumv1.Retention{Last: 5, Ttl: durationpb.New(hour)}), "b",
		},
		"a day's newest stays": {
			[]*requorumv1.Snapshot{snap("a", 0), snap("b", hour), snap("c", day), snap("d", day+hour), snap("e", 2*day)},
			nightly(&requorumv1.Retention{Daily: 2}), "b d e",
		},
		"periods without a snapshot do not count": {
			[]*requorumv1.Snapshot{snap("a", 0), snap("b", 10*day), snap("c", 20*day)}, nightly(&requorumv1.Retention{Daily: 2}), "c",
		},
		"hours": {
			[]*requorumv1.Snapshot{snap("a", 0), snap("b", 20*time.Minute), snap("c", 40*time.Minute)}, nightly(&requorumv1.Retention{Hourly: 2}), "b",
		},
		"weeks begin on Monday": { // now is a Wednesday
			[]*requorumv1.Snapshot{snap("wed", 0), snap("mon", 2*day), snap("sun", 3*day), snap("sat", 4*day)}, nightly(&requorumv1.Retention{Weekly: 2}), "mon sat",
		},
		"months": {
			[]*requorumv1.Snapshot{snap("july", 0), snap("first", 14*day), snap("june", 15*day), snap("may", 50*day)},
			nightly(&requorumv1.Retention{Monthly: 2}), "first may",
		},
		"each rule keeps its own": {
			[]*requorumv1.Snapshot{snap("a", 0), snap("b", hour), snap("c", day), snap("d", 40*day), snap("e", 41*day)},
			nightly(&requorumv1.Retention{Last: 2, Daily: 2, Monthly: 2}), "e",
		},
		"a failed one pushes out nobody": {
			[]*requorumv1.Snapshot{with(snap("x", 0), func(s *requorumv1.Snapshot) { s.State = failed }), with(snap("y", 0), func(s *requorumv1.Snapshot) { s.State = creating }), snap("a", hour), snap("b", 2*hour)},
			nightly(last(2)), "",
		},
		"one that is lost pushes out nobody, and stays to be seen": {
			[]*requorumv1.Snapshot{with(snap("lost", 0), func(s *requorumv1.Snapshot) { s.Copies[0].State = missing }), snap("a", hour), snap("b", 2*hour), snap("c", 3*hour)},
			nightly(last(2)), "c",
		},
		"a name that begins alike is another schedule": {
			[]*requorumv1.Snapshot{snap("a", 0), with(snap("b", hour), func(s *requorumv1.Snapshot) { s.Schedule = "nightly1" }), with(snap("c", hour), func(s *requorumv1.Snapshot) { s.Schedule = "night" })},
			nightly(last(1)), "",
		},
		"a snapshot named like the schedule's is not one": {
			[]*requorumv1.Snapshot{snap("nightly-prod-1", 0), alone("nightly-prod-2", onDemand, hour)}, nightly(last(1)), "",
		},
		"a paused schedule removes nothing": {
			[]*requorumv1.Snapshot{snap("a", 0), snap("b", hour)},
			map[string]retention.Policy{"nightly": {Retention: last(1), Zone: time.UTC, Paused: true}},
			"",
		},
		"a schedule that is gone removes nothing": {[]*requorumv1.Snapshot{snap("a", 0), snap("b", hour)}, nil, ""},
		"kinds that are kept": {
			[]*requorumv1.Snapshot{snap("a", 0), alone("b", onDemand, day), alone("c", safety, day), alone("d", imported, day), alone("e", requorumv1.SnapshotKind_SNAPSHOT_KIND_POST_RESTORE, day)},
			nightly(last(1)), "",
		},
		"an age of its own": {
			[]*requorumv1.Snapshot{
				snap("a", 0),
				with(alone("b", onDemand, day), func(s *requorumv1.Snapshot) { s.Expires = timestamppb.New(now) }),
				with(alone("c", onDemand, day), func(s *requorumv1.Snapshot) { s.Expires = timestamppb.New(now.Add(time.Second)) }),
			}, nightly(nil), "b",
		},
		"the last good one, whatever its age":       {[]*requorumv1.Snapshot{snap("a", 99*day), snap("b", 100*day)}, nightly(ttl(hour)), "b"},
		"a safety snapshot is no last good one":     {[]*requorumv1.Snapshot{alone("s", safety, 0), snap("b", 100*day)}, nightly(ttl(hour)), ""},
		"nor is one from elsewhere":                 {[]*requorumv1.Snapshot{alone("i", imported, 0), snap("b", 100*day)}, nightly(ttl(hour)), ""},
		"an on-demand one is":                       {[]*requorumv1.Snapshot{alone("o", onDemand, day), snap("b", 100*day)}, nightly(ttl(hour)), "b"},
		"one that is lost is no last good one":      {[]*requorumv1.Snapshot{with(alone("o", onDemand, 0), func(s *requorumv1.Snapshot) { s.Copies = nil }), snap("b", 100*day)}, nightly(ttl(hour)), ""},
		"a failed one is no last good one":          {[]*requorumv1.Snapshot{with(snap("f", 0), func(s *requorumv1.Snapshot) { s.State = failed }), snap("b", 100*day)}, nightly(ttl(hour)), ""},
		"a clock that was put back confuses nobody": {[]*requorumv1.Snapshot{with(snap("new", 3*hour), func(s *requorumv1.Snapshot) { s.OperationId = operationAt(now) }), snap("old", 2*hour)}, nightly(last(1)), "old"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := removed(retention.Judge(c.snapshots, c.policies, now)); got != c.want {
				t.Errorf("removed %q, want %q", got, c.want)
			}
		})
	}
}

// The days are those of the schedule's zone, and an hour that comes twice is two.
func TestPeriodsAreThoseOfTheZone(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, when time.Time) *requorumv1.Snapshot { return snap(name, now.Sub(when)) }
	policy := func(r *requorumv1.Retention) map[string]retention.Policy {
		return map[string]retention.Policy{"nightly": {Retention: r, Zone: zone}}
	}
	evening := []*requorumv1.Snapshot{ // 23:30 and 00:30 in Berlin, one day in UTC
		at("before", time.Date(2026, 7, 10, 21, 30, 0, 0, time.UTC)), at("after", time.Date(2026, 7, 10, 22, 30, 0, 0, time.UTC)),
	}
	if got := removed(retention.Judge(evening, policy(&requorumv1.Retention{Daily: 2}), now)); got != "" {
		t.Errorf("two days of Berlin: removed %q", got)
	}
	if got := removed(retention.Judge(evening, nightly(&requorumv1.Retention{Daily: 2}), now)); got != "before" {
		t.Errorf("one day of UTC: removed %q", got)
	}
	doubled := []*requorumv1.Snapshot{ // 02:30 twice
		at("first", time.Date(2025, 10, 26, 0, 30, 0, 0, time.UTC)), at("second", time.Date(2025, 10, 26, 1, 30, 0, 0, time.UTC)),
	}
	if got := removed(retention.Judge(doubled, policy(&requorumv1.Retention{Hourly: 2}), now)); got != "" {
		t.Errorf("the doubled hour: removed %q", got)
	}
}

func TestEveryVerdictSaysWhy(t *testing.T) {
	snapshots := []*requorumv1.Snapshot{snap("a", 0), snap("b", time.Hour), snap("c", 48*time.Hour), alone("d", onDemand, 0)}
	r := &requorumv1.Retention{Last: 1, Daily: 3, Ttl: durationpb.New(47 * time.Hour)}
	var got []string
	for _, v := range retention.Judge(snapshots, nightly(r), now) {
		got = append(got, fmt.Sprintf("%s %t %s", v.Snapshot.GetName(), v.Remove, v.Reason))
	}
	slices.Sort(got)
	want := []string{
		"a false last 1 of 1, daily 1 of 3 of schedule nightly",
		"b true schedule nightly keeps last 1, daily 3, ttl 47h0m0s",
		"c true it is older than the 47h0m0s that schedule nightly keeps snapshots",
		"d false no schedule took it: it stays until a person removes it",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// stored is a snapshot that the remote off-site has, too.
func stored(s *requorumv1.Snapshot) *requorumv1.Snapshot {
	s.Remotes = append(s.Remotes, &requorumv1.RemoteCopy{Remote: "off-site", State: good})
	return s
}

// lost is a snapshot that the remote off-site had, too.
func lost(s *requorumv1.Snapshot) *requorumv1.Snapshot {
	s.Remotes = append(s.Remotes, &requorumv1.RemoteCopy{Remote: "off-site", State: requorumv1.CopyState_COPY_STATE_MISSING})
	return s
}

// Nodes and remote are judged each for itself.
func TestRetentionInARemote(t *testing.T) {
	const day = 24 * time.Hour
	gone := func(s *requorumv1.Snapshot) *requorumv1.Snapshot { s.Copies = nil; return s }
	policies := func(local, remote *requorumv1.Retention) map[string]retention.Policy {
		return map[string]retention.Policy{"nightly": {Retention: local, Zone: time.UTC, Remote: "off-site", Stored: remote}}
	}
	last := func(n uint32) *requorumv1.Retention { return &requorumv1.Retention{Last: n} }
	for name, c := range map[string]struct {
		snapshots               []*requorumv1.Snapshot
		policies                map[string]retention.Policy
		local, remote, unstored string
	}{
		"longer in the remote": {
			[]*requorumv1.Snapshot{stored(snap("d", 0)), stored(snap("c", day)), stored(snap("b", 2*day)), stored(gone(snap("a", 3*day)))},
			policies(last(1), last(3)), "c b", "a", "",
		},
		"all is kept in the remote": {
			[]*requorumv1.Snapshot{stored(snap("b", day)), stored(snap("a", 2*day))}, policies(last(1), nil), "a", "", "",
		},
		"the last one in the remote stays": {
			[]*requorumv1.Snapshot{stored(snap("b", 2*day)), stored(snap("a", 3*day))}, policies(nil, ttl(day)), "", "a", "",
		},
		"what is to be stored waits on the nodes": {
			[]*requorumv1.Snapshot{snap("d", 0), snap("c", day), snap("b", 2*day), snap("a", 3*day)}, policies(last(1), last(2)), "b a", "", "d c",
		},
		"of a copy that was lost nothing is expected": {
			[]*requorumv1.Snapshot{stored(snap("b", day)), gone(snap("a", 2*day))}, policies(nil, nil), "", "", "",
		},
		"paused": {
			[]*requorumv1.Snapshot{snap("b", day), stored(snap("a", 2*day))},
			map[string]retention.Policy{"nightly": {Retention: last(1), Zone: time.UTC, Paused: true, Remote: "off-site", Stored: last(1)}},
			"", "", "",
		},
		"a removal that has taken effect, and nobody was told": {
			[]*requorumv1.Snapshot{stored(snap("c", 0)), stored(snap("b", day)), lost(gone(snap("a", 2*day)))}, policies(last(1), last(2)), "b", "a", "",
		},
		"the same of one that nodes keep": {
			[]*requorumv1.Snapshot{stored(snap("c", 0)), stored(snap("b", day)), lost(snap("a", 2*day))}, policies(nil, last(2)), "", "a", "",
		},
		"one that is missing pushes out nobody": {
			[]*requorumv1.Snapshot{lost(gone(snap("c", 0))), stored(snap("b", day)), stored(snap("a", 2*day))}, policies(nil, last(2)), "", "", "",
		},
		"one that is missing and would be kept is not forgotten": {
			[]*requorumv1.Snapshot{stored(snap("b", 0)), lost(gone(snap("a", day)))}, policies(nil, last(2)), "", "", "",
		},
		"a remote that was emptied forgets nothing": {
			[]*requorumv1.Snapshot{lost(gone(snap("b", day))), lost(gone(snap("a", 2*day)))}, policies(nil, last(1)), "", "", "",
		},
		"where none is good the newest may be there after all": {
			[]*requorumv1.Snapshot{lost(gone(snap("b", 2*day))), lost(gone(snap("a", 3*day)))}, policies(nil, ttl(day)), "", "a", "",
		},
		"the last good one is not the missing one": {
			[]*requorumv1.Snapshot{lost(gone(snap("b", 2*day))), stored(snap("a", 3*day))}, policies(nil, ttl(day)), "", "b", "",
		},
		"stored by a person elsewhere": {
			[]*requorumv1.Snapshot{snap("b", day), with(snap("a", 2*day), func(s *requorumv1.Snapshot) { s.Remotes = []*requorumv1.RemoteCopy{{Remote: "nfs", State: good}} })},
			nightly(last(1)), "a", "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := removed(retention.Judge(c.snapshots, c.policies, now)); got != c.local {
				t.Errorf("from the nodes go %q, want %q", got, c.local)
			}
			if got := removed(retention.JudgeRemotes(c.snapshots, c.policies, now)); got != c.remote {
				t.Errorf("from the remote go %q, want %q", got, c.remote)
			}
			var lacking []string
			for _, v := range retention.Unstored(c.snapshots, c.policies, now) {
				lacking = append(lacking, v.Snapshot.GetName())
			}
			if got := strings.Join(lacking, " "); got != c.unstored {
				t.Errorf("to be stored are %q, want %q", got, c.unstored)
			}
		})
	}
}
