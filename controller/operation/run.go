package operation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/redact"
	"github.com/requorum/requorum/internal/tasks"
)

// Nodes gives tasks to nodes. Do returns when the node has answered, cannot be reached any more or
// makes no progress; report is called for each sign of progress.
type Nodes interface {
	Do(ctx context.Context, cluster, node string, task *agentv1.Task, report func(*agentv1.TaskReport)) (*agentv1.TaskResult, error)
}

// Run is an operation that is under way. Its methods are safe for concurrent use.
type Run struct {
	Log     hclog.Logger
	id      string
	cluster string
	kind    requorumv1.OperationKind
	nodes   Nodes
	store   store.Store
	epoch   uint64

	mu      sync.Mutex
	record  *journalv1.OperationRecord
	changed chan struct{} // closed and replaced at each change
	cancel  context.CancelCauseFunc
	stuck   map[string]string // what a person has to do on nodes that cannot be put back
	plan    Plan
	settle  func(context.Context, *Run) error
	end     func(store.Tx, *journalv1.OperationRecord) error
	audit   Audit
	done    chan struct{}
	beside  sync.WaitGroup // background tasks

	lastAnswered position // in builds with fault points: the attempt in which a node has answered last
}

// errCancelled is the cause of a step's context that ends because a person cancelled the operation.
var errCancelled = errors.New("cancelled")

// ID returns the operation's ID.
func (r *Run) ID() string { return r.id }

// Cluster returns the name of the cluster that the operation works on.
func (r *Run) Cluster() string { return r.cluster }

// Read calls f with the operation's record, which f must neither change nor keep.
func (r *Run) Read(f func(*journalv1.OperationRecord)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.record)
}

// Snapshot returns a copy of the state of an operation that works on one snapshot.
func (r *Run) Snapshot() *journalv1.SnapshotJob {
	r.mu.Lock()
	defer r.mu.Unlock()
	return proto.CloneOf(r.record.GetSnapshot())
}

// Restore returns a copy of the state of a restore.
func (r *Run) Restore() *journalv1.RestoreJob {
	r.mu.Lock()
	defer r.mu.Unlock()
	return proto.CloneOf(r.record.GetRestore())
}

// Operation returns a copy of what people see of the operation.
func (r *Run) Operation() *requorumv1.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return proto.CloneOf(r.record.GetOperation())
}

// Journal changes the record and makes the change durable before it returns.
func (r *Run) Journal(change func(*journalv1.OperationRecord)) error {
	return r.journal(change, nil)
}

func (r *Run) journal(change func(*journalv1.OperationRecord), also func(store.Tx, *journalv1.OperationRecord) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := proto.CloneOf(r.record)
	change(next)
	err := r.store.Update(func(tx store.Tx) error {
		if also != nil {
			if err := also(tx, next); err != nil {
				return err
			}
		}
		return store.Save(tx, store.Operations, r.id, next)
	})
	if err != nil {
		return fmt.Errorf("journal operation %s: %w", r.id, err)
	}
	r.record = next
	r.signal()
	return nil
}

// Warn adds a warning, once, that people see with the operation.
func (r *Run) Warn(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	r.Log.Warn(text)
	return r.Journal(func(rec *journalv1.OperationRecord) {
		op := rec.GetOperation()
		if !slices.Contains(op.GetWarnings(), text) {
			op.Warnings = append(op.Warnings, text)
		}
	})
}

// signal wakes everybody who watches. The caller holds mu.
func (r *Run) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// position says which step's work a context belongs to.
type position struct {
	step      int
	direction string // doing or undoing
	attempt   string // names the attempt in the IDs of its tasks
	tries     uint32
}

// The two directions of work at a step, as they stand in the IDs of its tasks.
const (
	doing   = "do"
	undoing = "undo"
)

type positionKey struct{}

func withPosition(ctx context.Context, p position) context.Context {
	return context.WithValue(ctx, positionKey{}, p)
}

// ErrNotNeeded is the cause with which a step ends the context of what it has asked several nodes for, once one of
// them has done it.
var ErrNotNeeded = errors.New("another node has done it")

// Ask gives a task, of which only the spec is set, to one node and returns what it found. ctx is the
// one that the step was called with, or made from it.
func (r *Run) Ask(ctx context.Context, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	pos, ok := ctx.Value(positionKey{}).(position)
	if !ok {
		return nil, errOutside
	}
	task = r.address(task, pos, node)
	r.progress(pos, node, &agentv1.TaskReport{State: agentv1.TaskState_TASK_STATE_RUNNING})
	result, err := r.nodes.Do(ctx, r.Cluster(), node, task, func(report *agentv1.TaskReport) { r.progress(pos, node, report) })
	last := &agentv1.TaskReport{State: agentv1.TaskState_TASK_STATE_DONE}
	switch {
	case err != nil && errors.Is(context.Cause(ctx), ErrNotNeeded):
	case errors.Is(err, context.Canceled):
		last = &agentv1.TaskReport{State: agentv1.TaskState_TASK_STATE_FAILED, Detail: "stopped"} // it was another node that failed
	case err != nil:
		last = &agentv1.TaskReport{State: agentv1.TaskState_TASK_STATE_FAILED, Detail: err.Error()}
	}
	r.progress(pos, node, last)
	if err != nil {
		return result, err
	}
	return result, r.answered(ctx, pos)
}

// address returns the task with everything that says where it belongs.
func (r *Run) address(task *agentv1.Task, pos position, node string) *agentv1.Task {
	task = proto.CloneOf(task)
	step := r.plan[pos.step].Name
	task.OperationId, task.Step, task.Attempt = r.id, step, pos.tries
	task.Id = taskID(r.id, step, pos, node, task)
	return task
}

// errOutside is for a task that no step has asked for.
var errOutside = errors.New("a task was asked for outside of a step")

// Background gives a task to a node that runs beside others until ctx ends, at the latest with the step.
// begun is called once: with nil when the node shows that it does the task, or with why it does not. A later
// failure is only logged: what needs the task notices by itself.
func (r *Run) Background(ctx context.Context, node string, task *agentv1.Task, begun func(error)) {
	pos, ok := ctx.Value(positionKey{}).(position)
	if !ok {
		r.Log.Error("background task not given", "node", node, "error", errOutside)
		begun(errOutside)
		return
	}
	task = r.address(task, pos, node)
	var once sync.Once
	r.beside.Go(func() {
		_, err := r.nodes.Do(ctx, r.cluster, node, task, func(report *agentv1.TaskReport) {
			if report.GetTicks() > 0 {
				once.Do(func() { begun(nil) })
			}
		})
		once.Do(func() { begun(err) })
		if err != nil && ctx.Err() == nil {
			r.Log.Warn("background task ended", "node", node, "step", task.GetStep(), "error", err)
		}
	})
}

// AskAll gives a task to each node at once and returns what they found, by node. One failure cancels
// the tasks of the others.
func (r *Run) AskAll(ctx context.Context, nodes []string, task func(node string) *agentv1.Task) (map[string]*agentv1.TaskResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu      sync.Mutex
		first   error
		wg      sync.WaitGroup
		results = make(map[string]*agentv1.TaskResult, len(nodes))
	)
	for _, node := range nodes {
		wg.Go(func() {
			result, err := r.Ask(ctx, node, task(node))
			mu.Lock()
			defer mu.Unlock()
			if err != nil && first == nil {
				first = err
				cancel()
			}
			results[node] = result
		})
	}
	wg.Wait()
	return results, first
}

// taskID names a task so that the same task of the same attempt has the same name after a crash of the
// controller. Questions get a name of their own each time: an old answer is of no use.
func taskID(operation, step string, pos position, node string, task *agentv1.Task) string {
	prefix := fmt.Sprintf("%s/%s/%s/%s/%s/", operation, step, pos.direction, pos.attempt, node)
	if tasks.Question(task) {
		return prefix + ulid.Make().String()
	}
	spec := redact.Message(&agentv1.Task{Spec: task.GetSpec()}) // keys that were replaced meanwhile make no other task
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return prefix + ulid.Make().String()
	}
	sum := sha256.Sum256(data)
	return prefix + hex.EncodeToString(sum[:6])
}

// progress shows how a node's part of a step stands. It is not journaled.
func (r *Run) progress(pos position, node string, report *agentv1.TaskReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := taskOf(r.record.GetOperation().GetSteps()[pos.step], node)
	t.State = shown(report.GetState(), pos.direction)
	if report.GetTotalBytes() > 0 || report.GetDoneBytes() > 0 {
		t.DoneBytes, t.TotalBytes = report.GetDoneBytes(), report.GetTotalBytes()
	}
	if report.GetState() == agentv1.TaskState_TASK_STATE_DONE && t.GetTotalBytes() > 0 {
		t.DoneBytes = t.GetTotalBytes()
	}
	t.Detail = report.GetDetail()
	r.signal()
}

func taskOf(step *requorumv1.Step, node string) *requorumv1.TaskProgress {
	for _, t := range step.GetTasks() {
		if t.GetNode() == node {
			return t
		}
	}
	t := &requorumv1.TaskProgress{Step: step.GetName(), Node: node}
	step.Tasks = append(step.Tasks, t)
	slices.SortFunc(step.Tasks, func(a, b *requorumv1.TaskProgress) int { return strings.Compare(a.GetNode(), b.GetNode()) })
	return t
}

func shown(state agentv1.TaskState, direction string) requorumv1.StepState {
	undo := direction == undoing
	switch {
	case state == agentv1.TaskState_TASK_STATE_FAILED:
		return requorumv1.StepState_STEP_STATE_FAILED
	case state == agentv1.TaskState_TASK_STATE_DONE && undo:
		return requorumv1.StepState_STEP_STATE_UNDONE
	case state == agentv1.TaskState_TASK_STATE_DONE:
		return requorumv1.StepState_STEP_STATE_DONE
	case undo:
		return requorumv1.StepState_STEP_STATE_UNDOING
	}
	return requorumv1.StepState_STEP_STATE_DOING
}

// Watch returns the operation as it is, and a channel that is closed at its next change.
func (r *Run) Watch() (*requorumv1.Operation, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return proto.CloneOf(r.record.GetOperation()), r.changed
}

// Done is closed when the operation has ended, or the engine stopped driving it.
func (r *Run) Done() <-chan struct{} { return r.done }

func now() *timestamppb.Timestamp { return timestamppb.New(time.Now()) }
