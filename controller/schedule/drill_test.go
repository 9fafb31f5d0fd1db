package schedule

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
)

func drilling(drill *requorumv1.Drill) *requorumv1.Schedule {
	return &requorumv1.Schedule{Every: durationpb.New(time.Hour), Drill: drill, LocalStorage: &requorumv1.Retention{Last: 2}}
}

// drilled tells of the drills, the oldest first, by the time of day at which they were due and began.
func (d *desk) drilled() string {
	d.Helper()
	runs, err := d.Runs("", "", 1000)
	if err != nil {
		d.Fatal(err)
	}
	var lines []string
	for i := len(runs) - 1; i >= 0; i-- {
		drill := runs[i].GetDrill()
		if drill == nil {
			continue
		}
		line := clock(drill.GetDue()) + " " + strings.ToLower(strings.TrimPrefix(drill.GetResult().String(), "RUN_RESULT_"))
		if drill.GetBegan() != nil && drill.GetBegan().AsTime().Sub(drill.GetDue().AsTime()) >= time.Second {
			line += " at " + clock(drill.GetBegan())
		}
		if name := drill.GetSnapshot(); name != "" && name != runs[i].GetSnapshot() {
			line += " of a later one"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, ", ")
}

func (d *desk) expectDrills(want string) {
	d.Helper()
	if got := d.drilled(); got != want {
		d.Errorf("the drills are %s, want %s", got, want)
	}
}

// verifications are the drills' operations, the newest first.
func (d *desk) verifications() []*requorumv1.Operation {
	d.Helper()
	all, err := d.engine.List("prod", 1000)
	if err != nil {
		d.Fatal(err)
	}
	var found []*requorumv1.Operation
	for _, op := range all {
		if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_VERIFY {
			found = append(found, op)
		}
	}
	return found
}

func (d *desk) setUnproved(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unproved = err
}

func TestADrillFollowsEveryNthRun(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(drilling(&requorumv1.Drill{After: 2}))
		d.pass(3*time.Hour + 30*time.Minute)
		d.expect("00:00:00 succeeded", "01:00:00 succeeded", "02:00:00 succeeded", "03:00:00 succeeded")
		d.expectDrills("01:00:01 succeeded, 03:00:01 succeeded")
		ops := d.verifications()
		if len(ops) != 2 || ops[0].GetSnapshot() != d.ready("prod")[0].GetName() || ops[0].GetRequestedBy() != "schedule nightly" {
			t.Errorf("%v", ops)
		}
	})
}

func TestADrillFollowsTheFirstRunAfterItsTime(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(drilling(&requorumv1.Drill{Every: durationpb.New(150 * time.Minute)}))
		d.pass(6*time.Hour + 30*time.Minute)
		d.expectDrills("00:00:01 succeeded, 03:00:01 succeeded, 06:00:01 succeeded")
	})
}

// What failed is no snapshot to prove, and counts for nothing.
func TestARunThatFailsHasNoDrill(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.fails = errors.New("the disk is full")
		d.apply(drilling(&requorumv1.Drill{After: 1}))
		d.pass(90 * time.Minute)
		d.expectDrills("")
	})
}

func TestADrillThatFailsIsTold(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.setUnproved(errors.New("HashKV differs"))
		d.apply(drilling(&requorumv1.Drill{After: 1}))
		d.pass(30 * time.Minute)
		d.expect("00:00:00 succeeded") // the snapshot is there
		d.expectDrills("00:00:01 failed")
		s, err := d.Get("nightly")
		if err != nil || !strings.Contains(s.GetStatus().GetDrill().GetReason(), "HashKV differs") || s.GetStatus().GetDrill().GetEnded() == nil {
			t.Errorf("%v, %v", s.GetStatus(), err)
		}
		d.setUnproved(nil)
		d.pass(time.Hour)
		d.expectDrills("00:00:01 failed, 01:00:01 succeeded")
		if s, err = d.Get("nightly"); err != nil || s.GetStatus().GetDrill().GetResult() != succeeded {
			t.Errorf("%v, %v", s.GetStatus(), err)
		}
		d.apply(drilling(nil))
		if s, err = d.Get("nightly"); err != nil || s.GetStatus().GetDrill() != nil {
			t.Errorf("a schedule without drills still tells of one: %v, %v", s.GetStatus(), err)
		}
	})
}

// drillDue applies a paused schedule and has it take a snapshot, so that the drill is due as soon as it is resumed.
func (d *desk) drillDue(t *testing.T) *requorumv1.Schedule {
	t.Helper()
	s := drilling(&requorumv1.Drill{After: 1})
	s.Paused = true
	d.apply(s)
	if _, _, err := d.Trigger("nightly", "", "alice"); err != nil {
		t.Fatal(err)
	}
	d.pass(time.Minute)
	return s
}

// A drill waits for a restore like anybody else.
func TestADrillWaitsForARestore(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.drillDue(t)
		restore := d.restore("prod")
		if _, err := d.SetPaused("nightly", false, "alice"); err != nil {
			t.Fatal(err)
		}
		d.pass(30 * time.Minute)
		d.expectDrills("00:00:01 delayed")
		d.pass(time.Hour)
		if got := d.drilled(); !strings.HasPrefix(got, "00:00:01 succeeded at 01:01:00") {
			t.Error(got)
		}
		runs, err := d.Runs("nightly", "", 100)
		if err != nil || !strings.Contains(runs[len(runs)-1].GetDrill().GetReason(), "waited for operation "+restore.GetId()+" (restore)") {
			t.Errorf("%v, %v", runs, err)
		}
	})
}

// A controller that dies at any time of a drill does it once.
func TestADrillIsCarriedOnAfterARestart(t *testing.T) {
	for _, at := range []time.Duration{1500 * time.Millisecond, 30 * time.Second, time.Minute + time.Second} {
		atDesk(t, func(d *desk) {
			d.apply(drilling(&requorumv1.Drill{After: 1}))
			d.pass(at)
			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
			d.pass(10 * time.Minute)
			d.start(d.db)
			d.pass(10 * time.Minute)
			d.expectDrills("00:00:01 succeeded")
			if n := len(d.verifications()); n != 1 {
				t.Errorf("stopped after %s: %d drills, want 1", at, n)
			}
		})
	}
}

// What was missed while the controller was away is caught up once, with the run that is.
func TestMissedDrillsAreMadeUpForOnce(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(drilling(&requorumv1.Drill{Every: durationpb.New(time.Hour)}))
		d.pass(30 * time.Minute)
		if err := d.stop(); err != nil {
			t.Fatal(err)
		}
		d.pass(5 * time.Hour)
		d.start(d.db)
		d.pass(10 * time.Minute)
		d.expectDrills("00:00:01 succeeded, 05:30:01 succeeded")
	})
}

// A drill that is due does not begin while its schedule is paused, and then proves what is the newest by then.
func TestADrillOfAPausedScheduleWaits(t *testing.T) {
	atDesk(t, func(d *desk) {
		s := drilling(&requorumv1.Drill{After: 1})
		s.Paused = true
		d.apply(s)
		for range 2 {
			if _, _, err := d.Trigger("nightly", "", "alice"); err != nil {
				t.Fatal(err)
			}
			d.pass(10 * time.Minute)
		}
		if n := len(d.verifications()); n != 0 {
			t.Errorf("%d drills of a paused schedule", n)
		}
		if _, err := d.SetPaused("nightly", false, "alice"); err != nil {
			t.Fatal(err)
		}
		d.pass(10 * time.Minute)
		d.expectDrills("00:00:01 succeeded at 00:20:00 of a later one, 00:21:01 succeeded") // the second one follows a run that came due
	})
}

func TestADrillWithoutASnapshotFails(t *testing.T) {
	atDesk(t, func(d *desk) {
		s := d.drillDue(t)
		err := d.Catalog.Update("prod", d.ready("prod")[0].GetName(), func(s *requorumv1.Snapshot) { s.Copies = nil })
		if err != nil {
			t.Fatal(err)
		}
		s.Paused = false
		d.apply(s)
		d.pass(time.Minute)
		if !strings.Contains(d.drilled(), "00:00:01 failed") {
			t.Error(d.drilled())
		}
	})
}

// verifier is what starts operations, with the answers of Verify in place of its own.
type verifier struct {
	Snapshots
	names   []string // of the snapshots it was asked to prove
	answers []error
}

func (v *verifier) Verify(req *requorumv1.VerifySnapshotRequest, by string) (*requorumv1.Operation, error) {
	v.names = append(v.names, req.GetName())
	if len(v.answers) > 0 {
		err := v.answers[0]
		v.answers = v.answers[1:]
		return nil, err
	}
	return v.Snapshots.Verify(req, by)
}

// The snapshot that was chosen may be removed before the drill can begin.
func TestADrillTurnsToTheNextSnapshotIfItsOwnIsRemoved(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.apply(drilling(nil))
		d.pass(time.Hour + time.Minute)
		names := []string{d.ready("prod")[0].GetName(), d.ready("prod")[1].GetName()}
		v := &verifier{Snapshots: d.Snapshots, answers: []error{&snapshot.InvalidError{Message: "it is DELETING, not READY"}}}
		known := d.scheduleRecord("nightly")
		known.Drill, known.DrillRun = &requorumv1.ScheduleDrill{Snapshot: names[0], Result: pending, Due: known.GetSince()}, "run"
		known.Schedule.Drill = &requorumv1.Drill{After: 1}
		if err := d.Store.Update(func(tx store.Tx) error { return save(tx, known) }); err != nil {
			t.Fatal(err)
		}
		if err := d.Catalog.Write(func(tx store.Tx) error { return tx.Delete(store.Snapshots, "prod/"+names[0]) }); err != nil {
			t.Fatal(err)
		}
		one := &Scheduler{Store: d.Store, Catalog: d.Catalog, Engine: d.engine, Snapshots: v, Fleet: d, Log: d.Log}
		for range 2 {
			if err := one.drillOn(context.Background(), d.scheduleRecord("nightly")); err != nil {
				t.Fatal(err)
			}
		}
		if got := d.scheduleRecord("nightly").GetDrill(); got.GetSnapshot() != names[1] || got.GetOperationId() == "" || len(v.names) != 2 {
			t.Errorf("%v, asked for %v", got, v.names)
		}
	})
}

func (d *desk) scheduleRecord(name string) (rec *journalv1.ScheduleRecord) {
	d.Helper()
	err := d.Store.View(func(tx store.Tx) (err error) {
		rec, err = load(tx, name)
		return err
	})
	if err != nil {
		d.Fatal(err)
	}
	return rec
}
