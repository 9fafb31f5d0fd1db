package operation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

// BusyError refuses an operation because another one is changing the cluster.
type BusyError struct{ Cluster, Running string }

func (e *BusyError) Error() string {
	return fmt.Sprintf("operation %s is changing cluster %s; wait for it (requorum operation watch %s) or cancel it", e.Running, e.Cluster, e.Running)
}

// NotFoundError says that there is no such operation.
type NotFoundError struct{ ID string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("there is no operation %q; requorum operation ls shows them", e.ID)
}

// RequestReusedError refuses a request ID that was used for something else.
type RequestReusedError struct{ RequestID, Operation string }

func (e *RequestReusedError) Error() string {
	return fmt.Sprintf("request ID %s was used for operation %s, which is another one; use a new request ID", e.RequestID, e.Operation)
}

// PastPivotError refuses to cancel an operation that only goes forward.
type PastPivotError struct{ ID string }

func (e *PastPivotError) Error() string {
	return fmt.Sprintf("operation %s has passed the point from which it only goes forward, and cannot be cancelled", e.ID)
}

// ErrNotDriving says that the engine has not begun to drive operations, or does so no more. Operations
// under way go on when the controller has started.
var ErrNotDriving = errors.New("the controller is starting or stopping; operations under way go on when it has started, try again then")

// Audit notes the ends of operations.
type Audit interface {
	// Ended notes the end of an operation in the transaction that journals it.
	Ended(tx store.Tx, op *requorumv1.Operation) error
	// Flush is called when that is durable.
	Flush()
}

// Engine runs operations, one at a time on a cluster.
type Engine struct {
	store    store.Store
	nodes    Nodes
	log      hclog.Logger
	builders map[requorumv1.OperationKind]Builder
	epoch    uint64

	// Audit is told of every operation that ends; nil for nobody. It is set before Run and Abandon.
	Audit Audit

	mu      sync.Mutex
	ctx     context.Context // ends when Run's does; nil before Run and once Run is ending
	running map[string]*Run // by operation ID
	wg      sync.WaitGroup
	failed  chan error
}

// NewEngine returns an engine that builds the jobs of each kind of operation with builders.
func NewEngine(s store.Store, nodes Nodes, epoch uint64, builders map[requorumv1.OperationKind]Builder, log hclog.Logger) *Engine {
	for kind, build := range builders {
		declarePoints(kind, build(nil).Plan)
	}
	return &Engine{
		store: s, nodes: nodes, log: log, builders: builders, epoch: epoch,
		running: make(map[string]*Run), failed: make(chan error, 1),
	}
}

// Run resumes what was under way and drives operations until ctx ends. It fails when the journal
// cannot be read or written.
func (e *Engine) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := e.resume(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-e.failed:
		}
	}
	cancel(err)
	e.close()
	e.wg.Wait()
	return err
}

// close keeps new operations out, so that none begins once Run waits for the last one.
func (e *Engine) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ctx = nil
}

// Abandon ends every operation that the journal has as under way, without undoing anything. It is
// called before Run by a controller whose data came back from an older copy: nobody knows how those
// operations went on, and resuming one could undo what was finished long ago.
func (e *Engine) Abandon() error {
	records, err := e.underWay()
	if err != nil {
		return err
	}
	for _, rec := range records {
		run, err := e.newRun(proto.CloneOf(rec))
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		err = run.finish(requorumv1.OperationState_OPERATION_STATE_ABANDONED, requorumv1.Phase_PHASE_FAILED, func(rec *journalv1.OperationRecord) {
			rec.GetOperation().Failure = &requorumv1.Failure{
				Message: "the controller came back from an older copy of its data, which does not know how the operation went on",
				Advice:  "look at the nodes (requorum cluster status) before you start another one",
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) resume(ctx context.Context) error {
	records, err := e.underWay()
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ctx = ctx
	for _, rec := range records {
		e.log.Info("resuming operation", "operation", rec.GetOperation().GetId(), "state", rec.GetOperation().GetState())
		run, err := e.newRun(proto.CloneOf(rec))
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if err := fits(run.plan, rec.GetOperation()); err != nil {
			return err
		}
		e.launch(ctx, run)
	}
	return nil
}

// underWay returns the journaled operations that have not ended.
func (e *Engine) underWay() ([]*journalv1.OperationRecord, error) {
	var records []*journalv1.OperationRecord
	err := e.store.View(func(tx store.Tx) error {
		return tx.Each(store.Operations, "", func(id string, data []byte) error {
			rec := new(journalv1.OperationRecord)
			if err := proto.Unmarshal(data, rec); err != nil {
				return fmt.Errorf("journal: operation %s cannot be read: %w", id, err)
			}
			if active(rec.GetOperation()) {
				records = append(records, rec)
			}
			return nil
		})
	})
	return records, err
}

func active(op *requorumv1.Operation) bool {
	switch op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_RUNNING, requorumv1.OperationState_OPERATION_STATE_REVERTING:
		return true
	}
	return false
}

// Start journals a new operation and begins it. rec carries kind, cluster, snapshot, nodes,
// requester, request ID and the job's state; begin, which may be nil, runs in the transaction that
// accepts the operation and can refuse it. A request ID that was seen before returns its operation.
func (e *Engine) Start(rec *journalv1.OperationRecord, begin func(store.Tx, *journalv1.OperationRecord) error) (*requorumv1.Operation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx == nil || e.ctx.Err() != nil {
		return nil, ErrNotDriving
	}
	op := rec.GetOperation()
	if known, err := e.byRequest(rec); known != nil || err != nil {
		return known, err
	}
	if busy := e.busy(op.GetCluster()); busy != "" {
		return nil, &BusyError{Cluster: op.GetCluster(), Running: busy}
	}
	id, err := e.nextID()
	if err != nil {
		return nil, err
	}
	op.Id = id
	op.State, op.Phase, op.Created = requorumv1.OperationState_OPERATION_STATE_RUNNING, requorumv1.Phase_PHASE_STARTED, now()
	run, err := e.newRun(rec)
	if err != nil {
		return nil, err
	}
	op.Steps = run.plan.steps()
	err = e.store.Update(func(tx store.Tx) error {
		if begin != nil {
			if err := begin(tx, rec); err != nil {
				return err
			}
		}
		if op.GetRequestId() != "" {
			if err := tx.Put(store.Requests, op.GetRequestId(), []byte(op.GetId())); err != nil {
				return err
			}
		}
		return store.Save(tx, store.Operations, op.GetId(), rec)
	})
	if err != nil {
		return nil, err
	}
	e.log.Info("operation accepted", "operation", op.GetId(), "kind", op.GetKind(), "cluster", op.GetCluster(), "by", op.GetRequestedBy())
	known := proto.CloneOf(op)
	e.launch(e.ctx, run)
	return known, nil
}

// nextID returns an ID that comes after that of every other operation, also when the clock was put back since: the
// order of IDs is that in which operations began.
func (e *Engine) nextID() (string, error) {
	newest := ""
	err := e.store.View(func(tx store.Tx) error {
		return tx.Each(store.Operations, "", func(id string, _ []byte) error {
			newest = max(newest, id)
			return nil
		})
	})
	if err != nil {
		return "", err
	}
	id := ulid.Make()
	if last, err := ulid.ParseStrict(newest); err == nil && id.Compare(last) <= 0 {
		if err := id.SetTime(last.Time() + 1); err != nil {
			return "", fmt.Errorf("name the operation: %w", err)
		}
	}
	return id.String(), nil
}

// Repeated returns the operation that a request ID has started before, nil if there is none. digest is the
// Digest of the request.
func (e *Engine) Repeated(requestID string, kind requorumv1.OperationKind, cluster, digest string) (*requorumv1.Operation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.byRequest(&journalv1.OperationRecord{
		Operation:     &requorumv1.Operation{RequestId: requestID, Kind: kind, Cluster: cluster},
		RequestDigest: digest,
	})
}

// byRequest returns the operation that the request ID has started before, if any.
func (e *Engine) byRequest(asked *journalv1.OperationRecord) (*requorumv1.Operation, error) {
	op := asked.GetOperation()
	if op.GetRequestId() == "" {
		return nil, nil
	}
	rec := new(journalv1.OperationRecord)
	err := e.store.View(func(tx store.Tx) error {
		id, err := tx.Get(store.Requests, op.GetRequestId())
		if err != nil {
			return err
		}
		return store.Load(tx, store.Operations, string(id), rec)
	})
	known := rec.GetOperation()
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case known.GetKind() != op.GetKind() || known.GetCluster() != op.GetCluster() || rec.GetRequestDigest() != asked.GetRequestDigest():
		return nil, &RequestReusedError{RequestID: op.GetRequestId(), Operation: known.GetId()}
	}
	if run := e.running[known.GetId()]; run != nil {
		return run.Operation(), nil
	}
	return known, nil
}

func (e *Engine) busy(cluster string) string {
	for id, run := range e.running {
		if run.Cluster() == cluster && active(run.Operation()) {
			return id
		}
	}
	return ""
}

// newRun returns a run that owns rec, ready to be launched.
func (e *Engine) newRun(rec *journalv1.OperationRecord) (*Run, error) {
	op := rec.GetOperation()
	build := e.builders[op.GetKind()]
	if build == nil {
		return nil, fmt.Errorf("operation %s is of the unknown kind %s", op.GetId(), op.GetKind())
	}
	run := &Run{
		Log: e.log.With("operation", op.GetId(), "cluster", op.GetCluster()),
		id:  op.GetId(), cluster: op.GetCluster(), kind: op.GetKind(), nodes: e.nodes, store: e.store, epoch: e.epoch, record: rec,
		changed: make(chan struct{}), done: make(chan struct{}), stuck: make(map[string]string),
	}
	job := build(run)
	run.plan, run.settle, run.end = job.Plan, job.Settle, job.End
	run.audit = e.Audit
	return run, nil
}

// launch drives an operation in a goroutine of its own. The caller holds mu.
func (e *Engine) launch(ctx context.Context, run *Run) {
	e.running[run.id] = run
	e.wg.Go(func() {
		err := run.drive(ctx)
		e.mu.Lock()
		delete(e.running, run.id)
		e.mu.Unlock()
		close(run.done)
		if err == nil || ctx.Err() != nil {
			return
		}
		e.log.Error("operation cannot be driven on; it resumes at the next start", "operation", run.id, "error", err)
		select {
		case e.failed <- err:
		default: // another one has failed before
		}
	})
}

// fits refuses a journaled operation whose steps are not those of its plan, as after a downgrade.
func fits(plan Plan, op *requorumv1.Operation) error {
	same := slices.EqualFunc(plan, op.GetSteps(), func(s Step, j *requorumv1.Step) bool { return s.Name == j.GetName() })
	if same {
		return nil
	}
	return fmt.Errorf("journal: operation %s was begun by a version of requorum with another plan; finish it with that version", op.GetId())
}

// Running returns the operation that is changing a cluster, empty if none.
func (e *Engine) Running(cluster string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.busy(cluster)
}

// Get returns an operation, under way or ended.
func (e *Engine) Get(id string) (*requorumv1.Operation, error) {
	if run := e.find(id); run != nil {
		return run.Operation(), nil
	}
	rec := new(journalv1.OperationRecord)
	err := e.store.View(func(tx store.Tx) error { return store.Load(tx, store.Operations, id, rec) })
	if errors.Is(err, store.ErrNotFound) {
		return nil, &NotFoundError{ID: id}
	}
	return rec.GetOperation(), err
}

func (e *Engine) find(id string) *Run {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running[id]
}

// List returns at most limit operations of a cluster, or of all where it is empty, newest first.
func (e *Engine) List(cluster string, limit int) ([]*requorumv1.Operation, error) {
	var ops []*requorumv1.Operation
	err := e.store.View(func(tx store.Tx) error {
		return tx.Each(store.Operations, "", func(_ string, data []byte) error {
			rec := new(journalv1.OperationRecord)
			if err := proto.Unmarshal(data, rec); err != nil {
				return err
			}
			if op := rec.GetOperation(); cluster == "" || op.GetCluster() == cluster {
				ops = append(ops, op)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(ops) // IDs are in the order of time
	ops = ops[:min(max(limit, 0), len(ops))]
	for i, op := range ops {
		if run := e.find(op.GetId()); run != nil {
			ops[i] = run.Operation()
		}
	}
	return ops, nil
}

// Cancel asks an operation to stop and put everything back. Cancelling one that has ended, or is putting
// things back, changes nothing.
func (e *Engine) Cancel(id string) (*requorumv1.Operation, error) {
	run := e.find(id)
	if run == nil {
		return e.ended(id)
	}
	refused := false
	err := run.Journal(func(rec *journalv1.OperationRecord) {
		op := rec.GetOperation()
		refused = active(op) && op.GetPastPivot()
		op.CancelRequested = op.GetCancelRequested() || active(op) && !refused
	})
	if err != nil {
		return nil, err
	}
	if refused {
		return nil, &PastPivotError{ID: id}
	}
	run.interrupt()
	return run.Operation(), nil
}

// Watch calls f with the operation as it is and at each change, until it has ended or f fails.
// f is not called again before it returned, so a slow watcher sees fewer changes.
func (e *Engine) Watch(ctx context.Context, id string, f func(*requorumv1.Operation) error) error {
	run := e.find(id)
	if run == nil {
		return e.watchEnd(id, f)
	}
	for {
		op, changed := run.Watch()
		if err := f(op); err != nil {
			return err
		}
		if !active(op) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-run.Done():
			return e.watchEnd(id, f)
		case <-changed:
		}
	}
}

// watchEnd shows the end of an operation that is not being driven.
func (e *Engine) watchEnd(id string, f func(*requorumv1.Operation) error) error {
	op, err := e.ended(id)
	if err != nil {
		return err
	}
	return f(op)
}

// ended returns an operation that has ended. One that has not, and is not being driven either, is
// ErrNotDriving.
func (e *Engine) ended(id string) (*requorumv1.Operation, error) {
	op, err := e.Get(id)
	if err != nil {
		return nil, err
	}
	if active(op) {
		return nil, ErrNotDriving
	}
	return op, nil
}
