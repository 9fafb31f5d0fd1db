package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
)

const (
	settleWithin = 2 * time.Minute // a large member takes this long to start
	settleEvery  = 250 * time.Millisecond
)

// settle waits until the members serve again that served before anything was stopped.
func (j *Jobs) settle(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	if job.GetStopped() == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, settleWithin, errors.New("look at etcd's log there"))
	defer cancel()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		silent := j.silent(ctx, run, job)
		if len(silent) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the old cluster does not serve as before: %s (%w)", strings.Join(silent, "; "), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// silent says which of the members that served before do not.
func (j *Jobs) silent(ctx context.Context, run *operation.Run, job *journalv1.RestoreJob) (silent []string) {
	for _, n := range job.GetNodes() {
		if !n.GetServed() || n.GetFenced() {
			continue
		}
		result, err := run.Ask(ctx, n.GetNode(), &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{}}})
		switch member := result.GetNode().GetMember(); {
		case errors.Is(err, dispatch.ErrRemoved), err == nil && serves(result.GetNode()):
		case err != nil:
			silent = append(silent, fmt.Sprintf("%s: %v", n.GetNode(), err))
		case member.GetError() != "":
			silent = append(silent, n.GetNode()+": "+member.GetError())
		default:
			silent = append(silent, n.GetNode()+": it sees no leader")
		}
	}
	return silent
}
