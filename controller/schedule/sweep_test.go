package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/snapshot"
)

// saved saves a snapshot on demand.
func (d *desk) saved(name string, ttl time.Duration) {
	d.Helper()
	req := &requorumv1.SaveSnapshotRequest{Cluster: "prod", Name: name}
	if ttl > 0 {
		req.Ttl = durationpb.New(ttl)
	}
	if _, err := d.Snapshots.SaveFor(req, "alice", snapshot.Purpose{Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND}); err != nil {
		d.Fatal(err)
	}
	d.pass(2 * time.Second)
}

func (d *desk) names() string {
	d.Helper()
	var names []string
	for _, s := range d.ready("prod") {
		name := s.GetName()
		if s.GetSchedule() != "" {
			name = s.GetSchedule() + "@" + clock(s.GetCreated())
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestWhatIsTooManyGoesOnceTheNextIsReady(t *testing.T) {
	atDesk(t, func(d *desk) {
		s := hourly()
		s.LocalStorage = &requorumv1.Retention{Last: 2}
		d.apply(s)
		d.saved("kept", 0)
		d.pass(3*time.Hour + 30*time.Minute)
		if got := d.names(); got != "nightly@03:00:00 nightly@02:00:00 kept" {
			t.Errorf("kept %s", got)
		}
		d.mu.Lock()
		d.fails = errors.New("disk full")
		d.mu.Unlock()
		d.pass(5 * time.Hour)
		if got := d.names(); got != "nightly@03:00:00 nightly@02:00:00 kept" {
			t.Errorf("after runs that fail, kept %s", got)
		}
	})
}

func TestWhatIsTooOldGoesWhenItIs(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.saved("short", 10*time.Minute)
		d.saved("long", 30*time.Minute)
		d.saved("kept", 0)
		d.pass(9 * time.Minute)
		if got := d.names(); got != "kept long short" {
			t.Errorf("kept %s", got)
		}
		d.pass(time.Minute)
		if got := d.names(); got != "kept long" {
			t.Errorf("kept %s", got)
		}
		d.pass(time.Hour)
		if got := d.names(); got != "kept" || !slices.Equal(d.gone(), []string{"short", "long"}) {
			t.Errorf("kept %s, removed %v", got, d.gone())
		}
	})
}

func TestTheLastGoodOneOutlivesItsAge(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.saved("last", 10*time.Minute)
		d.pass(24 * time.Hour)
		if got := d.names(); got != "last" {
			t.Errorf("kept %q", got)
		}
		d.saved("next", 0)
		d.pass(time.Minute)
		if got := d.names(); got != "next" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestNothingIsRemovedDuringARestore(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.saved("short", 10*time.Minute)
		d.saved("kept", 0)
		d.restore("prod")
		d.pass(50 * time.Minute)
		if gone := d.gone(); len(gone) > 0 {
			t.Errorf("removed %v", gone)
		}
		d.pass(15 * time.Minute)
		if got := d.names(); got != "kept" {
			t.Errorf("kept %s", got)
		}
	})
}

func TestNothingIsRemovedWhileANodeIsAway(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.saved("short", 10*time.Minute)
		d.saved("kept", 0)
		d.mu.Lock()
		d.offline["a"] = true
		d.mu.Unlock()
		d.pass(time.Hour)
		if ops, err := d.engine.List("prod", 100); err != nil || len(ops) != 2 {
			t.Errorf("%d operations, %v", len(ops), err)
		}
		d.mu.Lock()
		d.offline["a"] = false
		d.mu.Unlock()
		d.pass(10 * time.Second)
		if got := d.names(); got != "kept" {
			t.Errorf("kept %s", got)
		}
	})
}

func TestAPausedScheduleRemovesNothing(t *testing.T) {
	atDesk(t, func(d *desk) {
		s := hourly()
		s.LocalStorage = &requorumv1.Retention{Ttl: durationpb.New(2 * time.Hour)}
		d.apply(s)
		d.pass(150 * time.Minute)
		if _, err := d.SetPaused("nightly", true, "bob"); err != nil {
			t.Fatal(err)
		}
		d.pass(10 * time.Hour)
		if got := d.names(); got != "nightly@02:00:00 nightly@01:00:00" {
			t.Errorf("kept %s", got)
		}
		if _, err := d.SetPaused("nightly", false, "bob"); err != nil {
			t.Fatal(err)
		}
		d.pass(time.Minute)
		if got := d.names(); got != "nightly@02:00:00" {
			t.Errorf("after the pause, kept %s", got)
		}
	})
}

// A copy on a node that was removed is none: what has no other does not count, and pushes out nobody.
func TestCopiesOfRemovedNodesDoNotCount(t *testing.T) {
	atDesk(t, func(d *desk) {
		s := hourly()
		s.LocalStorage = &requorumv1.Retention{Last: 1}
		d.apply(s)
		d.pass(70 * time.Minute)
		newest := d.ready("prod")[0].GetName()
		d.saved("elsewhere", 10*time.Second)
		for name, node := range map[string]string{newest: "gone", "elsewhere": "a"} {
			if err := d.Catalog.Update("prod", name, func(s *requorumv1.Snapshot) { s.Copies[0].Node = node }); err != nil {
				t.Fatal(err)
			}
		}
		d.pass(time.Minute)
		if got := d.names(); got != "elsewhere nightly@01:00:00" {
			t.Errorf("kept %s: the last one that can be reached is elsewhere", got)
		}
	})
}

func TestJudgeTakesARetentionInPlaceOfTheSchedules(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(hourly())
		d.apply(&requorumv1.Schedule{Name: "nightly1", Cron: "30 * * * *"})
		d.pass(3*time.Hour + 45*time.Minute)
		count := func(schedule string, r *requorumv1.Retention) string {
			verdicts, err := d.Judge("prod", schedule, r)
			if err != nil {
				return err.Error()
			}
			remove := 0
			for _, v := range verdicts {
				if v.Remove {
					remove++
				}
			}
			return fmt.Sprintf("%d of %d", remove, len(verdicts))
		}
		for _, c := range []struct{ got, want string }{
			{count("", nil), "0 of 7"},
			{count("nightly", nil), "0 of 3"},
			{count("nightly", &requorumv1.Retention{Last: 1}), "2 of 3"},
			{count("nightly1", &requorumv1.Retention{Last: 1}), "3 of 4"},
			{count("gone", &requorumv1.Retention{Last: 1}), "0 of 0"},
			{count("gone", nil), `there is no schedule "gone"; requorum schedule ls shows them`},
			{count("", &requorumv1.Retention{Last: 1}), "say which schedule's snapshots the retention is for (--schedule)"},
			{count("nightly", &requorumv1.Retention{Last: 1e6}), "last: 1000000 is more than 100000"},
		} {
			if c.got != c.want {
				t.Errorf("%s, want %s", c.got, c.want)
			}
		}
		if _, err := d.Judge("nowhere", "", nil); !errors.As(err, new(*catalog.NotFoundError)) {
			t.Error(err)
		}
		if gone := d.gone(); len(gone) > 0 {
			t.Errorf("judging removed %v", gone)
		}
	})
}
