package task

import (
	"context"
	"errors"

	"github.com/requorum/requorum/agent/files"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

var errNoFiles = &Refused{Message: "this agent keeps no files with snapshots", Advice: "give it files: in its configuration"}

// packFiles puts files of this node beside a copy, also where this node does not hold the copy itself.
func (n *Node) packFiles(ctx context.Context, spec *agentv1.PackFiles, p *Progress) (*agentv1.TaskResult, error) {
	if n.Files == nil {
		return nil, errNoFiles
	}
	stop := p.tickWhile(ctx)
	defer stop()
	b, err := n.Files.Pack(ctx, spec.GetName(), spec.GetSets())
	if err != nil {
		return nil, err
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Bundle{Bundle: b}}, nil
}

// compareFiles tells what a restore of files would change here, or why it could not.
func (n *Node) compareFiles(ctx context.Context, spec *agentv1.CompareFiles, p *Progress) (*agentv1.TaskResult, error) {
	if n.Files == nil {
		return nil, errNoFiles
	}
	stop := p.tickWhile(ctx)
	defer stop()
	found, err := n.Files.Compare(ctx, spec.GetName(), spec.GetBundle())
	compared := &agentv1.ComparedFiles{Files: found}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, files.ErrNotFound), is[*files.CorruptError](err):
		compared.Problem, compared.Advice = err.Error(), "choose another snapshot, or restore without files (--files=none)"
	case err != nil:
		compared.Problem, compared.Advice = err.Error(), advice(err)
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Compared{Compared: compared}}, nil
}

// restoreFiles writes files back, or puts back what was there before.
func (n *Node) restoreFiles(ctx context.Context, spec *agentv1.RestoreFiles, p *Progress) error {
	if n.Files == nil {
		return errNoFiles
	}
	stop := p.tickWhile(ctx)
	defer stop()
	if spec.GetUndo() {
		return n.Files.Undo(spec.GetRestoreId())
	}
	return n.Files.Restore(ctx, spec.GetRestoreId(), spec.GetName(), spec.GetBundle())
}

func (n *Node) dropFiles(name string) error {
	if n.Files == nil {
		return nil
	}
	return n.Files.Drop(name)
}

// inspectFiles adds which files may be kept with snapshots, and the version of Kubernetes. Nothing else depends on that.
func (n *Node) inspectFiles(f *agentv1.NodeFacts) {
	if n.Files != nil {
		f.FileSets = n.Files.Sets.Names()
	}
	var err error
	if f.KubernetesVersion, err = n.Kubernetes.version(); err != nil {
		n.Log.Warn("the version of Kubernetes cannot be told", "error", err)
	}
}
