package task

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// OldData is what restores of this node have put into quarantine.
type OldData interface {
	// Inspect tells how far the old data of a restore goes; data that cannot be read is told as such.
	Inspect(ctx context.Context, restoreID string) (*agentv1.OldData, error)
	// Save writes a snapshot of it, which ends in its SHA-256.
	Save(ctx context.Context, spec *agentv1.SaveOld, w io.Writer, tick func(done, total int64)) error
}

func (n *Node) inspectOld(ctx context.Context, spec *agentv1.InspectOld, p *Progress) (*agentv1.TaskResult, error) {
	stop := p.tickWhile(ctx)
	defer stop()
	found, err := n.Old.Inspect(ctx, spec.GetRestoreId())
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Old{Old: found}}, nil
}

// saveOld saves a snapshot of old data in the vault.
func (n *Node) saveOld(ctx context.Context, spec *agentv1.SaveOld, p *Progress) (*agentv1.TaskResult, error) {
	if err := n.vacate(spec.GetName()); err != nil {
		return nil, err
	}
	w, err := n.create(spec.GetName(), spec.GetSealing())
	if err != nil {
		return nil, err
	}
	stop := p.tickWhile(ctx) // a replay cannot be counted
	err = n.Old.Save(ctx, spec, w, p.Bytes)
	stop()
	if err == nil && !w.Facts().GetHasTrailer() {
		err = errors.New("the snapshot of the old data does not end in its SHA-256")
	}
	if err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	facts, err := n.commit(ctx, w, p)
	if err != nil {
		return nil, err
	}
	facts.EtcdVersion, facts.Created = spec.GetEtcdVersion(), timestamppb.New(time.Now())
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: facts}}, nil
}
