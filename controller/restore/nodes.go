package restore

import (
	"context"
	"errors"
	"slices"
	"sync"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
)

// voters returns the nodes whose members vote. The others' are learners, which join after those serve.
func voters(job *journalv1.RestoreJob) []*journalv1.RestoreNode {
	return slices.DeleteFunc(slices.Clone(job.GetNodes()), (*journalv1.RestoreNode).GetLearner)
}

func learners(job *journalv1.RestoreJob) []*journalv1.RestoreNode {
	return slices.DeleteFunc(slices.Clone(job.GetNodes()), func(n *journalv1.RestoreNode) bool { return !n.GetLearner() })
}

func names(nodes []*journalv1.RestoreNode) []string {
	all := make([]string, len(nodes))
	for i, n := range nodes {
		all[i] = n.GetNode()
	}
	return all
}

func nodeOf(job *journalv1.RestoreJob, node string) *journalv1.RestoreNode {
	for _, n := range job.GetNodes() {
		if n.GetNode() == node {
			return n
		}
	}
	return nil
}

// unlessRemoved asks a node to do or undo something. On a node that was removed there is nothing to do any more.
func unlessRemoved(ctx context.Context, run *operation.Run, node string, task *agentv1.Task) error {
	_, err := run.Ask(ctx, node, task)
	if errors.Is(err, dispatch.ErrRemoved) {
		return nil
	}
	return err
}

// askPresent gives a task to each node that still belongs to the cluster: past the pivot, a node that is
// removed because it died must not keep the operation from its end.
func askPresent(ctx context.Context, run *operation.Run, nodes []string, task func(node string) *agentv1.Task) error {
	var wg sync.WaitGroup
	errs := make([]error, len(nodes))
	for i, node := range nodes {
		wg.Go(func() { errs[i] = unlessRemoved(ctx, run, node, task(node)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
