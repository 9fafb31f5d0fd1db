package restore

import (
	"context"
	"slices"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
)

// stop stops the control plane everywhere, then the followers together, then the leader: all at once
// makes the leader wait for a peer that is dying, to hand leadership over.
func (j *Jobs) stop(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	nodes := job.GetSpec().GetNodes()
	err := run.Journal(func(rec *journalv1.OperationRecord) {
		if rec.GetRestore().GetStopped() == nil {
			rec.GetRestore().Stopped = steady()
		}
	})
	if err != nil {
		return err
	}
	return j.stopRounds(ctx, run, nodes, job.GetLeaderNode())
}

func (j *Jobs) stopRounds(ctx context.Context, run *operation.Run, nodes []string, leader string) error {
	rounds := []struct {
		nodes []string
		spec  *agentv1.Stop
	}{
		{nodes, &agentv1.Stop{RestoreId: run.ID(), ControlPlaneOnly: true}},
		{without(nodes, leader), &agentv1.Stop{RestoreId: run.ID()}},
		{slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n != leader }), &agentv1.Stop{RestoreId: run.ID()}},
	}
	for _, r := range rounds {
		_, err := run.AskAll(ctx, r.nodes, func(string) *agentv1.Task { return &agentv1.Task{Spec: &agentv1.Task_Stop{Stop: r.spec}} })
		if err != nil {
			return err
		}
	}
	return nil
}

// startOld brings the old member back if it ran before, and the control plane with it. A node that is
// fenced stays stopped.
func (j *Jobs) startOld(ctx context.Context, run *operation.Run, node string) error {
	n := nodeOf(run.Restore(), node)
	switch {
	case n == nil || n.GetFenced():
		return nil
	case !n.GetWasRunning():
		return unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_Open{Open: &agentv1.Open{RestoreId: run.ID()}}})
	}
	return unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_Start{Start: &agentv1.Start{RestoreId: run.ID(), ControlPlane: true}}})
}

// swap puts the staged data in place of the live data on every node, by rename, and the files of the snapshot in place
// of those there, if that is asked for.
func (j *Jobs) swap(ctx context.Context, run *operation.Run) error {
	if err := j.writeFiles(ctx, run); err != nil {
		return err
	}
	results, err := run.AskAll(ctx, run.Operation().GetNodes(), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Swap{Swap: &agentv1.Swap{RestoreId: run.ID()}}}
	})
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		op := rec.GetOperation()
		op.Quarantines = nil
		for _, node := range op.GetNodes() {
			swapped := results[node].GetSwapped()
			op.Quarantines = append(op.Quarantines, &requorumv1.Quarantine{Node: node, Paths: swapped.GetQuarantinePaths(), Files: swapped.GetQuarantineFiles()})
		}
	})
}

// swapBack puts a node's old data back; nothing of it stays in quarantine.
func (j *Jobs) swapBack(ctx context.Context, run *operation.Run, node string) error {
	err := unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_SwapBack{SwapBack: &agentv1.SwapBack{RestoreId: run.ID()}}})
	if err != nil {
		return err
	}
	if err := j.putFilesBack(ctx, run, node); err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		op := rec.GetOperation()
		op.Quarantines = slices.DeleteFunc(op.GetQuarantines(), func(q *requorumv1.Quarantine) bool { return q.GetNode() == node })
	})
}
