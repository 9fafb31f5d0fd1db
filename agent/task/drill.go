package task

import (
	"context"

	"github.com/requorum/requorum/agent/drill"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// Driller proves that copies can be restored, as drill.Driller does.
type Driller interface {
	// Space tells how many bytes a drill of a file of that size needs, with what it leaves free, and how many are free.
	Space(size int64) (needed, free uint64, err error)
	// Run does a drill. Nothing is left of it.
	Run(ctx context.Context, path string, spec *agentv1.DrillCopy, p drill.Progress) (*agentv1.Drilled, error)
}

func (n *Node) drillCopy(ctx context.Context, spec *agentv1.DrillCopy, p *Progress) (*agentv1.TaskResult, error) {
	var found *agentv1.Drilled
	err := n.withPlain(ctx, spec.GetManifest(), spec.GetIdentity(), p, func(path string) (err error) {
		found, err = n.Drill.Run(ctx, path, spec, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Drilled{Drilled: found}}, nil
}
