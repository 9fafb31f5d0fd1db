package schedule

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/store"
)

var errFull = errors.New("disk full")

// retrying is an hourly schedule that tries again as said.
func retrying(limit uint32, after time.Duration) *requorumv1.Schedule {
	s := hourly()
	s.Retry = &requorumv1.Retry{Limit: proto.Uint32(limit), After: durationpb.New(after)}
	return s
}

// Each try is a run of the same due time with its own reason, and the tries end with the first that succeeds.
func TestARunThatFailsIsTriedAgain(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.setFails(errFull)
		d.apply(hourly())
		d.pass(70 * time.Minute)
		d.expect("01:00:00 failed, again 01:05:01", "01:00:00 failed at 01:05:01, retry 1, again 01:15:02")
		runs, err := d.Runs("nightly", "", 10)
		if err != nil || len(runs) != 2 {
			t.Fatalf("%v, %v", runs, err)
		}
		for _, r := range runs {
			if !strings.Contains(r.GetReason(), "reverted: disk full") || r.GetSnapshot() != "" {
				t.Errorf("run %v", r)
			}
		}
		shown, err := d.Get("nightly")
		if err != nil || len(shown.GetStatus().GetRecords()) != 2 || clock(shown.GetStatus().GetNext()) != "02:00:00" {
			t.Errorf("shown as %v, %v", shown, err)
		}
		d.setFails(nil)
		d.pass(time.Hour)
		d.expect("01:00:00 failed, again 01:05:01", "01:00:00 failed at 01:05:01, retry 1, again 01:15:02",
			"01:00:00 succeeded at 01:15:02, retry 2", "02:00:00 succeeded")
	})
}

func TestRetriesAreBounded(t *testing.T) {
	elapsed := every(time.Hour)
	elapsed.Retry = &requorumv1.Retry{After: durationpb.New(40 * time.Minute)}
	for name, c := range map[string]struct {
		schedule *requorumv1.Schedule
		want     []string // at 01:45
	}{
		"by number": {hourly(), []string{
			"01:00:00 failed, again 01:05:01", "01:00:00 failed at 01:05:01, retry 1, again 01:15:02", "01:00:00 failed at 01:15:02, retry 2",
		}},
		"by choice": {retrying(1, time.Minute), []string{"01:00:00 failed, again 01:01:01", "01:00:00 failed at 01:01:01, retry 1"}},
		"by the next run": {retrying(10, 10*time.Minute), []string{
			"01:00:00 failed, again 01:10:01", "01:00:00 failed at 01:10:01, retry 1, again 01:30:02", "01:00:00 failed at 01:30:02, retry 2",
		}},
		"by the next run of elapsed time, which retries do not put off": {elapsed, []string{
			"00:00:00 failed, again 00:40:01", "00:00:00 failed at 00:40:01, retry 1", "01:00:00 failed, again 01:40:01", "01:00:00 failed at 01:40:01, retry 1",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.setFails(errFull)
				d.apply(c.schedule)
				d.pass(105 * time.Minute)
				d.expect(c.want...)
			})
		})
	}
}

// What comes again until somebody changes a configuration is not tried again; what a check refused for another reason is.
func TestWhatIsOfNoUseIsNotTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		refuses error
		nodes   bool
		want    string
	}{
		"refused":                       {failure.On("a", "its agent is not connected", ""), true, "01:00:00 failed, again 01:05:00"},
		"refused for the configuration": {&failure.Error{Node: "a", Message: "no such set", Configuration: true}, true, "01:00:00 failed"},
		"refused before anything began": {nil, false, "01:00:00 failed"},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.refuses = c.refuses
				d.apply(hourly())
				if !c.nodes {
					if err := d.db.Update(func(tx store.Tx) error { return tx.Delete(store.Nodes, "prod/a") }); err != nil {
						t.Fatal(err)
					}
				}
				d.pass(63 * time.Minute)
				d.expect(c.want)
			})
		})
	}
}

func TestWhatAPersonHasCancelledIsNotTriedAgain(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.takes = 10 * time.Minute
		d.apply(hourly())
		d.pass(65 * time.Minute)
		if _, err := d.engine.Cancel(d.engine.Running("prod")); err != nil {
			t.Fatal(err)
		}
		d.pass(40 * time.Minute)
		d.expect("01:00:00 failed")
	})
}

// A try waits for a restore as any run does, and stands for what comes due meanwhile.
func TestARetryWaitsForARestore(t *testing.T) {
	for name, c := range map[string]struct {
		schedule *requorumv1.Schedule
		want     []string
	}{
		"cron": {hourly(), []string{
			"01:00:00 failed, again 01:05:01", "01:00:00 succeeded at 02:03:00 for 1 more, retry 1", "03:00:00 succeeded",
		}},
		"every": {every(time.Hour), []string{
			"00:00:00 failed, again 00:05:01", "00:00:00 succeeded at 01:03:00, retry 1", "02:03:00 succeeded",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.setFails(errFull)
				d.apply(c.schedule)
				if name == "cron" {
					d.pass(time.Hour)
				}
				d.pass(3 * time.Minute)
				d.setFails(nil)
				d.restore("prod") // for an hour
				d.pass(30 * time.Minute)
				if runs, err := d.Runs("nightly", "", 1); err != nil || runs[0].GetResult() != delayed || runs[0].GetRetry() != 1 {
					t.Errorf("%v, %v", runs, err)
				}
				d.pass(91 * time.Minute)
				d.expect(c.want...)
			})
		})
	}
}

// A controller that is away while a try is due makes up for it, unless the next run has come due as well.
func TestARestartForgetsNoRetryAndAddsNone(t *testing.T) {
	for away, want := range map[time.Duration][]string{
		time.Minute:      {"01:00:00 failed, again 01:05:01", "01:00:00 succeeded at 01:05:01, retry 1", "02:00:00 succeeded"},
		20 * time.Minute: {"01:00:00 failed, again 01:05:01", "01:00:00 succeeded at 01:22:00, retry 1", "02:00:00 succeeded"},
		70 * time.Minute: {"01:00:00 failed, again 01:05:01", "02:00:00 succeeded at 02:12:00"},
	} {
		t.Run(away.String(), func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.setFails(errFull)
				d.apply(hourly())
				d.pass(62 * time.Minute)
				if err := d.stop(); err != nil {
					t.Fatal(err)
				}
				d.setFails(nil)
				d.pass(away)
				d.start(d.db)
				d.pass(150*time.Minute - 62*time.Minute - away)
				d.expect(want...)
			})
		})
	}
}

// Whichever write a controller dies at, the tries are those that there would have been.
func TestACrashAtAnyWriteNeitherDoublesNorLosesARetry(t *testing.T) {
	prepare := func(d *desk) {
		d.setFails(errFull)
		d.apply(retrying(1, time.Minute))
		d.pass(59 * time.Minute)
	}
	atAnyWrite(t, 15, prepare, 10*time.Minute, 10*time.Minute, func(d *desk, n int, _ bool) {
		runs, err := d.Runs("nightly", "", 10)
		if err != nil || len(runs) != 2 {
			t.Fatalf("after %d writes: %d tries, %v\n%s", n, len(runs), err, d.history())
		}
		operations := make(map[string]bool)
		for i, r := range runs {
			operations[r.GetOperationId()] = true
			if r.GetRetry() != uint32(1-i) || clock(r.GetDue()) != "01:00:00" || r.GetResult() != failed {
				t.Errorf("after %d writes, run %v", n, r)
			}
		}
		ops, err := d.engine.List("prod", 1000)
		if err != nil || len(operations) != 2 || len(ops) != 2 {
			t.Errorf("after %d writes: %d operations, %v\n%s", n, len(ops), err, d.history())
		}
	})
}

// A person may change what becomes of a run that has failed, until it is tried again.
func TestWhatAPersonDoesMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*desk) error
		want []string // at 01:30
	}{
		"nothing": {func(*desk) error { return nil }, []string{"01:00:00 failed, again 01:05:01", "01:00:00 succeeded at 01:05:01, retry 1"}},
		"pauses":  {func(d *desk) error { _, err := d.SetPaused("nightly", true, "bob"); return err }, []string{"01:00:00 failed, again 01:05:01"}},
		"pauses for a while": {func(d *desk) error {
			_, paused := d.SetPaused("nightly", true, "bob")
			d.pass(10 * time.Minute)
			_, resumed := d.SetPaused("nightly", false, "bob")
			return errors.Join(paused, resumed)
		}, []string{"01:00:00 failed, again 01:05:01"}},
		"forbids retries": {func(d *desk) error { d.apply(retrying(0, time.Minute)); return nil }, []string{"01:00:00 failed, again 01:05:01"}},
		"saves with success": {func(d *desk) error { _, _, err := d.Trigger("nightly", "r", "bob"); return err }, []string{
			"01:00:00 failed, again 01:05:01", "01:02:00 succeeded",
		}},
		"saves in vain": {func(d *desk) error {
			d.setFails(errFull)
			_, _, err := d.Trigger("nightly", "r", "bob")
			d.pass(time.Minute)
			d.setFails(nil)
			return err
		}, []string{"01:00:00 failed, again 01:05:01", "01:02:00 failed", "01:00:00 succeeded at 01:05:01, retry 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, func(d *desk) {
				d.setFails(errFull)
				d.apply(hourly())
				d.pass(62 * time.Minute)
				d.setFails(nil)
				began := time.Now()
				if err := c.do(d); err != nil {
					t.Fatal(err)
				}
				d.pass(28*time.Minute - time.Since(began))
				d.expect(c.want...)
			})
		})
	}
}

// A try that was about to begin as a person's own run did is not begun.
func TestATryIsDecidedAsItBegins(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.setFails(errFull)
		d.apply(hourly())
		d.pass(62 * time.Minute)
		d.setFails(nil)
		rec, _, err := d.look("nightly")
		if err != nil {
			t.Fatal(err)
		}
		last, err := d.nextTry(rec, time.Now().Add(time.Hour), true)
		if err != nil || last == nil {
			t.Fatalf("%v, %v", last, err)
		}
		if _, _, err := d.Trigger("nightly", "r", "bob"); err != nil {
			t.Fatal(err)
		}
		if err := d.retry(rec, last); err != nil {
			t.Fatal(err)
		}
		d.pass(10 * time.Minute)
		d.expect("01:00:00 failed, again 01:05:01", "01:02:00 succeeded")
	})
}
