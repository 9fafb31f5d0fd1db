package operation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

// The controller dies at every write to its journal in turn, with that write durable or lost. The next
// one on the same journal carries the operation to the end that it would have had.
func TestResumeAfterACrashAtEveryWrite(t *testing.T) {
	for name, c := range map[string]struct {
		before func() func(context.Context, string, *agentv1.Task) error
		state  requorumv1.OperationState
		left   string
	}{
		"that succeeds": {
			before: func() func(context.Context, string, *agentv1.Task) error { return nil },
			state:  success, left: everywhere("stage", "swap", "open", "finish"),
		},
		"that succeeds, with failures past the pivot": {
			before: func() func(context.Context, string, *agentv1.Task) error { return failing(6, "b", doing("open")) },
			state:  success, left: everywhere("stage", "swap", "open", "finish"),
		},
		"that reverts": {
			before: func() func(context.Context, string, *agentv1.Task) error { return failing(-1, "b", doing("swap")) },
			state:  undone,
		},
		"that is refused": {
			before: func() func(context.Context, string, *agentv1.Task) error { return failing(-1, "b", asked("preflight")) },
			state:  refused,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for n, crashed := 1, true; crashed; n++ {
				for _, kept := range []bool{true, false} {
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t, restoreLike()...)
						w.fleet.before = c.before()
						crashed = w.crashAt(n, kept)
						w.expect(w.only(), c.state, c.left)
						w.stop()
					})
				}
			}
		})
	}
}

// crashAt runs an operation whose controller dies at the n-th write, and is started again. It tells
// whether there was such a write.
func (w *world) crashAt(n int, kept bool) bool {
	w.journal.restore(n, kept)
	op, err := w.engine.Start(record("r"), nil)
	if err == nil {
		_, err = w.until(op.GetId(), func(*requorumv1.Operation) bool { return false })
	}
	switch {
	case err == nil && w.journal.cut():
		w.crashed() // nobody has noticed: the last write was durable
	case err == nil:
		return false
	case errors.Is(err, operation.ErrNotDriving):
		w.crashed()
	case errors.Is(err, errPower): // the operation was not accepted; the controller is stopped by hand
		w.stop()
	default:
		w.Fatalf("crash at write %d: %v", n, err)
	}
	w.journal.restore(0, false)
	w.start()
	if _, err := w.engine.Start(record("r"), nil); err != nil { // who was told nothing asks again
		w.Fatal(err)
	}
	return true
}

func (m *memory) cut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.off
}

// only returns the one operation that there is, once it has ended.
func (w *world) only() *requorumv1.Operation {
	w.Helper()
	ops, err := w.engine.List("", 10)
	if err != nil || len(ops) != 1 {
		w.Fatalf("%d operations, %v", len(ops), err)
	}
	return w.wait(ops[0].GetId())
}

func TestTasksKeepTheirIDsOverACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, check("preflight"), effect("stage"))
		w.journal.restore(5, false) // accepted, preflight twice, stage begun; then stage's outcome is lost
		id := w.begin()
		w.crashed()
		before := w.fleet.idsOf("stage")
		w.journal.restore(0, false)
		w.start()
		defer w.stop()
		w.expect(w.wait(id), success, everywhere("stage"))
		after := w.fleet.idsOf("stage")[len(before):]
		slices.Sort(before)
		slices.Sort(after)
		if len(before) != 3 || !slices.Equal(before, after) {
			t.Errorf("before the crash %q, after it %q", before, after)
		}
	})
}

func TestQuestionsAndNewAttemptsGetNewIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, check("ask"), check("again"), pivot("open"))
		defer w.stop()
		w.fleet.before = failing(2, "a", doing("open"))
		w.wait(w.begin())
		seen := map[string]bool{}
		for _, id := range w.fleet.ids {
			if seen[id] {
				t.Errorf("twice: %s", id)
			}
			seen[id] = true
		}
		attempts := map[uint32]bool{}
		for _, task := range w.fleet.tasks {
			if isDo(task, "open") {
				attempts[task.GetAttempt()] = true
			}
			if task.GetOperationId() == "" || task.GetStep() == "" || task.GetAttempt() == 0 {
				t.Errorf("task without its place: %v", task)
			}
		}
		if len(attempts) != 3 {
			t.Errorf("attempts %v, want 1, 2 and 3", attempts)
		}
	})
}

func (f *fleet) idsOf(step string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for _, id := range f.ids {
		if strings.Contains(id, "/"+step+"/") {
			ids = append(ids, id)
		}
	}
	return ids
}

func TestPlanOfAnotherVersionIsNotDriven(t *testing.T) {
	for name, plan := range map[string]operation.Plan{
		"a step more":      {effect("stage"), effect("swap")},
		"a step less":      {},
		"another name":     {effect("unstage")},
		"nothing to build": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, effect("stage"))
				w.fleet.before = func(ctx context.Context, _ string, _ *agentv1.Task) error { <-ctx.Done(); return ctx.Err() }
				w.begin()
				w.stop()
				w.plan = plan
				w.start()
				err := <-w.ended
				if err == nil || !strings.Contains(err.Error(), "another plan; finish it with that version") {
					t.Errorf("got %v", err)
				}
				w.cancel()
			})
		})
	}
}

func TestUnreadableJournalStopsTheController(t *testing.T) {
	for name, rec := range map[string]func() []byte{
		"not a record":    func() []byte { return []byte("nonsense") },
		"an unknown kind": func() []byte { return unknownKind(t) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, effect("stage"))
				w.fleet.before = func(ctx context.Context, _ string, _ *agentv1.Task) error { <-ctx.Done(); return ctx.Err() }
				w.begin()
				w.stop()
				if err := w.journal.Update(func(tx store.Tx) error { return tx.Put(store.Operations, "zz", rec()) }); err != nil {
					t.Fatal(err)
				}
				w.start() // the operation that can be read was launched, and is waited for
				if err := <-w.ended; err == nil || !strings.Contains(err.Error(), "journal: operation") {
					t.Errorf("got %v", err)
				}
				w.cancel()
			})
		})
	}
}

func unknownKind(t *testing.T) []byte {
	t.Helper()
	scratch := newMemory()
	rec := &journalv1.OperationRecord{Operation: &requorumv1.Operation{Id: "zz", Kind: 99, State: running}}
	var data []byte
	err := scratch.Update(func(tx store.Tx) error {
		if err := store.Save(tx, store.Operations, "zz", rec); err != nil {
			return err
		}
		var err error
		data, err = tx.Get(store.Operations, "zz")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestJournalThatCannotBeWrittenStopsTheController(t *testing.T) {
	for n := 2; n <= 5; n++ {
		t.Run(fmt.Sprintf("write %d", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, effect("stage"), effect("swap"))
				w.journal.restore(n, false)
				w.begin()
				w.crashed()
			})
		})
	}
}

// A node that hangs while it is undone does not keep the controller from noticing.
func TestJournalThatCannotBeWrittenEndsARevertThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"), check("verify"))
		w.fleet.before = func(ctx context.Context, node string, task *agentv1.Task) error {
			switch {
			case task.GetStep() == "verify":
				return errNode
			case isUndo(task, "stage") && node == "a":
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		w.journal.restore(6, false) // accepted, stage twice, verify begun, verify failed; then b or c is undone
		w.begin()
		w.crashed()
	})
}

func TestRecordOfTheJobOutlivesACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var found string
		chosen := operation.Step{Name: "choose", Do: func(_ context.Context, run *operation.Run) error {
			return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Node = "b" })
		}}
		use := operation.Step{Name: "use", Do: func(ctx context.Context, run *operation.Run) error {
			if found = run.Snapshot().GetNode(); run.Operation().GetSteps()[1].GetAttempt() == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, Pivot: true}
		w := newWorld(t, chosen, use)
		rec := record("")
		rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: &journalv1.SnapshotJob{Node: "a"}}
		op, err := w.engine.Start(rec, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.stop()
		if got := w.stored(op.GetId()); got.GetSnapshot().GetNode() != "b" || got.GetCursor() != 1 || !got.GetOperation().GetPastPivot() {
			t.Errorf("journal has %v", got)
		}
		found = ""
		w.start()
		synctest.Wait()
		if found != "b" {
			t.Errorf("the job is resumed with node %q", found)
		}
		w.stop()
	})
}

// A controller whose data came back from an older copy does not know how its operations went on, and
// neither goes on with them nor undoes anything.
func TestOperationsOfAnOlderCopyAreAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"), effect("swap"))
		w.fleet.before = func(ctx context.Context, _ string, task *agentv1.Task) error {
			if task.GetStep() == "swap" {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		id := w.begin()
		synctest.Wait()
		w.stop()
		before := w.fleet.left()
		if err := w.engine.Abandon(); err != nil {
			t.Fatal(err)
		}
		w.start()
		defer w.stop()
		op := w.wait(id)
		if op.GetState() != requorumv1.OperationState_OPERATION_STATE_ABANDONED || op.GetEnded() == nil || op.GetFailure().GetAdvice() == "" {
			t.Errorf("the operation is %v", op)
		}
		if after := w.fleet.left(); after != before {
			t.Errorf("the nodes had %q and have %q", before, after)
		}
		if running := w.engine.Running("prod"); running != "" {
			t.Errorf("%s still holds the cluster", running)
		}
	})
}
