package operation_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
)

// restoreLike has everything that a plan can have.
func restoreLike() operation.Plan {
	return operation.Plan{check("preflight"), effect("stage"), check("verify"), effect("swap"), pivot("open"), lasting("finish")}
}

// failing makes one node fail a task, as many times as said.
func failing(times int, node string, which func(*agentv1.Task) bool) func(context.Context, string, *agentv1.Task) error {
	var mu sync.Mutex
	return func(_ context.Context, on string, t *agentv1.Task) error {
		mu.Lock()
		defer mu.Unlock()
		if on != node || !which(t) || times == 0 {
			return nil
		}
		times--
		return failure.On(node, errNode.Error(), "put it out")
	}
}

func doing(step string) func(*agentv1.Task) bool {
	return func(t *agentv1.Task) bool { return isDo(t, step) }
}

func undoingStep(step string) func(*agentv1.Task) bool {
	return func(t *agentv1.Task) bool { return isUndo(t, step) }
}

func asked(step string) func(*agentv1.Task) bool {
	return func(t *agentv1.Task) bool { return t.GetStep() == step }
}

func TestOutcome(t *testing.T) {
	const always = -1
	everything := everywhere("stage", "swap", "open", "finish")
	for name, c := range map[string]struct {
		plan   operation.Plan
		before func(context.Context, string, *agentv1.Task) error
		after  func(context.Context, string, *agentv1.Task) error
		state  requorumv1.OperationState
		left   string
		steps  string
	}{
		"nothing fails": {
			state: success, left: everything,
			steps: "preflight=DONE stage=DONE verify=DONE swap=DONE open=DONE finish=DONE",
		},
		"a check refuses before anything was changed": {
			before: failing(1, "b", asked("preflight")), state: refused,
			steps: "preflight=FAILED stage=PENDING verify=PENDING swap=PENDING open=PENDING finish=PENDING",
		},
		"a check that fails after something was changed reverts": {
			before: failing(1, "b", asked("verify")), state: undone,
			steps: "preflight=DONE stage=UNDONE verify=FAILED swap=PENDING open=PENDING finish=PENDING",
		},
		"a failure before its effect reverts": {
			before: failing(1, "b", doing("swap")), state: undone,
			steps: "preflight=DONE stage=UNDONE verify=DONE swap=UNDONE open=PENDING finish=PENDING",
		},
		"the step in doubt is undone too": {
			after: failing(1, "b", doing("swap")), state: undone,
			steps: "preflight=DONE stage=UNDONE verify=DONE swap=UNDONE open=PENDING finish=PENDING",
		},
		"an undo is tried until it succeeds": {
			before: failing(1, "b", doing("swap")), after: failing(7, "c", undoingStep("stage")), state: undone,
			steps: "preflight=DONE stage=UNDONE verify=DONE swap=UNDONE open=PENDING finish=PENDING",
		},
		"the pivot is tried until it succeeds": {
			before: failing(9, "b", doing("open")), state: success, left: everything,
			steps: "preflight=DONE stage=DONE verify=DONE swap=DONE open=DONE finish=DONE",
		},
		"so is what comes after it": {
			after: failing(9, "c", doing("finish")), state: success, left: everything,
			steps: "preflight=DONE stage=DONE verify=DONE swap=DONE open=DONE finish=DONE",
		},
		"a plan without a pivot reverts to its last step": {
			plan:   operation.Plan{effect("save"), effect("distribute")},
			before: failing(1, "a", doing("distribute")), state: undone, steps: "save=UNDONE distribute=UNDONE",
		},
		"a first step that is no check reverts, although there is nothing to undo": {
			plan:   operation.Plan{lasting("remove")},
			before: failing(always, "a", doing("remove")), state: undone, steps: "remove=FAILED", left: "b:remove c:remove",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plan := c.plan
				if plan == nil {
					plan = restoreLike()
				}
				w := newWorld(t, plan...)
				defer w.stop()
				w.fleet.before, w.fleet.after = settleFirst(c.before), c.after
				op := w.wait(w.begin())
				w.expect(op, c.state, c.left)
				if got := states(op); got != c.steps {
					t.Errorf("steps %s, want %s", got, c.steps)
				}
			})
		})
	}
}

// settleFirst lets the other nodes of a step come first, so that what is left does not depend on chance.
func settleFirst(f func(context.Context, string, *agentv1.Task) error) func(context.Context, string, *agentv1.Task) error {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, node string, task *agentv1.Task) error {
		err := f(ctx, node, task)
		if err != nil {
			pass(time.Millisecond)
		}
		return err
	}
}

func TestFailureSaysWhatWhereAndWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, restoreLike()...)
		defer w.stop()
		w.fleet.before = failing(1, "b", doing("stage"))
		f := w.wait(w.begin()).GetFailure()
		if f.GetStep() != "stage" || f.GetNode() != "b" || f.GetMessage() != errNode.Error() || f.GetAdvice() != "put it out" {
			t.Errorf("failure %v", f)
		}
	})
}

func TestUndoIsInReverseOrderOnEachNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("one"), effect("two"), effect("three"), check("verify"))
		defer w.stop()
		w.fleet.before = failing(1, "c", asked("verify"))
		w.expect(w.wait(w.begin()), undone, "")
		want := []string{"do one", "do two", "do three", "undo three", "undo two", "undo one"}
		for _, node := range []string{"a", "b", "c"} {
			if got := w.fleet.on(node); !slices.Equal(got, want) {
				t.Errorf("on %s: %v, want %v", node, got, want)
			}
		}
	})
}

func TestNoStepBeginsBeforeAllNodesHaveDoneTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stop"), effect("swap"), effect("start"))
		defer w.stop()
		w.fleet.before = func(_ context.Context, node string, _ *agentv1.Task) error {
			pass(time.Duration(node[0]-'a') * time.Minute) // b and c are slow
			return nil
		}
		w.wait(w.begin())
		order := []string{"stop", "swap", "start"}
		for i, e := range w.fleet.events {
			if step := order[i/3]; !strings.HasPrefix(e, "do "+step) {
				t.Fatalf("event %d is %q, want that of step %s: %v", i, e, step, w.fleet.events)
			}
		}
	})
}

func TestNodeThatCannotBeUndoneDoesNotKeepTheOthers(t *testing.T) {
	fails := func(context.Context) error { return errNode }
	hangs := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	for name, c := range map[string]struct {
		undo  func(context.Context) error
		pleas bool
	}{
		"it fails": {undo: fails, pleas: true},
		"it hangs": {undo: hangs},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, effect("stage"), effect("swap"))
				w.fleet.before = func(ctx context.Context, node string, task *agentv1.Task) error {
					switch {
					case node == "b" && isUndo(task, "swap"):
						return c.undo(ctx)
					case node == "c" && isDo(task, "swap"):
						pass(time.Second)
						return errNode
					}
					return nil
				}
				id := w.begin()
				pass(10 * time.Minute)
				if got := w.fleet.left(); got != "b:stage b:swap" {
					t.Errorf("left %q, want only what b cannot undo", got)
				}
				op, err := w.engine.Get(id)
				if err != nil || op.GetState() != undoing || (op.GetAttention() != "") != c.pleas {
					t.Errorf("%v, state %v, attention %q", err, op.GetState(), op.GetAttention())
				}
				w.stop()
				w.fleet.before = nil // somebody has mended it
				w.start()
				defer w.stop()
				w.expect(w.wait(id), undone, "")
			})
		})
	}
}

func TestAttentionNamesEveryNodeThatIsStuckAndWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"), check("verify"))
		defer w.stop()
		var mended sync.Map
		w.fleet.before = func(_ context.Context, node string, task *agentv1.Task) error {
			_, ok := mended.Load(node)
			if task.GetStep() == "verify" || isUndo(task, "stage") && node != "a" && !ok {
				return errNode
			}
			return nil
		}
		id := w.begin()
		attention := func() string {
			pass(10 * time.Minute)
			op, err := w.engine.Get(id)
			if err != nil {
				t.Fatal(err)
			}
			return op.GetAttention()
		}
		both := attention()
		for _, want := range []string{"b cannot put back", "c cannot put back", "requorum cluster remove-node prod b", "remove-node prod c", errNode.Error()} {
			if !strings.Contains(both, want) {
				t.Errorf("attention %q lacks %q", both, want)
			}
		}
		mended.Store("b", true)
		if one := attention(); strings.Contains(one, "b cannot") || !strings.Contains(one, "c cannot") {
			t.Errorf("attention after b was mended: %q", one)
		}
		mended.Store("c", true)
		w.expect(w.wait(id), undone, "")
	})
}

func TestAttentionIsAskedForAfterFiveFailuresPastThePivotAndClearedThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, pivot("open"), lasting("finish"))
		defer w.stop()
		var tries int
		var attentions []string
		w.fleet.before = func(_ context.Context, node string, task *agentv1.Task) error {
			if node != "a" || !isDo(task, "open") {
				return nil
			}
			attentions = append(attentions, w.attention(task.GetOperationId()))
			if tries++; tries <= 6 {
				return errNode
			}
			return nil
		}
		op := w.wait(w.begin())
		w.expect(op, success, everywhere("open", "finish"))
		for i, a := range attentions {
			if asks := strings.Contains(a, "step open keeps failing: disk on fire"); asks != (i >= 5) {
				t.Errorf("attention before attempt %d: %q", i+1, a)
			}
		}
		if op.GetFailure() != nil {
			t.Errorf("an operation that succeeded has the failure %v", op.GetFailure())
		}
	})
}

func (w *world) attention(id string) string {
	op, err := w.engine.Get(id)
	if err != nil {
		w.Error(err)
	}
	return op.GetAttention()
}

func TestOneFailureStopsTheOthersOfItsStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		w.fleet.before = func(ctx context.Context, node string, task *agentv1.Task) error {
			if !isDo(task, "stage") {
				return nil
			}
			if node == "b" {
				return errNode
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		began := time.Now()
		op := w.wait(w.begin())
		if f := op.GetFailure(); !strings.Contains(f.GetMessage(), errNode.Error()) {
			t.Errorf("failure %v, want that of the node which failed first", f)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestEndIsRecordedWithTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		fail  string
		state requorumv1.OperationState
	}{
		"succeeded": {"", success},
		"refused":   {"preflight", refused},
		"reverted":  {"stage", undone},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, restoreLike()...)
				defer w.stop()
				var seen []requorumv1.OperationState
				w.end = recordEnd(&seen)
				w.fleet.before = failing(1, "a", asked(c.fail))
				w.wait(w.begin())
				if !slices.Equal(seen, []requorumv1.OperationState{c.state}) {
					t.Errorf("end was told %v, want %v", seen, c.state)
				}
			})
		})
	}
}

func TestTasksBelongToAStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var outside, beside error
		w := newWorld(t, operation.Step{Name: "lost", Do: func(_ context.Context, run *operation.Run) error {
			elsewhere := context.Background()
			run.Background(elsewhere, "a", &agentv1.Task{}, func(err error) { beside = err })
			_, outside = run.Ask(elsewhere, "a", &agentv1.Task{})
			return nil
		}})
		defer w.stop()
		w.wait(w.begin())
		if outside == nil || beside == nil || len(w.fleet.ids) != 0 {
			t.Errorf("%v, %v; tasks %v", outside, beside, w.fleet.ids)
		}
	})
}

func TestBackgroundTaskEndsWithItsStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended error
		serve := operation.Step{Name: "serve", Do: func(ctx context.Context, run *operation.Run) error {
			run.Background(ctx, "a", &agentv1.Task{Spec: &agentv1.Task_ServeCopy{ServeCopy: &agentv1.ServeCopy{Name: "s"}}}, func(error) {})
			pass(time.Second)
			return nil
		}}
		w := newWorld(t, serve)
		w.fleet.before = func(ctx context.Context, _ string, _ *agentv1.Task) error {
			<-ctx.Done()
			ended = ctx.Err()
			return ended
		}
		w.wait(w.begin())
		w.stop() // which waits for it
		if !errors.Is(ended, context.Canceled) {
			t.Errorf("background task: %v", ended)
		}
	})
}

func TestWarningsAreAddedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, operation.Step{Name: "warn", Do: func(_ context.Context, run *operation.Run) error {
			return errors.Join(run.Warn("%s is old", "it"), run.Warn("it is old"), run.Warn("it is big"))
		}})
		defer w.stop()
		if got := w.wait(w.begin()).GetWarnings(); !slices.Equal(got, []string{"it is old", "it is big"}) {
			t.Errorf("warnings %q", got)
		}
	})
}
