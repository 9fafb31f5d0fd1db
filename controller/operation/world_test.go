package operation_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

const (
	kind    = requorumv1.OperationKind_OPERATION_KIND_RESTORE
	running = requorumv1.OperationState_OPERATION_STATE_RUNNING
	undoing = requorumv1.OperationState_OPERATION_STATE_REVERTING
	success = requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
	refused = requorumv1.OperationState_OPERATION_STATE_REFUSED
	undone  = requorumv1.OperationState_OPERATION_STATE_REVERTED
)

// effect is a step that leaves something on every node, and can take it away again.
func effect(name string) operation.Step {
	s := lasting(name)
	s.Undo = func(ctx context.Context, run *operation.Run, node string) error {
		_, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_DropCopy{DropCopy: &agentv1.DropCopy{Name: name}}})
		return err
	}
	return s
}

// lasting is a step that leaves something on every node for good.
func lasting(name string) operation.Step {
	return operation.Step{Name: name, Do: func(ctx context.Context, run *operation.Run) error {
		_, err := run.AskAll(ctx, run.Operation().GetNodes(), func(string) *agentv1.Task {
			return &agentv1.Task{Spec: &agentv1.Task_SaveCopy{SaveCopy: &agentv1.SaveCopy{Name: name}}}
		})
		return err
	}}
}

// pivot is a lasting step after which there is no way back.
func pivot(name string) operation.Step {
	s := lasting(name)
	s.Pivot = true
	return s
}

// check is a step that only asks.
func check(name string) operation.Step {
	return operation.Step{Name: name, Check: true, Do: func(ctx context.Context, run *operation.Run) error {
		_, err := run.AskAll(ctx, run.Operation().GetNodes(), func(string) *agentv1.Task {
			return &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{}}}
		})
		return err
	}}
}

// world is a controller's engine with its journal and its nodes. The journal and the nodes outlive it.
type world struct {
	*testing.T
	journal *memory
	fleet   *fleet
	plan    operation.Plan
	settle  func(context.Context, *operation.Run) error
	end     func(store.Tx, *journalv1.OperationRecord) error
	engine  *operation.Engine
	epoch   uint64
	cancel  context.CancelFunc
	ended   chan error
}

// newWorld has a running engine for a plan on nodes a, b and c. It lives in a bubble of synctest.
func newWorld(t *testing.T, plan ...operation.Step) *world {
	w := &world{T: t, journal: newMemory(), fleet: newFleet("a", "b", "c"), plan: plan}
	w.start()
	return w
}

// start starts a controller on the journal as it is.
func (w *world) start() {
	w.epoch++
	builders := map[requorumv1.OperationKind]operation.Builder{
		kind: func(*operation.Run) operation.Job { return operation.Job{Plan: w.plan, Settle: w.settle, End: w.end} },
		requorumv1.OperationKind_OPERATION_KIND_CHECK: func(*operation.Run) operation.Job {
			return operation.Job{Plan: operation.Plan{check("look")}}
		},
	}
	w.engine = operation.NewEngine(w.journal, w.fleet, w.epoch, builders, hclog.NewNullLogger())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	engine := w.engine
	go func() { ended <- engine.Run(ctx) }()
	w.cancel, w.ended = cancel, ended
	synctest.Wait()
}

// stop ends the controller in an orderly way.
func (w *world) stop() {
	w.Helper()
	w.cancel()
	if err := <-w.ended; err != nil {
		w.Errorf("engine: %v", err)
	}
}

// crashed waits until the controller has died of its journal.
func (w *world) crashed() {
	w.Helper()
	if err := <-w.ended; !errors.Is(err, errPower) {
		w.Errorf("engine ended with %v, want %v", err, errPower)
	}
	w.cancel()
}

func record(requestID string) *journalv1.OperationRecord {
	return &journalv1.OperationRecord{Operation: &requorumv1.Operation{
		Kind: kind, Cluster: "prod", Nodes: []string{"a", "b", "c"}, RequestId: requestID, RequestedBy: "alice",
	}}
}

// begin starts an operation and returns its ID.
func (w *world) begin() string {
	w.Helper()
	op, err := w.engine.Start(record(""), nil)
	if err != nil {
		w.Fatalf("start: %v", err)
	}
	return op.GetId()
}

// wait returns the operation once it has ended.
func (w *world) wait(id string) *requorumv1.Operation {
	w.Helper()
	op, err := w.until(id, func(*requorumv1.Operation) bool { return false })
	if err != nil {
		w.Fatalf("watch: %v", err)
	}
	return op
}

var errSeen = errors.New("seen")

// until returns the operation once it is as wanted, or has ended.
func (w *world) until(id string, wanted func(*requorumv1.Operation) bool) (last *requorumv1.Operation, err error) {
	err = w.engine.Watch(w.Context(), id, func(op *requorumv1.Operation) error {
		last = op
		if wanted(op) {
			return errSeen
		}
		return nil
	})
	if errors.Is(err, errSeen) {
		err = nil
	}
	return last, err
}

// expect checks how an operation has ended, and what is left on the nodes.
func (w *world) expect(op *requorumv1.Operation, state requorumv1.OperationState, left string) {
	w.Helper()
	if op.GetState() != state {
		w.Errorf("state %v, want %v (failure: %v)", op.GetState(), state, op.GetFailure())
	}
	if got := w.fleet.left(); got != left {
		w.Errorf("left on the nodes: %q, want %q", got, left)
	}
	if op.GetEnded() == nil || op.GetAttention() != "" {
		w.Errorf("an ended operation has an end and asks for nothing: %v", op)
	}
}

// pass lets time pass in the bubble.
func pass(d time.Duration) { <-time.After(d) }

// states lists the steps' states, as "stage=DONE swap=PENDING".
func states(op *requorumv1.Operation) string {
	all := make([]string, len(op.GetSteps()))
	for i, s := range op.GetSteps() {
		all[i] = s.GetName() + "=" + strings.TrimPrefix(s.GetState().String(), "STEP_STATE_")
	}
	return strings.Join(all, " ")
}

// stored returns the operation's record as the journal has it.
func (w *world) stored(id string) *journalv1.OperationRecord {
	w.Helper()
	rec := new(journalv1.OperationRecord)
	if err := w.journal.View(func(tx store.Tx) error { return store.Load(tx, store.Operations, id, rec) }); err != nil {
		w.Fatal(err)
	}
	return rec
}

// everywhere is what a world's nodes hold after those steps.
func everywhere(steps ...string) string {
	var all []string
	for _, node := range []string{"a", "b", "c"} {
		for _, s := range steps {
			all = append(all, node+":"+s)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
