package task

import (
	"context"
	"errors"
	"sync/atomic"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/fault"
)

// do does a task between its fault points.
func (r *Runner) do(e *execution) (*agentv1.TaskResult, error) {
	if !fault.Enabled {
		return r.handle(e.ctx, e.task, &Progress{runner: r, execution: e})
	}
	kind, ctx := Kind(e.task), fault.WithTask(e.ctx, e.task.GetId())
	if err := fault.At(ctx, pointBefore(kind)); err != nil {
		return nil, err
	}
	result, err := r.handled(ctx, e)
	if err != nil {
		return nil, err
	}
	return result, fault.At(ctx, pointAfter(kind))
}

// handled does a task that may be made to fail in its middle.
func (r *Runner) handled(ctx context.Context, e *execution) (*agentv1.TaskResult, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	p := &Progress{runner: r, execution: e, middle: once(func() {
		if err := middleOf(ctx, e.task); err != nil {
			fail(err)
		}
	})}
	result, err := r.handle(ctx, e.task, p)
	if failed := context.Cause(ctx); failed != nil && e.ctx.Err() == nil {
		return nil, failed
	}
	return result, err
}

// once returns a function that calls f the first time, and whose other callers wait until f has returned. Unlike those
// of a sync.Once they wait in a way that testing/synctest understands.
func once(f func()) func() {
	var begun atomic.Bool
	returned := make(chan struct{})
	return func() {
		if begun.CompareAndSwap(false, true) {
			f()
			close(returned)
		}
		<-returned
	}
}

func middleOf(ctx context.Context, task *agentv1.Task) error {
	kind := Kind(task)
	if atOnce[kind] {
		return nil
	}
	return fault.At(ctx, pointMiddle(kind))
}

// comesIn is where a task comes in, maybe once more than it should.
func (r *Runner) comesIn(task *agentv1.Task) error {
	if !fault.Enabled || Kind(task) == "" {
		return nil
	}
	err := fault.At(fault.WithTask(r.ctx, task.GetId()), pointDeliver(Kind(task)))
	if errors.Is(err, fault.ErrTwice) {
		return r.deliver(task)
	}
	return err
}

// goOut is where answers are about to be sent.
func (r *Runner) goOut(ctx context.Context, reports []*agentv1.TaskReport) error {
	if !fault.Enabled {
		return nil
	}
	for _, report := range reports {
		kind := r.kindOf(report)
		if kind == "" || report.GetState() == agentv1.TaskState_TASK_STATE_RUNNING {
			continue
		}
		if err := fault.At(fault.WithTask(ctx, report.GetTaskId()), pointReport(kind)); err != nil {
			return err
		}
	}
	return nil
}

// kindOf returns the kind of task that a report is about, empty where that is not known any more.
func (r *Runner) kindOf(report *agentv1.TaskReport) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.known[report.GetTaskId()]; e != nil {
		return Kind(e.task)
	}
	return ""
}
