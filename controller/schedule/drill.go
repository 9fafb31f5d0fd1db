package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
)

// countForDrill counts a run that has succeeded, and makes a drill due after it where it is time for one. A drill that is
// still to be done stands for those that come due meanwhile.
func countForDrill(tx store.Tx, rec *journalv1.ScheduleRecord, run *requorumv1.ScheduleRun) error {
	if rec.GetSchedule().GetDrill() == nil {
		return nil
	}
	rec.RunsSinceDrill++
	if !open(rec.GetDrill()) && timeForDrill(rec, time.Now()) {
		rec.Drill = &requorumv1.ScheduleDrill{Due: timestamppb.Now(), Result: pending}
		rec.DrillRun, rec.RunsSinceDrill = run.GetId(), 0
		run.Drill = rec.GetDrill()
	}
	return save(tx, rec)
}

func timeForDrill(rec *journalv1.ScheduleRecord, now time.Time) bool {
	wanted := rec.GetSchedule().GetDrill()
	if wanted.GetEvery() == nil {
		return rec.GetRunsSinceDrill() >= wanted.GetAfter()
	}
	return rec.GetDrill() == nil || now.Sub(rec.GetDrill().GetDue().AsTime()) >= wanted.GetEvery().AsDuration()
}

// open tells whether a drill is still to be done, or under way.
func open(d *requorumv1.ScheduleDrill) bool { return d != nil && d.GetEnded() == nil }

// drills tells whether there is something to do for a drill. One that has begun is followed, whatever has become of the
// schedule; otherwise it waits while that is paused.
func drills(rec *journalv1.ScheduleRecord) bool {
	return open(rec.GetDrill()) && (rec.GetDrill().GetOperationId() != "" || !rec.GetSchedule().GetPaused())
}

// drillOn takes the drill of a schedule one step on: chooses its snapshot, begins its operation, or waits for the end of it.
func (s *Scheduler) drillOn(ctx context.Context, rec *journalv1.ScheduleRecord) error {
	d := proto.CloneOf(rec.GetDrill())
	switch {
	case d.GetOperationId() != "":
		return s.concludeDrill(ctx, rec, d)
	case rec.GetSchedule().GetDrill() == nil:
		return s.finishDrill(rec, d, failed, "the schedule was changed and has no drills any more", nil)
	case d.GetSnapshot() == "":
		return s.chooseForDrill(rec, d)
	}
	op, err := s.Snapshots.Verify(&requorumv1.VerifySnapshotRequest{
		RequestId: fmt.Sprintf("drill-%s-%s", rec.GetUid(), rec.GetDrillRun()), // asked for again after a crash it is the same operation
		Cluster:   rec.GetSchedule().GetCluster(), Name: d.GetSnapshot(),
	}, "schedule "+rec.GetSchedule().GetName())
	var (
		busy  *operation.BusyError
		gone  *catalog.NotFoundError
		unfit *snapshot.InvalidError
	)
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		d.Result, d.OperationId, d.Began = running, op.GetId(), op.GetCreated()
		return s.saveDrill(rec, d)
	case errors.As(err, &busy):
		return s.delayDrill(ctx, rec, d, busy.Running)
	case errors.Is(err, operation.ErrNotDriving):
		wait(ctx, nil, notDriving)
		return nil
	case errors.As(err, &gone), errors.As(err, &unfit): // the retention has removed it meanwhile
		if newest, err := s.newestOf(rec.GetSchedule()); err != nil || newest != d.GetSnapshot() {
			d.Snapshot = newest
			return errors.Join(err, s.saveDrill(rec, d))
		}
	}
	return s.finishDrill(rec, d, failed, err.Error(), nil)
}

// chooseForDrill chooses the newest snapshot of a schedule that a node has a good copy of.
func (s *Scheduler) chooseForDrill(rec *journalv1.ScheduleRecord, d *requorumv1.ScheduleDrill) error {
	newest, err := s.newestOf(rec.GetSchedule())
	if err != nil {
		return err
	}
	if newest == "" {
		return s.finishDrill(rec, d, failed, "no node holds a READY snapshot of the schedule", nil)
	}
	d.Snapshot = newest
	return s.saveDrill(rec, d)
}

// newestOf returns the name of the newest READY snapshot of a schedule that a node has a good copy of, empty if there is none.
func (s *Scheduler) newestOf(sched *requorumv1.Schedule) (string, error) {
	snapshots, err := s.present(sched.GetCluster()) // newest first
	for _, snap := range snapshots {
		if catalog.Good(snap) && snap.GetSchedule() == sched.GetName() && len(snapshot.GoodOn(snap.GetCopies())) > 0 {
			return snap.GetName(), nil
		}
	}
	return "", err
}

// delayDrill records that a drill waits for an operation, and waits for its end.
func (s *Scheduler) delayDrill(ctx context.Context, rec *journalv1.ScheduleRecord, d *requorumv1.ScheduleDrill, id string) error {
	reason := "waited for operation " + id
	if op, err := s.Engine.Get(id); err == nil {
		reason += " (" + kindName(op.GetKind()) + ")"
	}
	if d.GetReason() != reason {
		d.Result, d.Reason = delayed, reason
		if err := s.saveDrill(rec, d); err != nil {
			return err
		}
	}
	_, err := s.follow(ctx, id)
	return ignoreForgotten(err)
}

// concludeDrill waits for the end of a drill's operation and records it.
func (s *Scheduler) concludeDrill(ctx context.Context, rec *journalv1.ScheduleRecord, d *requorumv1.ScheduleDrill) error {
	op, err := s.follow(ctx, d.GetOperationId())
	var gone *operation.NotFoundError
	switch {
	case errors.As(err, &gone):
		return s.finishDrill(rec, d, failed, "the journal does not know its operation any more", nil)
	case err != nil || op == nil:
		return err
	case op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED:
		return s.finishDrill(rec, d, succeeded, d.GetReason(), op)
	}
	return s.finishDrill(rec, d, failed, why(op), op)
}

// finishDrill records the end of a drill.
func (s *Scheduler) finishDrill(rec *journalv1.ScheduleRecord, d *requorumv1.ScheduleDrill, result requorumv1.RunResult, reason string, op *requorumv1.Operation) error {
	d.Result, d.Reason, d.Ended = result, reason, timestamppb.Now()
	if op.GetEnded() != nil {
		d.Ended = op.GetEnded()
	}
	if err := s.saveDrill(rec, d); err != nil {
		return err
	}
	name := rec.GetSchedule().GetName()
	if result == succeeded {
		s.Log.Info("drill succeeded", "schedule", name, "snapshot", d.GetSnapshot())
	} else {
		s.Log.Error("drill failed", "schedule", name, "snapshot", d.GetSnapshot(), "reason", reason)
	}
	return nil
}

// saveDrill writes a drill, with the schedule and with its run, unless the schedule is gone.
func (s *Scheduler) saveDrill(known *journalv1.ScheduleRecord, d *requorumv1.ScheduleDrill) error {
	name := known.GetSchedule().GetName()
	return s.Store.Update(func(tx store.Tx) error {
		rec, err := load(tx, name)
		if err != nil || rec.GetUid() != known.GetUid() {
			return ignoreGone(err)
		}
		rec.Drill = d
		if err := save(tx, rec); err != nil {
			return err
		}
		run := new(journalv1.RunRecord)
		err = store.Load(tx, store.ScheduleRuns, runKey(name, rec.GetDrillRun()), run)
		if errors.Is(err, store.ErrNotFound) {
			return nil // it was forgotten, as the oldest of many
		}
		if err != nil {
			return err
		}
		run.Run.Drill = d
		return saveRun(tx, run)
	})
}
