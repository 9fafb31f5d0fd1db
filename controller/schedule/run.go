package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/timetable"
)

const (
	pending   = requorumv1.RunResult_RUN_RESULT_PENDING
	delayed   = requorumv1.RunResult_RUN_RESULT_DELAYED
	running   = requorumv1.RunResult_RUN_RESULT_RUNNING
	succeeded = requorumv1.RunResult_RUN_RESULT_SUCCEEDED
	failed    = requorumv1.RunResult_RUN_RESULT_FAILED
)

// errDropped ends a run that must not begin any more: its schedule is gone or another one now, or paused.
var errDropped = errors.New("the schedule was paused or changed before the run could begin")

// tend looks after one schedule: what has begun is carried on, what is due is begun. It returns when the schedule is
// gone or ctx has ended.
func (s *Scheduler) tend(ctx context.Context, name string, woken <-chan struct{}) error {
	for ctx.Err() == nil {
		rec, open, err := s.look(name)
		var gone *NotFoundError
		switch {
		case errors.As(err, &gone):
			return nil
		case err != nil:
			return err
		case open != nil:
			err = s.carryOn(ctx, rec, open)
		case drills(rec):
			err = s.drillOn(ctx, rec)
		default:
			err = s.await(ctx, rec, woken)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// look returns a schedule and the oldest of its runs that has not ended, nil if all have.
func (s *Scheduler) look(name string) (rec *journalv1.ScheduleRecord, open *journalv1.RunRecord, err error) {
	err = s.Store.View(func(tx store.Tx) error {
		if rec, err = load(tx, name); err != nil {
			return err
		}
		runs, err := runsOf(tx, name)
		for _, r := range runs {
			if open == nil && r.GetRun().GetEnded() == nil {
				open = r
			}
		}
		return err
	})
	return rec, open, err
}

// await begins the next run when it is due, or tries the last one again, unless it is woken before.
func (s *Scheduler) await(ctx context.Context, rec *journalv1.ScheduleRecord, woken <-chan struct{}) error {
	due, ok, err := nextDue(rec)
	if err != nil {
		return err
	}
	last, err := s.nextTry(rec, due, ok)
	switch {
	case err != nil:
		return err
	case rec.GetSchedule().GetPaused() || !ok && last == nil:
		wait(ctx, woken, time.Hour)
		return nil
	case last == nil && until(ctx, woken, due):
		return s.begin(rec, due)
	case last != nil && until(ctx, woken, last.GetAgain().AsTime()):
		return s.retry(rec, last)
	}
	return nil
}

// begin records that a run is due. It stands for all times that have come due until now.
func (s *Scheduler) begin(known *journalv1.ScheduleRecord, due time.Time) error {
	table, err := timetable.New(known.GetSchedule())
	if err != nil {
		return err
	}
	latest, missed := table.Latest(due, time.Now())
	return s.record(known, func(tx store.Tx, rec *journalv1.ScheduleRecord) (*journalv1.RunRecord, error) {
		run, err := newRun(tx, rec, latest)
		if err != nil {
			return nil, err
		}
		run.Run.Missed = missed
		rec.Since, rec.Begun = timestamppb.New(latest), true
		return run, save(tx, rec)
	})
}

// record writes the run that next makes, if the schedule is as known. It may make none.
func (s *Scheduler) record(known *journalv1.ScheduleRecord, next func(store.Tx, *journalv1.ScheduleRecord) (*journalv1.RunRecord, error)) error {
	return s.Store.Update(func(tx store.Tx) error {
		rec, err := load(tx, known.GetSchedule().GetName())
		if err != nil || !proto.Equal(rec, known) {
			return ignoreGone(err) // look again
		}
		run, err := next(tx, rec)
		if err != nil || run == nil {
			return err
		}
		run.Save.RequestId = fmt.Sprintf("schedule-%s-%s-%s", rec.GetUid(), run.GetRun().GetDue().AsTime().Format(time.RFC3339), run.GetRun().GetId())
		return saveRun(tx, run)
	})
}

func ignoreGone(err error) error {
	var gone *NotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	return err
}

func newRun(tx store.Tx, rec *journalv1.ScheduleRecord, due time.Time) (*journalv1.RunRecord, error) {
	sched := rec.GetSchedule()
	id, err := nextRunID(tx, sched.GetName())
	return &journalv1.RunRecord{
		Run: &requorumv1.ScheduleRun{Id: id, Schedule: sched.GetName(), Cluster: sched.GetCluster(), Due: timestamppb.New(due), Result: pending},
		Save: &requorumv1.SaveSnapshotRequest{
			Cluster: sched.GetCluster(), Labels: sched.GetLabels(), Copies: sched.GetCopies(), AllowDegraded: sched.GetAllowDegraded(),
			LocalSealing: sched.GetLocalSealing(), Files: sched.GetFiles(), Remote: sched.GetRemoteStorage().GetRemote(), AllowRemoteFailure: sched.GetRemoteStorage() != nil,
		},
	}, err
}

// carryOn takes a run one step on: begins its operation, or waits for the end of it.
func (s *Scheduler) carryOn(ctx context.Context, rec *journalv1.ScheduleRecord, run *journalv1.RunRecord) error {
	if id := run.GetRun().GetOperationId(); id != "" {
		return s.conclude(ctx, run, id)
	}
	if rec.GetSchedule().GetAllowDegraded() {
		s.gather(ctx, rec.GetSchedule().GetCluster()) // who is only on the way back is not left out
	}
	op, err := s.Snapshots.SaveFor(run.GetSave(), "schedule "+rec.GetSchedule().GetName(), s.purpose(rec, run))
	var busy *operation.BusyError
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil && run.GetRun().GetOperationId() == "": // the request had begun it before
		adopt(run.GetRun(), op)
		return s.update(run)
	case err == nil:
		return nil
	case errors.As(err, &busy):
		return s.delay(ctx, run, busy.Running)
	case errors.Is(err, operation.ErrNotDriving):
		wait(ctx, nil, notDriving)
		return nil
	}
	return s.finish(run, failed, err.Error(), nil)
}

func (s *Scheduler) gather(ctx context.Context, cluster string) {
	nodes, err := s.Catalog.NodeNames(cluster)
	if err != nil {
		return // the save reads the same records and reports the error
	}
	s.Fleet.Gather(ctx, cluster, nodes)
}

// purpose says what a run's snapshot is for, and notes in the transaction that accepts its operation that the run has
// begun: there is never one without the other.
func (s *Scheduler) purpose(known *journalv1.ScheduleRecord, run *journalv1.RunRecord) snapshot.Purpose {
	sched := known.GetSchedule()
	prefix := sched.GetPrefix()
	if prefix == "" {
		prefix = sched.GetName()
	}
	return snapshot.Purpose{
		Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED, Prefix: prefix, Schedule: sched.GetName(),
		Begin: func(tx store.Tx, op *requorumv1.Operation) error {
			rec, err := load(tx, sched.GetName())
			if err != nil {
				return err
			}
			due := run.GetRun().GetTriggeredBy() == ""
			if rec.GetUid() != known.GetUid() || due && rec.GetSchedule().GetPaused() {
				return errDropped
			}
			if due {
				if err := standFor(tx, rec, run.GetRun()); err != nil {
					return err
				}
			}
			adopt(run.GetRun(), op)
			return saveRun(tx, run)
		},
	}
}

// adopt makes an operation that of a run.
func adopt(r *requorumv1.ScheduleRun, op *requorumv1.Operation) {
	r.Result, r.OperationId, r.Snapshot, r.Began = running, op.GetId(), op.GetSnapshot(), op.GetCreated()
}

// standFor makes a run that begins stand for the times that came due while it waited. Elapsed time counts from now, and
// goes on counting while a run is tried again.
func standFor(tx store.Tx, rec *journalv1.ScheduleRecord, run *requorumv1.ScheduleRun) error {
	now := time.Now()
	table, err := timetable.New(rec.GetSchedule())
	if err != nil {
		return err
	}
	next := table.Next(rec.GetSince().AsTime())
	switch passed := !next.IsZero() && !next.After(now); {
	case rec.GetSchedule().GetCron() == "" && (passed || run.GetRetry() == 0):
		rec.Since = timestamppb.New(now)
	case rec.GetSchedule().GetCron() != "" && passed:
		latest, others := table.Latest(next, now)
		run.Missed += others + 1
		rec.Since = timestamppb.New(latest)
	default:
		return nil
	}
	return save(tx, rec)
}

// delay records that a run waits for an operation, and waits for its end.
func (s *Scheduler) delay(ctx context.Context, run *journalv1.RunRecord, id string) error {
	reason := "waited for operation " + id
	if op, err := s.Engine.Get(id); err == nil {
		reason += " (" + kindName(op.GetKind()) + ")"
	}
	if run.GetRun().GetReason() != reason {
		run.Run.Result, run.Run.Reason = delayed, reason
		if err := s.update(run); err != nil {
			return err
		}
		s.Log.Info("run waits", "schedule", run.GetRun().GetSchedule(), "operation", id)
	}
	_, err := s.follow(ctx, id)
	var gone *operation.NotFoundError
	if errors.As(err, &gone) {
		return nil // it has ended long ago
	}
	return err
}

func kindName(k requorumv1.OperationKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "OPERATION_KIND_"))
}

// update writes a run, unless its schedule is gone.
func (s *Scheduler) update(run *journalv1.RunRecord) error {
	return s.Store.Update(func(tx store.Tx) error {
		if _, err := load(tx, run.GetRun().GetSchedule()); err != nil {
			return ignoreGone(err)
		}
		return saveRun(tx, run)
	})
}

// conclude waits for the end of a run's operation and records it.
func (s *Scheduler) conclude(ctx context.Context, run *journalv1.RunRecord, id string) error {
	op, err := s.follow(ctx, id)
	var gone *operation.NotFoundError
	switch {
	case errors.As(err, &gone):
		return s.finish(run, failed, "the journal does not know its operation any more", nil)
	case err != nil || op == nil:
		return err
	case op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED:
		return s.finish(run, succeeded, strings.Join(append(nonempty(run.GetRun().GetReason()), op.GetWarnings()...), "; "), op)
	}
	return s.finish(run, failed, why(op), op)
}

func nonempty(reason string) []string {
	if reason == "" {
		return nil
	}
	return []string{reason}
}

// why says in one line why an operation did not succeed.
func why(op *requorumv1.Operation) string {
	f := op.GetFailure()
	state := strings.ToLower(strings.TrimPrefix(op.GetState().String(), "OPERATION_STATE_"))
	text := f.GetMessage()
	if f.GetNode() != "" && !strings.HasPrefix(text, f.GetNode()+": ") {
		text = f.GetNode() + ": " + text
	}
	if f.GetAdvice() != "" {
		text += "; " + f.GetAdvice()
	}
	return strings.TrimSuffix(state+": "+text, ": ")
}

// finish records the end of a run.
func (s *Scheduler) finish(run *journalv1.RunRecord, result requorumv1.RunResult, reason string, op *requorumv1.Operation) error {
	r := run.GetRun()
	r.Result, r.Reason, r.Ended = result, reason, timestamppb.Now()
	if op.GetEnded() != nil {
		r.Ended = op.GetEnded()
	}
	if result != succeeded {
		r.Snapshot = "" // of what failed nothing is left
	}
	err := s.Store.Update(func(tx store.Tx) error {
		rec, err := load(tx, r.GetSchedule())
		if err != nil {
			return ignoreGone(err)
		}
		if result == succeeded {
			err = countForDrill(tx, rec, r)
		} else {
			r.Again, err = again(rec, r, op)
		}
		if err != nil {
			return err
		}
		if err := saveRun(tx, run); err != nil {
			return err
		}
		return pruneRuns(tx, r.GetSchedule())
	})
	if err != nil {
		return err
	}
	if result == succeeded {
		s.Log.Info("run succeeded", "schedule", r.GetSchedule(), "snapshot", r.GetSnapshot())
		s.sweepers.wake(r.GetCluster())
	} else {
		s.Log.Error("run failed", "schedule", r.GetSchedule(), "reason", reason)
	}
	return nil
}

// Trigger begins a run of a schedule now. While another operation changes the cluster it is refused.
func (s *Scheduler) Trigger(name, requestID, by string) (*requorumv1.Operation, *requorumv1.ScheduleRun, error) {
	if requestID == "" {
		requestID = ulid.Make().String()
	}
	var (
		rec *journalv1.ScheduleRecord
		run *journalv1.RunRecord
	)
	err := s.Store.View(func(tx store.Tx) (err error) {
		if rec, err = load(tx, name); err != nil {
			return err
		}
		if run, err = triggered(tx, name, requestID); run != nil || err != nil {
			return err
		}
		run, err = newRun(tx, rec, time.Now())
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if id := run.GetRun().GetOperationId(); id != "" {
		op, err := s.Engine.Get(id)
		return op, run.GetRun(), err
	}
	run.TriggerId, run.Run.TriggeredBy = requestID, by
	run.Save.RequestId = fmt.Sprintf("trigger-%s-%s", rec.GetUid(), requestID)
	op, err := s.Snapshots.SaveFor(run.GetSave(), by, s.purpose(rec, run))
	if err != nil {
		return nil, nil, err
	}
	if run.GetRun().GetOperationId() == "" { // the same request, sent twice at once, has begun it
		adopt(run.GetRun(), op)
	}
	s.runners.wake(name)
	return op, run.GetRun(), nil
}

// triggered returns the run that a request has triggered, nil if there is none.
func triggered(tx store.Tx, name, requestID string) (*journalv1.RunRecord, error) {
	runs, err := runsOf(tx, name)
	for _, r := range runs {
		if r.GetTriggerId() == requestID {
			return r, nil
		}
	}
	return nil, err
}
