package schedule

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/timetable"
)

// again returns when a run whose operation has just failed is tried again, nil if it is not. What a person has triggered,
// or cancelled, is theirs to try again.
func again(rec *journalv1.ScheduleRecord, run *requorumv1.ScheduleRun, op *requorumv1.Operation) (*timestamppb.Timestamp, error) {
	limit, after := timetable.Retries(rec.GetSchedule())
	if rec.GetSchedule().GetPaused() || run.GetTriggeredBy() != "" || run.GetRetry() >= limit || !curable(op) {
		return nil, nil
	}
	at := run.GetEnded().AsTime().Add(after << run.GetRetry())
	due, ok, err := nextDue(rec)
	if err != nil || ok && !at.Before(due) {
		return nil, err
	}
	return timestamppb.New(at), nil
}

// curable tells whether an operation that failed may do better without anybody's help.
func curable(op *requorumv1.Operation) bool {
	switch op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_REFUSED, requorumv1.OperationState_OPERATION_STATE_REVERTED:
		return !op.GetCancelRequested() && !op.GetFailure().GetConfiguration()
	}
	return false // none began, or nobody knows how it ended
}

// toRetry returns the run that is to be tried again, nil if there is none: the newest one, unless the schedule was changed
// or paused over the time of the try. What a person triggers meanwhile makes it needless if it succeeds.
func toRetry(tx store.Tx, rec *journalv1.ScheduleRecord) (*requorumv1.ScheduleRun, error) {
	runs, err := runsOf(tx, rec.GetSchedule().GetName())
	if err != nil {
		return nil, err
	}
	for i := len(runs) - 1; i >= 0; i-- {
		r := runs[i].GetRun()
		if r.GetTriggeredBy() != "" && r.GetResult() == failed {
			continue
		}
		limit, _ := timetable.Retries(rec.GetSchedule())
		if r.GetAgain() == nil || r.GetRetry() >= limit || !r.GetAgain().AsTime().After(rec.GetSince().AsTime()) {
			return nil, nil
		}
		return r, nil
	}
	return nil, nil
}

// nextTry returns the run that is to be tried again before the next one is due, nil if there is none.
func (s *Scheduler) nextTry(rec *journalv1.ScheduleRecord, due time.Time, ok bool) (last *requorumv1.ScheduleRun, err error) {
	err = s.Store.View(func(tx store.Tx) error {
		last, err = toRetry(tx, rec)
		return err
	})
	if last != nil && ok && (!last.GetAgain().AsTime().Before(due) || !time.Now().Before(due)) {
		return nil, err
	}
	return last, err
}

// retry records that a run is tried again, for the time that it was due.
func (s *Scheduler) retry(known *journalv1.ScheduleRecord, last *requorumv1.ScheduleRun) error {
	return s.record(known, func(tx store.Tx, rec *journalv1.ScheduleRecord) (*journalv1.RunRecord, error) {
		if still, err := toRetry(tx, rec); err != nil || still.GetId() != last.GetId() {
			return nil, err // look again
		}
		run, err := newRun(tx, rec, last.GetDue().AsTime())
		run.Run.Retry = last.GetRetry() + 1
		return run, err
	})
}
