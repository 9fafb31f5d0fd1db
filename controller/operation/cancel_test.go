package operation_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

// cancelWhen cancels the operation when node b is given such a task, which then hangs until it is ended
// if hang is set.
func (w *world) cancelWhen(which func(*agentv1.Task) bool, hang bool) *error {
	err := new(error)
	w.fleet.before = func(ctx context.Context, node string, task *agentv1.Task) error {
		if node != "b" || !which(task) {
			return nil
		}
		_, *err = w.engine.Cancel(task.GetOperationId())
		if !hang {
			return nil
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return err
}

func TestCancelBeforeThePivotPutsEverythingBack(t *testing.T) {
	for name, c := range map[string]struct {
		step string
		hang bool
	}{
		"in the first check":             {"preflight", true},
		"in a step that hangs":           {"stage", true},
		"in a step that ends by itself":  {"stage", false},
		"in the last step before pivot":  {"swap", true},
		"just before the pivot is begun": {"swap", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, restoreLike()...)
				defer w.stop()
				err := w.cancelWhen(func(task *agentv1.Task) bool { return task.GetStep() == c.step && !isUndo(task, c.step) }, c.hang)
				op := w.wait(w.begin())
				w.expect(op, undone, "")
				if *err != nil || !op.GetCancelRequested() || op.GetPastPivot() {
					t.Errorf("cancel: %v; %v", *err, op)
				}
				if f := op.GetFailure(); f.GetMessage() != "cancelled on request" || f.GetStep() != c.step {
					t.Errorf("failure %v", f)
				}
			})
		})
	}
}

// A cancellation that is accepted between two steps finds nothing to end; the pivot must see it.
func TestCancelBetweenStepsKeepsThePivotFromBeginning(t *testing.T) {
	for range 100 { // both outcomes are right, and come up
		synctest.Test(t, func(t *testing.T) { cancelBesideTheOutcome(t, effect("swap"), pivot("open")) })
	}
}

// A cancellation that is accepted after the last step of a plan without a pivot finds nothing to end either.
func TestCancelAfterTheLastStepPutsEverythingBack(t *testing.T) {
	for range 300 { // as above
		synctest.Test(t, func(t *testing.T) { cancelBesideTheOutcome(t, effect("swap")) })
	}
}

func cancelBesideTheOutcome(t *testing.T, plan ...operation.Step) {
	t.Helper()
	w := newWorld(t, plan...)
	defer w.stop()
	id := make(chan string, 1)
	accepted := false
	answer := make(chan error, 1)
	w.journal.onUpdate = func(n int) {
		if n != 3 { // accepted, swap begun, swap done
			return
		}
		op := <-id
		go func() {
			o, err := w.engine.Cancel(op) // waits for the journal, and comes before what follows or after it
			accepted = o.GetCancelRequested()
			answer <- err
		}()
		letOthersWait()
	}
	op := w.begin()
	id <- op
	ended := w.wait(op)
	var late *operation.PastPivotError
	switch err := <-answer; {
	case accepted:
		w.expect(ended, undone, "")
	case err == nil, errors.As(err, &late): // it has ended, or cannot go back any more
		w.expect(ended, success, everywhere(names(plan)...))
	default:
		t.Error(err)
	}
}

// letOthersWait lets other goroutines come to the lock that this one holds, mostly for so long that it is theirs next.
func letOthersWait() {
	for range 20_000 {
		runtime.Gosched()
	}
}

func names(plan []operation.Step) []string {
	all := make([]string, len(plan))
	for i, s := range plan {
		all[i] = s.Name
	}
	return all
}

func TestCancelFromThePivotOnIsRefused(t *testing.T) {
	for _, step := range []string{"open", "finish"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, restoreLike()...)
				defer w.stop()
				err := w.cancelWhen(doing(step), false)
				op := w.wait(w.begin())
				w.expect(op, success, everywhere("stage", "swap", "open", "finish"))
				var late *operation.PastPivotError
				if !errors.As(*err, &late) || op.GetCancelRequested() {
					t.Errorf("cancel: %v; %v", *err, op)
				}
			})
		})
	}
}

func TestCancelWhileRevertingChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"), effect("swap"))
		defer w.stop()
		fail := failing(1, "a", doing("swap"))
		err := w.cancelWhen(undoingStep("stage"), false)
		cancel := w.fleet.before
		w.fleet.before = func(ctx context.Context, node string, task *agentv1.Task) error {
			return errors.Join(fail(ctx, node, task), cancel(ctx, node, task))
		}
		op := w.wait(w.begin())
		w.expect(op, undone, "")
		if *err != nil || op.GetFailure().GetNode() != "a" {
			t.Errorf("cancel: %v; failure %v, want that of node a", *err, op.GetFailure())
		}
	})
}

func TestCancelIsKeptOverACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"), effect("swap"), pivot("open"))
		hang := func(ctx context.Context, node string, task *agentv1.Task) error {
			if isDo(task, "swap") {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		}
		w.fleet.before = hang
		id := w.begin()
		if _, err := w.until(id, func(op *requorumv1.Operation) bool {
			return op.GetSteps()[1].GetState() == requorumv1.StepState_STEP_STATE_DOING
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.journal.restore(2, false) // the cancellation is written, what comes of it is not
		if _, err := w.engine.Cancel(id); err != nil {
			t.Fatal(err)
		}
		w.crashed()
		w.journal.restore(0, false)
		w.start()
		defer w.stop()
		w.expect(w.wait(id), undone, "")
	})
}

// The controller crashed after it had accepted the cancellation, with the last step before the pivot done.
func TestCancelIsSeenByThePivotAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("swap"), pivot("open"))
		hold := func(ctx context.Context, _ string, task *agentv1.Task) error {
			if isDo(task, "open") {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		w.fleet.before = hold
		id := w.begin()
		synctest.Wait()
		w.stop()
		rec := w.stored(id)
		op := rec.GetOperation()
		op.CancelRequested, op.PastPivot, rec.Cursor = true, false, 0
		op.Steps[1] = &requorumv1.Step{Name: "open", Pivot: true, State: requorumv1.StepState_STEP_STATE_PENDING}
		if err := w.journal.Update(func(tx store.Tx) error { return store.Save(tx, store.Operations, id, rec) }); err != nil {
			t.Fatal(err)
		}
		w.fleet.before = nil
		w.start()
		defer w.stop()
		ended := w.wait(id)
		w.expect(ended, undone, "")
		if got := states(ended); got != "swap=UNDONE open=PENDING" {
			t.Errorf("steps %s", got)
		}
	})
}
