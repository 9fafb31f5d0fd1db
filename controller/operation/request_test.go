package operation_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

func recordEnd(seen *[]requorumv1.OperationState) func(store.Tx, *journalv1.OperationRecord) error {
	return func(_ store.Tx, rec *journalv1.OperationRecord) error {
		*seen = append(*seen, rec.GetOperation().GetState())
		return nil
	}
}

func TestRequestIDMakesStartSafeToRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer func() { w.stop() }()
		hold := make(chan struct{})
		w.fleet.before = func(context.Context, string, *agentv1.Task) error { <-hold; return nil }
		first, err := w.engine.Start(record("r1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		same := func(when string) {
			t.Helper()
			again, err := w.engine.Start(record("r1"), nil)
			if err != nil || again.GetId() != first.GetId() {
				t.Errorf("%s: %v, %v", when, again, err)
			}
			known, err := w.engine.Repeated("r1", kind, "prod", "")
			if err != nil || known.GetId() != first.GetId() {
				t.Errorf("%s: %v, %v", when, known, err)
			}
		}
		same("while it runs")
		close(hold)
		w.wait(first.GetId())
		same("after it has ended")
		w.stop()
		w.start()
		same("after a restart")
		if ops, err := w.engine.List("", 10); err != nil || len(ops) != 1 {
			t.Errorf("%d operations, %v", len(ops), err)
		}
	})
}

// An operation that began when the clock was an hour ahead is older than those that began since it was put back.
func TestOperationsStayInOrderWhenTheClockIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		ahead := ulid.MustNew(ulid.Timestamp(time.Now().Add(time.Hour)), nil).String()
		rec := record("r1")
		rec.Operation.Id, rec.Operation.State = ahead, requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
		if err := w.journal.Update(func(tx store.Tx) error { return store.Save(tx, store.Operations, ahead, rec) }); err != nil {
			t.Fatal(err)
		}
		want := []string{ahead}
		for _, request := range []string{"r2", "r3"} {
			op, err := w.engine.Start(record(request), nil)
			if err != nil {
				t.Fatal(err)
			}
			w.wait(op.GetId())
			want = append([]string{op.GetId()}, want...)
		}
		ops, err := w.engine.List("", 10)
		var got []string
		for _, op := range ops {
			got = append(got, op.GetId())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("the operations are listed as %v, %v, want %v", got, err, want)
		}
	})
}

func TestRequestIDOfAnotherOperationIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		if _, err := w.engine.Start(record("r1"), nil); err != nil {
			t.Fatal(err)
		}
		otherKind, otherCluster := record("r1"), record("r1")
		otherKind.Operation.Kind = requorumv1.OperationKind_OPERATION_KIND_CHECK
		otherCluster.Operation.Cluster = "test"
		for name, rec := range map[string]*journalv1.OperationRecord{"kind": otherKind, "cluster": otherCluster} {
			var reused *operation.RequestReusedError
			if _, err := w.engine.Start(rec, nil); !errors.As(err, &reused) {
				t.Errorf("another %s: %v", name, err)
			}
		}
		var reused *operation.RequestReusedError
		if _, err := w.engine.Repeated("r1", kind, "prod", "another"); !errors.As(err, &reused) {
			t.Errorf("another snapshot: %v", err)
		}
		if known, err := w.engine.Repeated("", kind, "prod", ""); known != nil || err != nil {
			t.Errorf("no request ID: %v, %v", known, err)
		}
	})
}

func TestOneOperationChangesAClusterAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		hold := make(chan struct{})
		w.fleet.before = func(context.Context, string, *agentv1.Task) error { <-hold; return nil }
		id := w.begin()
		var busy *operation.BusyError
		if _, err := w.engine.Start(record("other"), nil); !errors.As(err, &busy) || busy.Running != id || busy.Cluster != "prod" {
			t.Errorf("the same cluster: %v", err)
		}
		elsewhere := record("")
		elsewhere.Operation.Cluster = "test"
		if _, err := w.engine.Start(elsewhere, nil); err != nil {
			t.Errorf("another cluster: %v", err)
		}
		if got := w.engine.Running("prod"); got != id {
			t.Errorf("running %q, want %q", got, id)
		}
		close(hold)
		w.wait(id)
		if got := w.engine.Running("prod"); got != "" {
			t.Errorf("running %q after the end", got)
		}
		w.begin()
	})
}

func TestBeginRefusesWithoutATrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		taken := errors.New("taken")
		if _, err := w.engine.Start(record("r1"), func(store.Tx, *journalv1.OperationRecord) error { return taken }); !errors.Is(err, taken) {
			t.Errorf("got %v", err)
		}
		if ops, err := w.engine.List("", 10); err != nil || len(ops) != 0 {
			t.Errorf("%v, %v", ops, err)
		}
		if _, err := w.engine.Start(record("r1"), nil); err != nil {
			t.Errorf("the request ID is free again: %v", err)
		}
	})
}

func TestUnknownKindIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		rec := record("")
		rec.Operation.Kind = requorumv1.OperationKind_OPERATION_KIND_UNSPECIFIED
		if _, err := w.engine.Start(rec, nil); err == nil {
			t.Error("accepted")
		}
	})
}

func TestNothingIsAcceptedOrSaidToHaveEndedUnlessTheEngineRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		w.fleet.before = func(ctx context.Context, _ string, _ *agentv1.Task) error { <-ctx.Done(); return ctx.Err() }
		id := w.begin()
		w.stop()
		if _, err := w.engine.Start(record(""), nil); !errors.Is(err, operation.ErrNotDriving) {
			t.Errorf("start: %v", err)
		}
		if _, err := w.engine.Cancel(id); !errors.Is(err, operation.ErrNotDriving) {
			t.Errorf("cancel: %v", err)
		}
		if _, err := w.until(id, func(*requorumv1.Operation) bool { return false }); !errors.Is(err, operation.ErrNotDriving) {
			t.Errorf("watch: %v", err)
		}
		if op, err := w.engine.Get(id); err != nil || op.GetState() != running {
			t.Errorf("get: %v, %v", op.GetState(), err)
		}
	})
}

func TestListIsNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		var ids []string
		for range 5 {
			id := w.begin()
			w.wait(id)
			ids = append(ids, id)
			pass(time.Second)
		}
		slices.Reverse(ids)
		list := func(cluster string, limit int) []string {
			ops, err := w.engine.List(cluster, limit)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, op := range ops {
				got = append(got, op.GetId())
			}
			return got
		}
		if got := list("prod", 10); !slices.Equal(got, ids) {
			t.Errorf("got %v, want %v", got, ids)
		}
		if got := list("", 2); !slices.Equal(got, ids[:2]) {
			t.Errorf("limit 2: %v", got)
		}
		if got := list("test", 10); len(got) != 0 {
			t.Errorf("another cluster: %v", got)
		}
	})
}

func TestEndedOperationsAreThereAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		before := w.wait(w.begin())
		w.stop()
		w.start()
		defer w.stop()
		after := w.wait(before.GetId())
		if !before.GetEnded().AsTime().Equal(after.GetEnded().AsTime()) || after.GetState() != success || after.GetRequestedBy() != "alice" {
			t.Errorf("before %v\nafter %v", before, after)
		}
		if op, err := w.engine.Cancel(before.GetId()); err != nil || op.GetCancelRequested() {
			t.Errorf("cancelling what has ended: %v, %v", op, err)
		}
		var unknown *operation.NotFoundError
		if _, err := w.engine.Get("nope"); !errors.As(err, &unknown) {
			t.Errorf("unknown: %v", err)
		}
		if _, err := w.engine.Cancel("nope"); !errors.As(err, &unknown) {
			t.Errorf("unknown: %v", err)
		}
		if _, err := w.until("nope", nil); !errors.As(err, &unknown) {
			t.Errorf("unknown: %v", err)
		}
	})
}

func TestWatchSeesEveryStateAndTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"), effect("swap"))
		defer w.stop()
		slow := func(context.Context, string, *agentv1.Task) error { pass(time.Second); return nil }
		w.fleet.before, w.fleet.after = slow, failing(1, "c", doing("swap"))
		id := w.begin()
		var seen []string
		last, err := w.until(id, func(op *requorumv1.Operation) bool {
			if now := op.GetState().String() + " " + states(op); len(seen) == 0 || seen[len(seen)-1] != now {
				seen = append(seen, now)
			}
			return false
		})
		if err != nil || last.GetState() != undone || last.GetPhase() != requorumv1.Phase_PHASE_REVERTED {
			t.Fatalf("%v, %v", last, err)
		}
		for _, want := range []string{
			"OPERATION_STATE_RUNNING stage=DOING swap=PENDING",
			"OPERATION_STATE_RUNNING stage=DONE swap=DOING",
			"OPERATION_STATE_REVERTING stage=DONE swap=FAILED",
			"OPERATION_STATE_REVERTING stage=DONE swap=UNDONE",
			"OPERATION_STATE_REVERTED stage=UNDONE swap=UNDONE",
		} {
			if !slices.Contains(seen, want) {
				t.Errorf("not seen: %s\nseen: %q", want, seen)
			}
		}
	})
}

func TestWatchShowsTheProgressOfEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		hold := make(chan struct{})
		w.fleet.after = func(context.Context, string, *agentv1.Task) error { <-hold; return nil }
		id := w.begin()
		synctest.Wait()
		op, _ := w.engine.Get(id)
		var nodes []string
		for _, p := range op.GetSteps()[0].GetTasks() {
			nodes = append(nodes, p.GetNode())
			if p.GetState() != requorumv1.StepState_STEP_STATE_DOING || p.GetDoneBytes() != 1 || p.GetTotalBytes() != 2 {
				t.Errorf("progress %v", p)
			}
		}
		if !slices.Equal(nodes, []string{"a", "b", "c"}) {
			t.Errorf("nodes %v", nodes)
		}
		close(hold)
		for _, p := range w.wait(id).GetSteps()[0].GetTasks() {
			if p.GetState() != requorumv1.StepState_STEP_STATE_DONE || p.GetDoneBytes() != 2 {
				t.Errorf("at the end %v", p)
			}
		}
	})
}

func TestWatchEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		hold := make(chan struct{})
		w.fleet.before = func(context.Context, string, *agentv1.Task) error { <-hold; return nil }
		id := w.begin()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := w.engine.Watch(ctx, id, func(*requorumv1.Operation) error { return nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(hold)
		w.wait(id)
	})
}

func TestWatchersAreToldThatTheControllerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		w.fleet.before = func(ctx context.Context, _ string, _ *agentv1.Task) error { <-ctx.Done(); return ctx.Err() }
		id := w.begin()
		told := make(chan error, 1)
		go func() {
			_, err := w.until(id, func(*requorumv1.Operation) bool { return false })
			told <- err
		}()
		synctest.Wait()
		w.stop()
		if err := <-told; !errors.Is(err, operation.ErrNotDriving) {
			t.Errorf("got %v", err)
		}
	})
}

// An operation that is accepted while the engine ends is driven within Run, or not at all.
func TestNothingIsDrivenAfterRunHasReturned(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, effect("stage"))
			over := make(chan struct{})
			go func() {
				defer close(over)
				if _, err := w.engine.Start(record(""), nil); err != nil && !errors.Is(err, operation.ErrNotDriving) {
					t.Error(err)
				}
			}()
			w.stop()
			driven := len(w.fleet.tasks) // racy, and found by the race detector, if anything still runs
			<-over
			synctest.Wait()
			if got := len(w.fleet.tasks); got != driven {
				t.Errorf("%d tasks were given after Run had returned", got-driven)
			}
		})
	}
}
