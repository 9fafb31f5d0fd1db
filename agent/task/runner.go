// Package task runs the tasks that a controller gives to this node: each once, whatever the number of
// times it is delivered, and those that change something one at a time.
package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/agent/journal"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	"github.com/requorum/requorum/internal/redact"
	"github.com/requorum/requorum/internal/tasks"
)

// Handler does a task. It may be called again for the same task after a crash, so it looks at the node,
// not at memory.
type Handler func(ctx context.Context, task *agentv1.Task, p *Progress) (*agentv1.TaskResult, error)

// Runner runs tasks.
type Runner struct {
	journal *journal.Journal
	handle  Handler
	log     hclog.Logger
	ctx     context.Context
	wg      sync.WaitGroup
	hung    time.Duration // how long a task in a remote may take to end once it is cancelled

	mu      sync.Mutex
	known   map[string]*execution // by task ID: running, or ended with an answer that was not taken yet
	ended   []string              // IDs of known tasks that have ended, the oldest first
	changer *execution            // the task that changes something, or changed it last
	dirty   map[string]*execution // by task ID: those whose report was not sent yet
	wake    chan struct{}
}

// execution is a task that runs, or has ended.
type execution struct {
	task   *agentv1.Task
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed at the end

	// Guarded by Runner.mu.
	report *agentv1.TaskReport
	begun  bool // it does not wait for another one any more
}

// hasEnded tells whether the report is the last one. The caller holds Runner.mu.
func (e *execution) hasEnded() bool {
	return e.report.GetState() != agentv1.TaskState_TASK_STATE_RUNNING
}

const (
	keptReports = 256 // reports of ended tasks that are kept in memory
	hungAfter   = 10 * time.Second
)

var (
	errNotWanted = errors.New("the controller does not want the task any more")
	errDisplaced = errors.New("a newer task takes its place")
)

// NewRunner returns a runner whose tasks end with ctx.
func NewRunner(ctx context.Context, j *journal.Journal, handle Handler, log hclog.Logger) *Runner {
	return &Runner{
		journal: j, handle: handle, log: log, ctx: ctx, hung: hungAfter,
		known: make(map[string]*execution), dirty: make(map[string]*execution), wake: make(chan struct{}, 1),
	}
}

// Wait returns when every task has ended. It is called after the runner's context has, and after the
// last Deliver.
func (r *Runner) Wait() { r.wg.Wait() }

// Deliver takes a task from the controller. A task that is known is reported again; one that is new, or
// that a crash or a cancellation interrupted, is begun. It fails only if the journal does.
func (r *Runner) Deliver(task *agentv1.Task) error {
	if err := r.comesIn(task); err != nil {
		return err
	}
	return r.deliver(task)
}

func (r *Runner) deliver(task *agentv1.Task) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.known[task.GetId()]
	if before != nil && (before.hasEnded() || before.ctx.Err() == nil) {
		r.mark(before)
		return nil
	}
	refusal, err := r.refuse(task)
	if err != nil {
		return err
	}
	if refusal != nil { // not kept: the task may come again from one who is obeyed
		r.mark(ended(task, refusal))
		return nil
	}
	rec, err := r.journal.Task(task.GetId())
	if err != nil {
		return err
	}
	switch rec.GetReport().GetState() {
	case agentv1.TaskState_TASK_STATE_DONE, agentv1.TaskState_TASK_STATE_FAILED:
		r.keep(ended(redact.Message(task), rec.GetReport()))
		return nil
	}
	r.begin(task, before)
	return nil
}

// refuse returns the answer to a task that must not be done, nil if it may be.
func (r *Runner) refuse(task *agentv1.Task) (*agentv1.TaskReport, error) {
	state, err := r.journal.State()
	if err != nil {
		return nil, err
	}
	switch {
	case task.GetEpoch() != state.GetEpoch() || task.GetControllerId() != state.GetControllerId():
		r.log.Error("task refused: it comes from a controller that is not obeyed", "task", task.GetId(), "epoch", task.GetEpoch(), "obeyed_epoch", state.GetEpoch())
		return failed(task, &fencedError{obeyed: state.GetEpoch(), got: task.GetEpoch()}), nil
	case Kind(task) == "" || task.GetId() == "":
		return failed(task, errNotKnown), nil
	}
	return nil, nil
}

func failed(task *agentv1.Task, err error) *agentv1.TaskReport {
	return &agentv1.TaskReport{TaskId: task.GetId(), State: agentv1.TaskState_TASK_STATE_FAILED, Error: describe(err)}
}

// ended returns an execution of a task that is answered without being done.
func ended(task *agentv1.Task, report *agentv1.TaskReport) *execution {
	e := &execution{task: task, ctx: context.Background(), cancel: func(error) {}, done: make(chan struct{}), report: report, begun: true}
	close(e.done)
	return e
}

// keep makes the answer of a task that has ended known, and forgets the oldest where there are too many.
// The caller holds mu.
func (r *Runner) keep(e *execution) {
	id := e.task.GetId()
	r.known[id] = e
	r.ended = append(r.ended, id)
	if len(r.ended) > keptReports {
		delete(r.known, r.ended[0])
		r.ended = r.ended[1:]
	}
	r.mark(e)
}

// begin starts a task after the one of the same ID that was cancelled. One that changes something first
// waits for the one before it, which it cancels: the controller has given that one up. For one that hangs in a remote it
// does not wait for ever. The caller holds mu.
func (r *Runner) begin(task *agentv1.Task, cancelled *execution) {
	e := &execution{task: task, done: make(chan struct{}), report: &agentv1.TaskReport{TaskId: task.GetId(), State: agentv1.TaskState_TASK_STATE_RUNNING}}
	e.ctx, e.cancel = context.WithCancelCause(r.ctx)
	r.known[task.GetId()] = e
	r.mark(e)
	before := []*execution{cancelled}
	if !tasks.Question(task) {
		before = append(before, r.changer)
		r.changer = e
	}
	before = slices.DeleteFunc(before, func(b *execution) bool { return b == nil })
	var waits []func()
	for _, b := range before {
		b.cancel(errDisplaced)
		waits = append(waits, r.waitFor(b))
	}
	r.wg.Go(func() {
		defer close(e.done)
		defer e.cancel(nil)
		for _, wait := range waits {
			wait()
		}
		r.run(e)
	})
}

// waitFor returns a function that waits until a task which was cancelled has ended, or is left behind: a mounted directory whose
// server is gone holds whoever writes there, and nothing can end that. What is left behind replaces nothing any more once it gets
// on. The caller of waitFor holds mu.
func (r *Runner) waitFor(e *execution) func() {
	if !leavable(e.task) {
		return func() { <-e.done }
	}
	log := r.log.With("task", e.task.GetId())
	return func() {
		timer := time.NewTimer(r.hung)
		defer timer.Stop()
		select {
		case <-e.done:
		case <-timer.C:
			log.Error("the task hangs in its remote and is left behind: is the directory's server there?")
		}
	}
}

// leavable tells whether a task may go on beside another one: it reads what is on this node, and changes only what is in a remote.
func leavable(task *agentv1.Task) bool {
	switch task.GetSpec().(type) {
	case *agentv1.Task_UploadCopy, *agentv1.Task_UploadFiles, *agentv1.Task_DropRemote:
		return true
	}
	return false
}

func (r *Runner) run(e *execution) {
	log := r.log.With("task", e.task.GetId())
	result, err := r.journaled(e, log)
	report := &agentv1.TaskReport{TaskId: e.task.GetId(), State: agentv1.TaskState_TASK_STATE_DONE, Result: result}
	if err != nil {
		report = failed(e.task, err)
	}
	report.RemoteMarker = r.markerOf(e)
	if e.ctx.Err() == nil && !tasks.Question(e.task) { // a task that was cut short is done again if it is delivered again
		if err := r.note(e.task, report); err != nil {
			log.Error("task cannot be journaled", "error", err)
			report = failed(e.task, fmt.Errorf("journal the task's end: %w", err))
		}
	}
	r.end(e, report, log)
}

// markerOf returns what a task has told of the marker of its remote.
func (r *Runner) markerOf(e *execution) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.report.GetRemoteMarker()
}

// end makes a task's last report known. That of a task which was cut short is not kept, and is told only
// to a controller that may still wait for it.
func (r *Runner) end(e *execution, report *agentv1.TaskReport, log hclog.Logger) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := e.report
	report.DoneBytes, report.TotalBytes, report.Ticks = last.GetDoneBytes(), last.GetTotalBytes(), last.GetTicks()+1
	e.report = report
	e.task = redact.Message(e.task) // what is kept of it is to answer with
	newest := r.known[e.task.GetId()] == e
	cut := context.Cause(e.ctx)
	switch {
	case cut == nil:
		if text := report.GetError().GetMessage(); text != "" {
			log.Warn("task failed", "error", text)
		}
		r.keep(e)
	case newest:
		delete(r.known, e.task.GetId())
		delete(r.dirty, e.task.GetId())
		if errors.Is(cut, errDisplaced) {
			e.report = failed(e.task, fmt.Errorf("%w: %w", context.Canceled, cut))
			r.mark(e)
		}
	}
	if cut != nil {
		log.Info("task was cut short", "reason", cut)
	}
}

// journaled notes that the task begins, and does it.
func (r *Runner) journaled(e *execution, log hclog.Logger) (*agentv1.TaskResult, error) {
	r.mu.Lock()
	e.begun = true
	r.mu.Unlock()
	if err := e.ctx.Err(); err != nil {
		return nil, err
	}
	if !tasks.Question(e.task) {
		log.Info("task begins")
		if err := r.note(e.task, &agentv1.TaskReport{TaskId: e.task.GetId(), State: agentv1.TaskState_TASK_STATE_RUNNING}); err != nil {
			return nil, err
		}
	}
	return r.do(e)
}

func (r *Runner) note(task *agentv1.Task, report *agentv1.TaskReport) error {
	return r.journal.PutTask(&journalv1.TaskRecord{Task: redact.Message(task), Report: report, Started: timestamppb.New(time.Now())})
}

// Cancel ends a task that is not wanted any more, or whose answer the controller has taken. Its report is
// not wanted either.
func (r *Runner) Cancel(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.known[id]
	if e == nil {
		return
	}
	delete(r.dirty, id)
	if at := slices.Index(r.ended, id); at >= 0 {
		r.ended = slices.Delete(r.ended, at, at+1)
		delete(r.known, id)
		return
	}
	e.cancel(errNotWanted)
}

// Resume begins a session in which exactly these tasks are wanted: it ends those that a cancellation
// which was lost has left behind, and queues the report of every other task that is known. A change
// that has begun goes on: a controller that has just started may not yet have asked for it again, and
// the next change ends it.
func (r *Runner) Resume(wanted []*agentv1.Task) {
	ids := make(map[string]bool, len(wanted))
	for _, task := range wanted {
		ids[task.GetId()] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.dirty)
	for id, e := range r.known {
		if !ids[id] && !e.hasEnded() && (tasks.Question(e.task) || !e.begun) {
			e.cancel(errNotWanted)
			continue
		}
		r.mark(e)
	}
}

// mark queues a task's report. The caller holds mu.
func (r *Runner) mark(e *execution) {
	r.dirty[e.task.GetId()] = e
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Next returns the reports that have changed since it was last called. It waits for at least one. After a
// failure the session is to be ended; the next one begins with Resume.
func (r *Runner) Next(ctx context.Context) ([]*agentv1.TaskReport, error) {
	for {
		if reports := r.take(); len(reports) > 0 {
			return reports, r.goOut(ctx, reports)
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
	reports := make([]*agentv1.TaskReport, 0, len(r.dirty))
	for _, e := range r.dirty {
		reports = append(reports, proto.CloneOf(e.report))
	}
	clear(r.dirty)
	return reports
}
