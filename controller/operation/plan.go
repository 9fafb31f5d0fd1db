// Package operation runs journaled long-running jobs. A job is a plan: an ordered list of steps, each
// with a way to do it and, before the pivot, a way to undo it. The runner journals the intent, does the
// step, journals the outcome and goes on. After a crash it does the last intent again, so every do and
// undo is idempotent. Before the pivot any failure reverts, from it on the operation only goes forward.
package operation

import (
	"context"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/store"
)

// Step is one row of a plan.
type Step struct {
	Name string
	// Do does the step on every node it is about. It is called again after a crash or, from the pivot
	// on, after a failure.
	Do func(ctx context.Context, run *Run) error
	// Undo undoes the step on one node; nil where there is nothing to undo. Nodes are undone
	// independently of each other, so that one which is gone does not keep the others from serving.
	Undo func(ctx context.Context, run *Run, node string) error
	// Pivot marks the step from which on there is no way back.
	Pivot bool
	// Check marks a step that changes nothing: its failure refuses the operation.
	Check bool
	// Phase is what people are shown while the step runs.
	Phase requorumv1.Phase
}

// Plan is a list of steps in order.
type Plan []Step

// Job is what an operation does.
type Job struct {
	Plan Plan
	// Settle waits, once everything is put back, until the cluster is as it was; may be nil. What it fails with is
	// a warning: nothing is left to undo, and an operation that never ends would keep a person from the next one.
	Settle func(ctx context.Context, run *Run) error
	// End records the end of the operation in the transaction that journals it; may be nil.
	End func(tx store.Tx, record *journalv1.OperationRecord) error
}

// Builder makes the job of an operation, new or resumed. The plan it returns is the same for every run.
type Builder func(run *Run) Job

func (p Plan) steps() []*requorumv1.Step {
	steps := make([]*requorumv1.Step, len(p))
	for i, s := range p {
		steps[i] = &requorumv1.Step{Name: s.Name, Pivot: s.Pivot, State: requorumv1.StepState_STEP_STATE_PENDING}
	}
	return steps
}

// undoable tells whether undoing steps 0 to last would do anything.
func (p Plan) undoable(last int) bool {
	for _, s := range p[:last+1] {
		if s.Undo != nil {
			return true
		}
	}
	return false
}
