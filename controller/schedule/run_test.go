package schedule

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

const (
	created   = requorumv1.ApplyOutcome_APPLY_OUTCOME_CREATED
	changed   = requorumv1.ApplyOutcome_APPLY_OUTCOME_CHANGED
	unchanged = requorumv1.ApplyOutcome_APPLY_OUTCOME_UNCHANGED
)

func hourly() *requorumv1.Schedule { return &requorumv1.Schedule{Cron: "0 * * * *"} }

func every(d time.Duration) *requorumv1.Schedule {
	return &requorumv1.Schedule{Every: durationpb.New(d)}
}

func TestRunsComeWhenTheyAreDue(t *testing.T) {
	atDesk(t, func(d *desk) {
		s := hourly()
		s.Labels = map[string]string{"why": "night"}
		d.apply(s)
		d.pass(150 * time.Minute)
		d.expect("01:00:00 succeeded", "02:00:00 succeeded")
		got := d.ready("prod")
		if len(got) != 2 || got[0].GetSchedule() != "nightly" || got[0].GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED || !strings.HasPrefix(got[0].GetName(), "nightly-prod-20000101T020000Z-") {
			t.Errorf("snapshots %v", got)
		}
		shown, err := d.Get("nightly")
		if err != nil || clock(shown.GetStatus().GetNext()) != "03:00:00" || len(shown.GetStatus().GetRecords()) != 2 || shown.GetStatus().GetRecords()[0].GetSnapshot() != got[0].GetName() {
			t.Errorf("shown as %v, %v", shown, err)
		}
		op, err := d.engine.Get(got[0].GetOperationId())
		if err != nil || op.GetRequestedBy() != "schedule nightly" {
			t.Errorf("operation %v, %v", op, err)
		}
	})
}

// The first run of one by elapsed time comes at once: nothing was saved yet.
func TestElapsedTimeCountsFromTheLastRun(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(every(time.Hour))
		d.pass(150 * time.Minute)
		d.expect("00:00:00 succeeded", "01:00:00 succeeded", "02:00:00 succeeded")
	})
}

func TestMissedRunsAreMadeUpForOnce(t *testing.T) {
	for name, c := range map[string]struct {
		schedule *requorumv1.Schedule
		want     []string
	}{
		"cron": {hourly(), []string{"01:00:00 succeeded", "06:00:00 succeeded at 06:30:00 for 4 more", "07:00:00 succeeded"}},
		"every": {every(time.Hour), []string{
			"00:00:00 succeeded", "01:00:00 succeeded", "06:00:00 succeeded at 06:30:00 for 4 more", "07:30:00 succeeded",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.apply(c.schedule)
				d.pass(90 * time.Minute)
				if err := d.stop(); err != nil {
					t.Fatal(err)
				}
				d.pass(5 * time.Hour)
				d.start(d.db)
				d.pass(75 * time.Minute)
				d.expect(c.want...)
			})
		})
	}
}

// A run that comes due during a restore waits for its end, is shown as waiting, and stands for those that came due
// meanwhile.
func TestARunWaitsForARestore(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(&requorumv1.Schedule{Cron: "*/10 * * * *"})
		d.pass(5 * time.Minute)
		op := d.restore("prod") // until 01:05
		d.pass(30 * time.Minute)
		d.expect("00:10:00 delayed")
		runs, err := d.Runs("nightly", "", 1)
		if err != nil || runs[0].GetReason() != "waited for operation "+op.GetId()+" (restore)" {
			t.Errorf("reason %q, %v", runs[0].GetReason(), err)
		}
		d.pass(40 * time.Minute)
		d.expect("00:10:00 succeeded at 01:05:00 for 5 more", "01:10:00 succeeded")
		runs, err = d.Runs("nightly", "", 2)
		if err != nil || !strings.Contains(runs[1].GetReason(), op.GetId()) {
			t.Errorf("it is forgotten what the run waited for: %v, %v", runs, err)
		}
	})
}

// A restore of one cluster is nothing to another one.
func TestClustersDoNotWaitForEachOther(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(hourly())
		d.apply(&requorumv1.Schedule{Name: "other", Cluster: "test", Cron: "0 * * * *"})
		d.pass(55 * time.Minute)
		d.restore("prod")
		d.pass(10 * time.Minute)
		for name, want := range map[string]requorumv1.RunResult{"nightly": delayed, "other": succeeded} {
			if runs, err := d.Runs(name, "", 10); err != nil || len(runs) != 1 || runs[0].GetResult() != want {
				t.Errorf("%s: %v, %v", name, runs, err)
			}
		}
	})
}

func TestTwoSchedulesOfAClusterRunOneAfterTheOther(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.takes = 5 * time.Minute
		d.apply(hourly())
		d.apply(&requorumv1.Schedule{Name: "other", Cron: "0 * * * *"})
		d.pass(75 * time.Minute)
		runs, err := d.Runs("", "", 10)
		if err != nil || len(runs) != 2 {
			t.Fatalf("%v, %v", runs, err)
		}
		if apart := runs[0].GetBegan().AsTime().Sub(runs[1].GetBegan().AsTime()).Abs(); apart != 5*time.Minute {
			t.Errorf("they began %s apart\n%s", apart, d.history())
		}
	})
}

// A save that takes longer than the time between two runs makes the next one late, and none is lost.
func TestARunThatTakesLong(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.takes = 90 * time.Minute
		d.apply(hourly())
		d.pass(6 * time.Hour)
		d.expect("01:00:00 succeeded", "02:00:00 succeeded at 02:30:00", "04:00:00 succeeded for 1 more", "05:00:00 running at 05:30:00")
	})
}

func TestARunThatFails(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.setFails(errors.New("disk full"))
		d.apply(retrying(0, time.Minute))
		d.pass(90 * time.Minute)
		d.expect("01:00:00 failed")
		runs, err := d.Runs("nightly", "", 1)
		if err != nil || !strings.Contains(runs[0].GetReason(), "reverted: disk full") || runs[0].GetOperationId() == "" || runs[0].GetSnapshot() != "" {
			t.Errorf("%v, %v", runs, err)
		}
		d.setFails(nil)
		d.pass(time.Hour)
		d.expect("01:00:00 failed", "02:00:00 succeeded")
	})
}

func TestPauseAndResume(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(hourly())
		d.pass(90 * time.Minute)
		for range 2 {
			if s, err := d.SetPaused("nightly", true, "bob"); err != nil || !s.GetPaused() || s.GetStatus().GetNext() != nil || s.GetStatus().GetAppliedBy() != "bob" {
				t.Fatalf("%v, %v", s, err)
			}
		}
		d.pass(5 * time.Hour) // 06:30
		if _, err := d.SetPaused("nightly", false, "bob"); err != nil {
			t.Fatal(err)
		}
		d.pass(time.Hour)
		d.expect("01:00:00 succeeded", "07:00:00 succeeded")
	})
}

// A run that waits does not begin any more once its schedule is paused.
func TestPauseReachesARunThatWaits(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(hourly())
		d.pass(55 * time.Minute)
		d.restore("prod")
		d.pass(10 * time.Minute)
		if _, err := d.SetPaused("nightly", true, "bob"); err != nil {
			t.Fatal(err)
		}
		d.pass(3 * time.Hour)
		d.expect("01:00:00 failed")
		runs, err := d.Runs("nightly", "", 1)
		if err != nil || !strings.Contains(runs[0].GetReason(), "paused or changed") || len(d.ready("prod")) != 0 {
			t.Errorf("%v, %v", runs, err)
		}
	})
}

func TestApplyChangesOnlyWhatIsDifferent(t *testing.T) {
	atDesk(t, func(d *desk) {
		if got := d.apply(hourly()); got != created {
			t.Errorf("first: %v", got)
		}
		if got := d.apply(hourly()); got != unchanged {
			t.Errorf("again: %v", got)
		}
		again := hourly()
		again.Status = &requorumv1.ScheduleStatus{AppliedBy: "mallory"}
		if got := d.apply(again); got != unchanged {
			t.Errorf("with a status: %v", got)
		}
		d.pass(90 * time.Minute)
		half := &requorumv1.Schedule{Cron: "45 * * * *"}
		if got := d.apply(half); got != changed {
			t.Errorf("another time: %v", got)
		}
		d.pass(30 * time.Minute)
		d.expect("01:00:00 succeeded", "01:45:00 succeeded")
		for want, s := range map[string]*requorumv1.Schedule{
			"stays with its cluster":    {Name: "nightly", Cluster: "test", Cron: "0 * * * *"},
			"there is no cluster":       {Name: "new", Cluster: "nowhere", Cron: "0 * * * *"},
			"neither cron nor every":    {Name: "new", Cluster: "prod"},
			"cron and every do not go ": {Name: "new", Cluster: "prod", Cron: "0 * * * *", Every: durationpb.New(time.Hour)},
		} {
			if _, _, err := d.Apply(s, "alice"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}

// Applying elapsed time anew does not make it begin anew: a pipeline that applies all it has, often, changes nothing.
func TestElapsedTimeGoesOnWhenItIsAppliedAnew(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(every(time.Hour))
		for i := range 4 {
			s := every(time.Hour)
			s.Labels = map[string]string{"n": string(rune('a' + i))}
			d.pass(25 * time.Minute)
			d.apply(s)
		}
		d.expect("00:00:00 succeeded", "01:00:00 succeeded")
	})
}

func TestDeleteForgetsTheScheduleAndKeepsItsSnapshots(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.takes = 10 * time.Minute
		d.apply(hourly())
		d.pass(65 * time.Minute)
		d.expect("01:00:00 running")
		if err := d.Delete("nightly"); err != nil {
			t.Fatal(err)
		}
		d.pass(3 * time.Hour)
		d.expect("")
		if len(d.ready("prod")) != 1 {
			t.Errorf("snapshots %v", d.ready("prod"))
		}
		if _, err := d.Get("nightly"); !errors.As(err, new(*NotFoundError)) {
			t.Error(err)
		}
		if err := d.Delete("nightly"); !errors.As(err, new(*NotFoundError)) {
			t.Error(err)
		}
		d.apply(hourly()) // by the same name, another one
		d.pass(2 * time.Hour)
		d.expect("05:00:00 succeeded", "06:00:00 running")
	})
}

func TestTrigger(t *testing.T) {
	atDesk(t, func(d *desk) {
		s := hourly()
		s.Paused = true
		d.apply(s)
		op, run, err := d.Trigger("nightly", "r1", "bob")
		if err != nil || op.GetRequestedBy() != "bob" || run.GetTriggeredBy() != "bob" || run.GetOperationId() != op.GetId() {
			t.Fatalf("%v, %v, %v", op, run, err)
		}
		if again, same, err := d.Trigger("nightly", "r1", "bob"); err != nil || again.GetId() != op.GetId() || same.GetId() != run.GetId() {
			t.Errorf("the same request made %v, %v, %v", again, same, err)
		}
		if _, _, err := d.Trigger("nightly", "r2", "bob"); !errors.As(err, new(*operation.BusyError)) {
			t.Errorf("while it runs: %v", err)
		}
		d.pass(time.Minute)
		d.expect("00:00:00 succeeded")
		if _, _, err := d.Trigger("nowhere", "r3", "bob"); !errors.As(err, new(*NotFoundError)) {
			t.Error(err)
		}
		if again, _, err := d.Trigger("nightly", "r1", "bob"); err != nil || again.GetId() != op.GetId() {
			t.Errorf("after it has ended, the same request made %v, %v", again, err)
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(every(time.Minute))
		d.pass((KeptRuns+30)*time.Minute + 30*time.Second)
		runs, err := d.Runs("nightly", "prod", 1000)
		if err != nil || len(runs) != KeptRuns {
			t.Errorf("%d runs, %v", len(runs), err)
		}
		if got, err := d.Runs("nightly", "prod", 3); err != nil || len(got) != 3 || got[0].GetId() != runs[0].GetId() {
			t.Errorf("the newest three are %v, %v", got, err)
		}
		if got, err := d.Runs("", "test", 3); err != nil || len(got) != 0 {
			t.Errorf("of another cluster: %v, %v", got, err)
		}
	})
}

// A controller that is restarted in the middle of a run carries it on.
func TestARestartLosesNoRunAndDoublesNone(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.takes = 10 * time.Second
		d.apply(every(time.Minute))
		for i := range 20 {
			d.pass(time.Duration(i)*time.Second + 37*time.Second)
			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
			d.start(d.db)
		}
		d.pass(45 * time.Second)
		runs, err := d.Runs("", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range runs {
			if r.GetResult() != succeeded {
				t.Errorf("run %v", r)
			}
			if i > 0 {
				if apart := runs[i-1].GetBegan().AsTime().Sub(r.GetBegan().AsTime()); apart < time.Minute || apart > 61*time.Second {
					t.Errorf("runs are %s apart", apart)
				}
			}
		}
		if n := len(d.ready("prod")); n != len(runs) {
			t.Errorf("%d runs made %d snapshots", len(runs), n)
		}
	})
}

// A clock that was years ahead when a schedule ran does not keep it from running until then.
func TestAClockThatWasAheadIsNotWaitedFor(t *testing.T) {
	for ahead, want := range map[time.Duration]string{5 * 365 * 24 * time.Hour: "01:00:00 succeeded\n02:00:00 succeeded", 50 * time.Minute: "01:00:00 succeeded\n02:00:00 succeeded", 100 * time.Second: "01:00:00 succeeded\n02:00:00 succeeded"} {
		atDesk(t, func(d *desk) {
			d.apply(hourly())
			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
			err := d.db.Update(func(tx store.Tx) error {
				rec, err := load(tx, "nightly")
				if err != nil {
					return err
				}
				rec.Since, rec.Begun = timestamppb.New(time.Now().Add(ahead)), true
				return save(tx, rec)
			})
			if err != nil {
				t.Fatal(err)
			}
			d.start(d.db)
			d.pass(150 * time.Minute)
			if got := d.history(); got != want {
				t.Errorf("%s ahead: %s", ahead, got)
			}
		})
	}
}

func TestScheduleThatIsGoneEndsItsWorker(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(hourly())
		if err := d.Delete("nightly"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		d.runners.mu.Lock()
		defer d.runners.mu.Unlock()
		if len(d.runners.awake) != 0 {
			t.Errorf("workers %v", d.runners.awake)
		}
	})
}
