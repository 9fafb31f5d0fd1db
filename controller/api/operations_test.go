package api

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
)

// onNodes is a plan with one step that gives its node one task.
func onNodes() operation.Plan {
	return operation.Plan{{Name: "work", Do: func(ctx context.Context, run *operation.Run) error {
		_, err := run.Ask(ctx, "a", &agentv1.Task{Spec: &agentv1.Task_DropCopy{DropCopy: &agentv1.DropCopy{Name: "s"}}})
		return err
	}}}
}

func (d *desk) start() (requorumv1.OperationServiceClient, string) {
	d.Helper()
	op, err := d.Engine.Start(&journalv1.OperationRecord{Operation: &requorumv1.Operation{
		Kind: requorumv1.OperationKind_OPERATION_KIND_SAVE, Cluster: "prod", Nodes: []string{"a"},
	}}, nil)
	if err != nil {
		d.Fatal(err)
	}
	return requorumv1.NewOperationServiceClient(d.conn), op.GetId()
}

func TestWatchSendsTheOperationWhenItChangesAndProgressInBetween(t *testing.T) {
	atDesk(t, onNodes(), func(d *desk) {
		a := d.connect("a")
		client, id := d.start()
		task := a.next().GetTasks()[0]
		synctest.Wait()
		stream, err := client.WatchOperation(d.Context(), &requorumv1.WatchOperationRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		next := func() *requorumv1.WatchOperationResponse {
			t.Helper()
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		if op := next().GetOperation(); op.GetId() != id || op.GetSteps()[0].GetState() != requorumv1.StepState_STEP_STATE_DOING {
			t.Errorf("the first message: %v", op)
		}
		for _, bytes := range []int64{1, 7} {
			a.report(&agentv1.TaskReport{TaskId: task.GetId(), State: agentv1.TaskState_TASK_STATE_RUNNING, DoneBytes: bytes, TotalBytes: 9, Ticks: uint64(bytes)})
			if p := next().GetProgress(); p.GetNode() != "a" || p.GetStep() != "work" || p.GetDoneBytes() != bytes {
				t.Errorf("progress %v, want %d bytes", p, bytes)
			}
		}
		a.report(done(task))
		var last *requorumv1.Operation
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.GetOperation() != nil {
				last = m.GetOperation()
			}
		}
		if last.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
			t.Errorf("the last state: %v", last)
		}
	})
}

func TestOnlyTasksThatChangedAreSent(t *testing.T) {
	op := func(tasks ...*requorumv1.TaskProgress) *requorumv1.Operation {
		return &requorumv1.Operation{Steps: []*requorumv1.Step{{Name: "one", Tasks: tasks}, {Name: "two"}}}
	}
	a1, a2 := &requorumv1.TaskProgress{Node: "a", DoneBytes: 1}, &requorumv1.TaskProgress{Node: "a", DoneBytes: 2}
	b, c := &requorumv1.TaskProgress{Node: "b"}, &requorumv1.TaskProgress{Node: "c"}
	got := changedTasks(op(a1, b), op(a2, b, c))
	if !slices.Equal(got, []*requorumv1.TaskProgress{a2, c}) {
		t.Errorf("got %v", got)
	}
	full := op(a1)
	if withoutTasks(full); len(full.GetSteps()[0].GetTasks()) != 1 {
		t.Error("the argument was changed")
	}
}

func TestWaitAnswersAtTheEnd(t *testing.T) {
	atDesk(t, onNodes(), func(d *desk) {
		a := d.connect("a")
		client, id := d.start()
		go func() {
			task := a.next().GetTasks()[0]
			<-time.After(time.Minute)
			a.report(done(task))
		}()
		resp, err := client.WaitOperation(d.Context(), &requorumv1.WaitOperationRequest{Id: id, OrNeedsAttention: true})
		if err != nil || resp.GetOperation().GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
			t.Errorf("got %v, %v", resp, err)
		}
		if _, err := client.WaitOperation(d.Context(), &requorumv1.WaitOperationRequest{Id: "nope"}); status.Code(err) != codes.NotFound {
			t.Errorf("no such operation: %v", err)
		}
	})
}

func TestWaitAnswersWhenAPersonIsNeededIfAskedTo(t *testing.T) {
	stuck := operation.Plan{{Name: "open", Pivot: true, Do: func(context.Context, *operation.Run) error { return errors.New("disk on fire") }}}
	atDesk(t, stuck, func(d *desk) {
		client, id := d.start()
		resp, err := client.WaitOperation(d.Context(), &requorumv1.WaitOperationRequest{Id: id, OrNeedsAttention: true})
		if err != nil || resp.GetOperation().GetAttention() == "" {
			t.Errorf("got %v, %v", resp, err)
		}
		ctx, cancel := context.WithTimeout(d.Context(), time.Hour)
		defer cancel()
		if _, err := client.WaitOperation(ctx, &requorumv1.WaitOperationRequest{Id: id}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		if _, err := client.CancelOperation(d.Context(), &requorumv1.CancelOperationRequest{Id: id}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("cancel past the pivot: %v", err)
		}
	})
}

func TestOperationsAreListedAndFound(t *testing.T) {
	atDesk(t, operation.Plan{{Name: "nothing", Do: func(context.Context, *operation.Run) error { return nil }}}, func(d *desk) {
		var ids []string
		client, id := d.start()
		for range 3 {
			if _, err := client.WaitOperation(d.Context(), &requorumv1.WaitOperationRequest{Id: id}); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
			<-time.After(time.Second)
			_, id = d.start()
		}
		list, err := client.ListOperations(d.Context(), &requorumv1.ListOperationsRequest{Cluster: "prod", Limit: 2})
		if err != nil || len(list.GetOperations()) != 2 || list.GetOperations()[0].GetId() != id || list.GetOperations()[1].GetId() != ids[2] {
			t.Errorf("got %v, %v", list, err)
		}
		if got, err := client.GetOperation(d.Context(), &requorumv1.GetOperationRequest{Id: ids[0]}); err != nil || got.GetOperation().GetId() != ids[0] {
			t.Errorf("got %v, %v", got, err)
		}
	})
}
