package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

const (
	look  = 20 * time.Millisecond
	tries = 4
)

// outcome is how a cell ended.
type outcome struct {
	Step     string   `json:"step"`
	Fault    string   `json:"fault"`
	Cell     string   `json:"cell"`
	Ended    string   `json:"ended"` // how the operation ended
	Why      string   `json:"why,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Missed   bool     `json:"missed,omitempty"` // it never came to the place
	Seconds  float64  `json:"seconds"`
	Failures []string `json:"failures,omitempty"`
}

// attempt is a cell that is being run.
type attempt struct {
	*bed
	cell   cell
	id     string
	before world
	note   *recorder
}

// run runs a cell and looks at everything afterwards.
func (b *bed) run(c cell) outcome {
	began := time.Now()
	a := &attempt{bed: b, cell: c, note: &recorder{name: c.String()}}
	o := outcome{Step: c.row.String(), Fault: c.kind, Cell: c.String()}
	b.listen(a.note)
	defer b.listen(b.life)
	a.note.during(func() {
		op, passed := a.carryOut()
		o.Ended, o.Why, o.Warnings, o.Missed = harness.Ending(op), op.GetFailure().GetMessage(), op.GetWarnings(), !passed
	})
	o.Failures, o.Seconds = a.note.failures, time.Since(began).Seconds()
	return o
}

// reaching runs a cell until the operation has come to its place: which node does what is not the same each time.
func (b *bed) reaching(c cell) (o outcome) {
	for range tries {
		if o = b.run(c); !o.Missed || len(o.Failures) > 0 {
			return o
		}
	}
	o.Failures = []string{fmt.Sprintf("the place was not reached in %d tries; the last one ended: %s", tries, o.Why)}
	return o
}

// carryOut does the operation with its fault, brings everything back and asks the oracle. passed tells whether the
// operation came to the place at all.
func (a *attempt) carryOut() (op *requorumv1.Operation, passed bool) {
	a.Write(3)
	a.before = a.look()
	if a.cell.plan == "restore" {
		a.lacking(a.cell.fetches())
	}
	writing := a.startWriter()
	defer writing.stop()
	ctx, cancel := context.WithTimeoutCause(context.Background(), harness.Patience, errors.New("the operation did not end"))
	defer cancel()
	passed = a.reach(ctx)
	if passed {
		a.strike(ctx)
	}
	a.mend()
	op = a.settled(ctx)
	acked := writing.end()
	a.judge(op, acked)
	return op, passed
}

// reach arms the point, begins the operation and returns when it has come there, or has ended without.
func (a *attempt) reach(ctx context.Context) bool {
	c := a.cell
	if c.forced != "" {
		a.Arm(point(row{plan: c.plan, step: c.forced}, "before-outcome"), "controller", "error once forced")
	}
	gate := point(c.row, "after-intent")
	inAgent := strings.HasPrefix(c.point, "agent/")
	if inAgent { // other steps may pass the point, too: it is armed once the operation has come to this one
		a.Arm(gate, "controller", "hang")
	} else {
		a.Arm(c.point, c.at, c.action())
	}
	var err error
	if a.id, err = a.begin(ctx, c.plan); err != nil {
		a.note.Fatal(err)
	}
	if inAgent {
		if !a.fires(ctx, gate, "controller") {
			return false
		}
		a.Arm(c.point, c.at, c.action())
		if err := errors.Join(a.Faults.Disarm(gate, "controller"), a.Faults.Forget(gate, "controller")); err != nil {
			a.note.Fatal(err)
		}
	}
	return a.fires(ctx, c.point, c.at)
}

// action is what the point is armed with: most faults come from outside while the operation is held there.
func (c cell) action() string {
	switch c.kind {
	case deliverTwice:
		return "twice once"
	case loseResult:
		return "error once lost on the way"
	default:
		return "hang once"
	}
}

// fires waits until a point has fired, or the operation has ended without.
func (a *attempt) fires(ctx context.Context, point, node string) bool {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if len(a.firings(point, node)) > 0 {
			return true
		}
		if op := a.operation(ctx, a.id); op.GetEnded() != nil {
			return len(a.firings(point, node)) > 0
		}
		<-ticker.C
	}
	a.note.Fatalf("%s did not fire: %v", point, context.Cause(ctx))
	return false
}

// release lets the operation go on that is held.
func (a *attempt) release() {
	if err := a.Faults.Forget(a.cell.point, a.cell.at); err != nil {
		a.note.Error(err)
	}
}

// settled returns the operation once it has ended.
func (a *attempt) settled(ctx context.Context) *requorumv1.Operation {
	for {
		op := a.operation(ctx, a.id)
		if op.GetEnded() != nil {
			return op
		}
		select {
		case <-ctx.Done():
			a.note.Fatalf("%v: %s", context.Cause(ctx), harness.Briefly(a.operation(context.Background(), a.id))) //nolint:contextcheck // the operation's time is up
		case <-time.After(look):
		}
	}
}
