package operation

import (
	"context"
	"strings"
	"sync"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/fault"
)

// Where a test can make the controller fail, in every step of every plan. The middle of a step that asks no
// node is never passed.
const (
	beforeIntent  = "before-intent"
	afterIntent   = "after-intent"
	middle        = "middle"
	beforeOutcome = "before-outcome"
	undoBegun     = "undo-after-intent"
	undoMiddle    = "undo-middle"
	undoEnding    = "undo-before-outcome"
)

var declared sync.Map // a process may make several engines; each name is declared once

// meaning says when a point is passed.
func meaning(where string) string {
	return map[string]string{
		beforeIntent:  "before it is journaled that the step is about to be done",
		afterIntent:   "that is journaled, and nothing has been done",
		middle:        "the first node has answered",
		beforeOutcome: "the step is done, which is not journaled yet",
		undoBegun:     "before the step is undone on a node",
		undoMiddle:    "the first node has answered that it was undone",
		undoEnding:    "the step is undone on a node, which is not journaled yet",
	}[where]
}

// declarePoints declares the fault points of a kind of operation, so that a new step has its own
// without anybody thinking of it.
func declarePoints(kind requorumv1.OperationKind, plan Plan) {
	if !fault.Enabled {
		return
	}
	for _, step := range plan {
		places := []string{beforeIntent, afterIntent, middle, beforeOutcome}
		if step.Undo != nil {
			places = append(places, undoBegun, undoMiddle, undoEnding)
		}
		for _, where := range places {
			name := pointName(kind, step.Name, where)
			if _, known := declared.LoadOrStore(name, true); !known {
				fault.Declare(name, meaning(where))
			}
		}
	}
}

// pointName is "controller/<kind>/<step>/<where>".
func pointName(kind requorumv1.OperationKind, step, where string) string {
	return "controller/" + strings.ToLower(strings.TrimPrefix(kind.String(), "OPERATION_KIND_")) + "/" + step + "/" + where
}

// point is a place at which a test may make the controller fail.
func (r *Run) point(ctx context.Context, i int, where string) error {
	if !fault.Enabled {
		return nil
	}
	return fault.At(ctx, pointName(r.kind, r.plan[i].Name, where))
}

// answered is the place at which the first node has answered in an attempt at a step, or at undoing it.
func (r *Run) answered(ctx context.Context, pos position) error {
	if !fault.Enabled || !r.isFirst(pos) {
		return nil
	}
	if pos.direction == undoing {
		return r.point(ctx, pos.step, undoMiddle)
	}
	return r.point(ctx, pos.step, middle)
}

// isFirst tells whether nobody has answered before in that attempt.
func (r *Run) isFirst(pos position) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.lastAnswered != pos
	r.lastAnswered = pos
	return first
}
