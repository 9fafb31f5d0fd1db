package operation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/failure"
)

const (
	firstRetry     = 200 * time.Millisecond
	longestRetry   = 10 * time.Second
	attentionAfter = 5 // failures in a row before a person is asked to help
)

// drive runs the operation to its end. It returns early, with the operation to be resumed, only when
// ctx ends or the journal cannot be written.
func (r *Run) drive(ctx context.Context) error {
	defer r.beside.Wait()
	for {
		switch r.Operation().GetState() {
		case requorumv1.OperationState_OPERATION_STATE_RUNNING:
			if err := r.forward(ctx); err != nil {
				return err
			}
		case requorumv1.OperationState_OPERATION_STATE_REVERTING:
			if err := r.revert(ctx); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// forward does the steps in order until one fails before the pivot, or all are done.
func (r *Run) forward(ctx context.Context) error {
	for i := range r.plan {
		if r.Operation().GetSteps()[i].GetState() == requorumv1.StepState_STEP_STATE_DONE {
			continue
		}
		failed, err := r.step(ctx, i)
		if err != nil {
			return err
		}
		if failed != nil {
			return r.fail(i, failed)
		}
	}
	return r.succeed()
}

// succeed journals that everything is done, unless a cancellation was accepted after the last step of a plan without
// a pivot: who asked was told that everything is put back.
func (r *Run) succeed() error {
	err := r.finish(requorumv1.OperationState_OPERATION_STATE_SUCCEEDED, requorumv1.Phase_PHASE_FINISHED, nil)
	if errors.Is(err, errCancelled) {
		return r.fail(len(r.plan)-1, errCancelled)
	}
	return err
}

// step does one step. failed is why the operation has to be given up; err is why it cannot be driven on.
func (r *Run) step(ctx context.Context, i int) (failed, err error) {
	for tries := 1; ; tries++ {
		failed, err = r.attempt(ctx, i)
		switch {
		case err != nil:
			return nil, err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case failed == nil:
			return nil, r.outcome(i)
		case !r.Operation().GetPastPivot():
			return failed, nil
		}
		r.Log.Error("step failed and is tried again: there is no way back", "step", r.plan[i].Name, "error", failed)
		if err := r.again(ctx, i, failed, tries); err != nil {
			return nil, err
		}
	}
}

// attempt journals the intent to do a step, and does it.
func (r *Run) attempt(ctx context.Context, i int) (failed, err error) {
	if err := r.point(ctx, i, beforeIntent); err != nil {
		return err, nil
	}
	attempt, cancelled, err := r.intend(i)
	if err != nil {
		return nil, err
	}
	if cancelled {
		return errCancelled, nil
	}
	return r.do(ctx, i, attempt), nil
}

func (r *Run) do(ctx context.Context, i int, attempt uint32) error {
	pos := position{step: i, direction: doing, attempt: fmt.Sprint(attempt), tries: attempt}
	stepCtx, cancel := context.WithCancelCause(withPosition(ctx, pos))
	defer cancel(nil)
	r.arm(cancel)
	defer r.arm(nil)
	if err := r.point(stepCtx, i, afterIntent); err != nil {
		return err
	}
	err := r.plan[i].Do(stepCtx, r)
	if errors.Is(context.Cause(stepCtx), errCancelled) {
		return errCancelled
	}
	if err != nil {
		return err
	}
	return r.point(stepCtx, i, beforeOutcome)
}

// arm lets Cancel end the step that runs; nil disarms. A cancellation that came since the step was
// intended, which found nothing to end, ends it now.
func (r *Run) arm(cancel context.CancelCauseFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel = cancel
	if cancel != nil && cancelled(r.record.GetOperation()) {
		cancel(errCancelled)
	}
}

// interrupt ends the step that runs, if any.
func (r *Run) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cancel != nil {
		r.cancel(errCancelled)
	}
}

// cancelled tells whether the operation has to be put back because a person asked for it.
func cancelled(op *requorumv1.Operation) bool { return op.GetCancelRequested() && !op.GetPastPivot() }

// intend journals that a step is about to be done, unless the operation was cancelled: who asked for that
// before the pivot was told that everything is put back. A step that was being done when the controller
// crashed keeps its attempt, so that its tasks are recognised by the nodes.
func (r *Run) intend(i int) (attempt uint32, refused bool, err error) {
	err = r.Journal(func(rec *journalv1.OperationRecord) {
		op, step := rec.GetOperation(), rec.GetOperation().GetSteps()[i]
		if refused = cancelled(op); refused {
			return
		}
		if step.GetState() != requorumv1.StepState_STEP_STATE_DOING {
			step.Attempt++
			step.State = requorumv1.StepState_STEP_STATE_DOING
		}
		if step.GetStarted() == nil {
			step.Started = now()
		}
		rec.Cursor = uint32(i)
		op.Phase = r.plan[i].Phase
		op.PastPivot = op.GetPastPivot() || r.plan[i].Pivot
		attempt = step.GetAttempt()
	})
	return attempt, refused, err
}

func (r *Run) outcome(i int) error {
	return r.Journal(func(rec *journalv1.OperationRecord) {
		step := rec.GetOperation().GetSteps()[i]
		step.State, step.Ended = requorumv1.StepState_STEP_STATE_DONE, now()
		rec.GetOperation().Attention = ""
	})
}

// again journals that a step past the pivot failed, and waits before the next attempt.
func (r *Run) again(ctx context.Context, i int, failed error, tries int) error {
	err := r.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetOperation().GetSteps()[i].State = requorumv1.StepState_STEP_STATE_FAILED
		if tries >= attentionAfter {
			rec.GetOperation().Attention = fmt.Sprintf("step %s keeps failing: %v", r.plan[i].Name, failed)
		}
	})
	if err != nil {
		return err
	}
	return pause(ctx, tries)
}

// fail journals that a step failed before the pivot, and which way the operation goes from there: a check
// that found something amiss before anything was changed refuses it, anything else is put back.
func (r *Run) fail(i int, failed error) error {
	r.Log.Error("step failed", "step", r.plan[i].Name, "error", failed)
	f := failure.Of(r.plan[i].Name, failed)
	if errors.Is(failed, errCancelled) {
		f = &requorumv1.Failure{Step: r.plan[i].Name, Message: "cancelled on request"}
	}
	note := func(rec *journalv1.OperationRecord) {
		step := rec.GetOperation().GetSteps()[i]
		if step.GetState() != requorumv1.StepState_STEP_STATE_PENDING {
			step.State, step.Ended = requorumv1.StepState_STEP_STATE_FAILED, now()
		}
		rec.GetOperation().Failure = f
	}
	if r.plan[i].Check && !r.plan.undoable(i) && !errors.Is(failed, errCancelled) {
		return r.finish(requorumv1.OperationState_OPERATION_STATE_REFUSED, requorumv1.Phase_PHASE_FAILED, note)
	}
	return r.Journal(func(rec *journalv1.OperationRecord) {
		note(rec)
		op := rec.GetOperation()
		op.State, op.Phase = requorumv1.OperationState_OPERATION_STATE_REVERTING, requorumv1.Phase_PHASE_REVERTING
	})
}

// revert undoes what was done, on every node independently, and never gives up.
func (r *Run) revert(ctx context.Context) error {
	var last int
	r.Read(func(rec *journalv1.OperationRecord) { last = int(rec.GetCursor()) })
	group, groupCtx := errgroup.WithContext(ctx) // a journal that cannot be written ends all of them
	for _, node := range r.Operation().GetNodes() {
		group.Go(func() error { return r.revertNode(groupCtx, node, last) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := r.settleDown(ctx, last); err != nil {
		return err
	}
	return r.finish(requorumv1.OperationState_OPERATION_STATE_REVERTED, requorumv1.Phase_PHASE_REVERTED, nil)
}

// settleDown waits until the cluster is as it was.
func (r *Run) settleDown(ctx context.Context, last int) error {
	if r.settle == nil {
		return nil
	}
	pos := position{step: last, direction: undoing, attempt: fmt.Sprintf("%d.settle", r.epoch)}
	failed := r.settle(withPosition(ctx, pos), r)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failed != nil {
		return r.Warn("everything was put back, and %v", failed)
	}
	return nil
}

// revertNode undoes the steps up to last on one node, in reverse order.
func (r *Run) revertNode(ctx context.Context, node string, last int) error {
	for i := last; i >= 0; i-- {
		if r.plan[i].Undo == nil || r.isUndone(i, node) {
			continue
		}
		if err := r.undo(ctx, i, node); err != nil {
			return err
		}
	}
	return nil
}

// undo undoes one step on one node, and tries until it succeeds or ctx ends.
func (r *Run) undo(ctx context.Context, i int, node string) error {
	for tries := 1; ; tries++ {
		failed := r.undoOnce(ctx, i, node, tries)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failed == nil {
			return r.undone(i, node)
		}
		r.Log.Error("undo failed and is tried again", "step", r.plan[i].Name, "node", node, "error", failed)
		if err := r.plead(i, node, failed, tries); err != nil {
			return err
		}
		if err := pause(ctx, tries); err != nil {
			return err
		}
	}
}

func (r *Run) undoOnce(ctx context.Context, i int, node string, tries int) error {
	pos := position{step: i, direction: undoing, attempt: fmt.Sprintf("%d.%d", r.epoch, tries), tries: uint32(tries)}
	ctx, cancel := context.WithCancel(withPosition(ctx, pos))
	defer cancel()
	if err := r.point(ctx, i, undoBegun); err != nil {
		return err
	}
	if err := r.plan[i].Undo(ctx, r, node); err != nil {
		return err
	}
	return r.point(ctx, i, undoEnding)
}

func (r *Run) isUndone(i int, node string) (undone bool) {
	r.Read(func(rec *journalv1.OperationRecord) {
		for _, u := range rec.GetUndone() {
			if u.GetStep() == r.plan[i].Name {
				undone = slices.Contains(u.GetNodes(), node)
			}
		}
	})
	return undone
}

func (r *Run) undone(i int, node string) error {
	name := r.plan[i].Name
	return r.Journal(func(rec *journalv1.OperationRecord) {
		delete(r.stuck, node)
		rec.GetOperation().Attention = r.attention()
		at := slices.IndexFunc(rec.GetUndone(), func(u *journalv1.UndoneStep) bool { return u.GetStep() == name })
		if at < 0 {
			rec.Undone = append(rec.Undone, &journalv1.UndoneStep{Step: name})
			at = len(rec.GetUndone()) - 1
		}
		u := rec.GetUndone()[at]
		u.Nodes = append(u.GetNodes(), node)
		if len(u.GetNodes()) == len(rec.GetOperation().GetNodes()) {
			rec.GetOperation().GetSteps()[i].State = requorumv1.StepState_STEP_STATE_UNDONE
		}
	})
}

// plead asks for a person's help once an undo has failed several times.
func (r *Run) plead(i int, node string, failed error, tries int) error {
	if tries < attentionAfter {
		return nil
	}
	return r.Journal(func(rec *journalv1.OperationRecord) {
		r.stuck[node] = fmt.Sprintf("%s cannot put back what step %s changed: %v. Bring the node back; requorum keeps trying. "+
			"If the node is gone for good: requorum cluster remove-node %s %s", node, r.plan[i].Name, failed, r.Cluster(), node)
		rec.GetOperation().Attention = r.attention()
	})
}

// attention is what a person has to do on all nodes that are stuck. The caller holds mu.
func (r *Run) attention() string {
	var all []string
	for _, node := range slices.Sorted(maps.Keys(r.stuck)) {
		all = append(all, r.stuck[node])
	}
	return strings.Join(all, "; ")
}

// finish journals the end. note, which may be nil, changes the record in the same transaction.
func (r *Run) finish(state requorumv1.OperationState, phase requorumv1.Phase, note func(*journalv1.OperationRecord)) error {
	err := r.journal(func(rec *journalv1.OperationRecord) {
		if note != nil {
			note(rec)
		}
		op := rec.GetOperation()
		op.State, op.Phase, op.Ended, op.Attention = state, phase, now(), ""
	}, r.atEnd)
	if err != nil {
		return err
	}
	r.Log.Info("operation ended", "state", state)
	if r.audit != nil {
		r.audit.Flush()
	}
	return nil
}

// pause waits before attempt tries+1: full jitter up to an exponentially growing bound.
func pause(ctx context.Context, tries int) error {
	bound := min(longestRetry, firstRetry<<min(tries, 10))
	timer := time.NewTimer(firstRetry/2 + rand.N(bound))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
