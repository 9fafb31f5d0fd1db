package operation

import (
	"strings"
	"sync"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/fault"
)

// Where a test can make the controller fail, in every step of every plan.
const (
	beforeIntent  = "before-intent"
	afterIntent   = "after-intent"
	beforeOutcome = "before-outcome"
	undoBegun     = "undo-after-intent"
	undoEnding    = "undo-before-outcome"
)

var declared sync.Map // a process may make several engines; each name is declared once

// declarePoints declares the fault points of a kind of operation, so that a new step has its own
// without anybody thinking of it.
func declarePoints(kind requorumv1.OperationKind, plan Plan) {
	for _, step := range plan {
		places := []string{beforeIntent, afterIntent, beforeOutcome}
		if step.Undo != nil {
			places = append(places, undoBegun, undoEnding)
		}
		for _, where := range places {
			name := pointName(kind, step.Name, where)
			if _, known := declared.LoadOrStore(name, true); !known {
				fault.Declare(name)
			}
		}
	}
}

// pointName is "controller/<kind>/<step>/<where>".
func pointName(kind requorumv1.OperationKind, step, where string) string {
	return "controller/" + strings.ToLower(strings.TrimPrefix(kind.String(), "OPERATION_KIND_")) + "/" + step + "/" + where
}
