// Package task runs the tasks that a controller gives to this node: each once, whatever the number of
// times it is delivered, and those that change something one at a time.
package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/agent/journal"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	"github.com/requorum/requorum/internal/fault"
)

// Handler does a task. It may be called again for the same task after a crash, so it looks at the node,
// not at memory.
type Handler func(ctx context.Context, task *agentv1.Task, p *Progress) (*agentv1.TaskResult, error)

// Runner runs tasks.
type Runner struct {
	journal *journal.Journal
	handle  Handler
	log     hclog.Logger

	mu      sync.Mutex
	ctx     context.Context
	wg      sync.WaitGroup
	known   map[string]*execution // by task ID: running, or ended in this process
	ended   []string              // IDs of known tasks that have ended, the oldest first
	changer *execution            // the task that changes something, or changed it last
	dirty   map[string]bool       // tasks whose report was not sent yet
	wake    chan struct{}
}

// execution is a task that runs, or has ended.
type execution struct {
	task   *agentv1.Task
	cancel context.CancelFunc
	done   chan struct{}
	report *agentv1.TaskReport // guarded by Runner.mu
}

const keptReports = 256 // reports of ended tasks that are kept in memory

// NewRunner returns a runner whose tasks end with ctx.
func NewRunner(ctx context.Context, j *journal.Journal, handle Handler, log hclog.Logger) *Runner {
	return &Runner{
		journal: j, handle: handle, log: log, ctx: ctx,
		known: make(map[string]*execution), dirty: make(map[string]bool), wake: make(chan struct{}, 1),
	}
}

// Wait returns when every task has ended. It is called after the runner's context has.
func (r *Runner) Wait() { r.wg.Wait() }

// Deliver takes a task from the controller. A task that is known is reported again; one that is new, or
// that a crash interrupted, is begun.
func (r *Runner) Deliver(task *agentv1.Task) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := task.GetId()
	if known := r.known[id]; known != nil {
		r.mark(id)
		return nil
	}
	if refused, err := r.refuse(task); refused || err != nil {
		return err
	}
	rec, err := r.journal.Task(id)
	if err != nil {
		return err
	}
	if report := rec.GetReport(); report.GetState() == agentv1.TaskState_TASK_STATE_DONE || report.GetState() == agentv1.TaskState_TASK_STATE_FAILED {
		r.answer(task, report)
		return nil
	}
	r.begin(task)
	return nil
}

// refuse answers a task of a controller that is not obeyed any more.
func (r *Runner) refuse(task *agentv1.Task) (bool, error) {
	state, err := r.journal.State()
	if err != nil {
		return false, err
	}
	if task.GetEpoch() == state.GetEpoch() && task.GetControllerId() == state.GetControllerId() {
		return false, nil
	}
	r.log.Error("task refused: it comes from a controller that is not obeyed", "task", task.GetId(), "epoch", task.GetEpoch(), "obeyed_epoch", state.GetEpoch())
	r.answer(task, &agentv1.TaskReport{
		TaskId: task.GetId(), State: agentv1.TaskState_TASK_STATE_FAILED,
		Error: &agentv1.TaskError{
			Code:    agentv1.TaskErrorCode_TASK_ERROR_CODE_FENCED,
			Message: fmt.Sprintf("the node obeys a controller of epoch %d, not of %d", state.GetEpoch(), task.GetEpoch()),
		},
	})
	return true, nil
}

// answer makes a report known without running anything. The caller holds mu.
func (r *Runner) answer(task *agentv1.Task, report *agentv1.TaskReport) {
	done := make(chan struct{})
	close(done)
	r.known[task.GetId()] = &execution{task: task, cancel: func() {}, done: done, report: report}
	r.forget(task.GetId())
	r.mark(task.GetId())
}

// forget bounds the number of ended tasks that are kept in memory. The caller holds mu.
func (r *Runner) forget(ended string) {
	r.ended = append(r.ended, ended)
	if len(r.ended) > keptReports {
		delete(r.known, r.ended[0])
		r.ended = r.ended[1:]
	}
}

// begin starts a task. One that changes something first waits for the one before it, which it cancels:
// the controller has given that one up. The caller holds mu.
func (r *Runner) begin(task *agentv1.Task) {
	ctx, cancel := context.WithCancel(r.ctx)
	e := &execution{task: task, cancel: cancel, done: make(chan struct{}), report: &agentv1.TaskReport{TaskId: task.GetId(), State: agentv1.TaskState_TASK_STATE_RUNNING}}
	r.known[task.GetId()] = e
	r.mark(task.GetId())
	var before *execution
	if changes(task) {
		before, r.changer = r.changer, e
	}
	r.wg.Go(func() {
		defer close(e.done)
		defer cancel()
		if before != nil {
			before.cancel()
			<-before.done
		}
		r.run(ctx, e)
	})
}

// changes tells whether a task changes something on the node, as opposed to looking or serving.
func changes(task *agentv1.Task) bool {
	switch task.GetSpec().(type) {
	case *agentv1.Task_InspectNode, *agentv1.Task_HashKv, *agentv1.Task_InspectCopy, *agentv1.Task_HashCopy,
		*agentv1.Task_Verify, *agentv1.Task_ListCopies, *agentv1.Task_PushCopy, *agentv1.Task_ServeCopy:
		return false
	}
	return true
}

func (r *Runner) run(ctx context.Context, e *execution) {
	log := r.log.With("task", e.task.GetId())
	log.Debug("task begins")
	result, err := r.journaled(ctx, e)
	report := &agentv1.TaskReport{TaskId: e.task.GetId(), State: agentv1.TaskState_TASK_STATE_DONE, Result: result}
	if err != nil {
		report.State, report.Result, report.Error = agentv1.TaskState_TASK_STATE_FAILED, nil, describe(err)
		log.Warn("task failed", "error", err)
	}
	if ctx.Err() == nil && changes(e.task) { // a task that was cut short is done again if it is delivered again
		if err := r.note(e.task, report); err != nil {
			log.Error("task cannot be journaled", "error", err)
			report.State, report.Result, report.Error = agentv1.TaskState_TASK_STATE_FAILED, nil, describe(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := e.report
	report.DoneBytes, report.TotalBytes, report.Ticks = last.GetDoneBytes(), last.GetTotalBytes(), last.GetTicks()+1
	e.report = report
	if ctx.Err() != nil {
		delete(r.known, e.task.GetId())
		return
	}
	r.forget(e.task.GetId())
	r.mark(e.task.GetId())
}

// journaled notes that the task begins, and does it.
func (r *Runner) journaled(ctx context.Context, e *execution) (*agentv1.TaskResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if changes(e.task) {
		if err := r.note(e.task, &agentv1.TaskReport{TaskId: e.task.GetId(), State: agentv1.TaskState_TASK_STATE_RUNNING}); err != nil {
			return nil, err
		}
	}
	point := "agent/" + Kind(e.task)
	if err := fault.At(ctx, point+"/before"); err != nil {
		return nil, err
	}
	result, err := r.handle(ctx, e.task, &Progress{runner: r, execution: e})
	if err != nil {
		return nil, err
	}
	return result, fault.At(ctx, point+"/after")
}

func (r *Runner) note(task *agentv1.Task, report *agentv1.TaskReport) error {
	return r.journal.PutTask(&journalv1.TaskRecord{Task: task, Report: report, Started: timestamppb.New(time.Now())})
}

// Cancel stops a task that is not wanted any more. Its report is not wanted either.
func (r *Runner) Cancel(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.known[id]; e != nil {
		e.cancel()
	}
}

// mark queues a task's report. The caller holds mu.
func (r *Runner) mark(id string) {
	r.dirty[id] = true
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// MarkAll queues the report of every task that is known, for a session that has just begun.
func (r *Runner) MarkAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.known {
		r.mark(id)
	}
}

// Next returns the reports that have changed since it was last called. It waits for at least one.
func (r *Runner) Next(ctx context.Context) ([]*agentv1.TaskReport, error) {
	for {
		if reports := r.take(); len(reports) > 0 {
			return reports, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-r.wake:
		}
	}
}

func (r *Runner) take() []*agentv1.TaskReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	var reports []*agentv1.TaskReport
	for id := range r.dirty {
		if e := r.known[id]; e != nil {
			reports = append(reports, proto.CloneOf(e.report))
		}
	}
	clear(r.dirty)
	return reports
}

// errNotKnown is for a task without a spec that this agent knows.
var errNotKnown = errors.New("this agent does not know such a task; it may be older than the controller: upgrade it")
