package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/agent/remote"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/internal/tasks"
)

// Bundles keeps files of this node with its snapshots, and writes them back, as files.Keeper does.
type Bundles interface {
	KeptFiles
	OpenedFiles
	WrittenFiles
	// Names returns the names of the sets of files that may be kept.
	Names() []string
}

// KeptFiles are bundles beside copies.
type KeptFiles interface {
	Pack(ctx context.Context, name string, sets []string, recipients ...string) (*requorumv1.Bundle, error)
	Read(name string, b *requorumv1.Bundle) ([]byte, error)
	Put(name string, b *requorumv1.Bundle, data []byte) error
	Drop(name string) error
}

// OpenedFiles are encrypted bundles, and for a restore what was in them.
type OpenedFiles interface {
	Open(name string, b *requorumv1.Bundle, identity string) ([]byte, error)
	PutSealed(name string, b *requorumv1.Bundle, data []byte) error
	PutOpened(restoreID string, b *requorumv1.Bundle, data []byte) error
	DropOpened(restoreID string) error
	KeepOpened(restoreID string) error
}

// WrittenFiles are files in their places.
type WrittenFiles interface {
	Old(restoreID string) ([]string, error)
	RemoveOld(ctx context.Context, restoreID string) error
	Compare(ctx context.Context, name string, b *requorumv1.Bundle) ([]*requorumv1.PlannedFile, error)
	CompareData(ctx context.Context, name string, b *requorumv1.Bundle, data []byte) ([]*requorumv1.PlannedFile, error)
	Restore(ctx context.Context, restoreID, name string, b *requorumv1.Bundle) error
	Undo(ctx context.Context, restoreID string) error
}

var errNoFiles = &Refused{Message: "this agent keeps no files with snapshots", Advice: "give it files: in its configuration"}

// packFiles puts files of this node beside a copy, also where this node does not hold the copy itself.
func (n *Node) packFiles(ctx context.Context, spec *agentv1.PackFiles, p *Progress) (*agentv1.TaskResult, error) {
	if n.Files == nil {
		return nil, errNoFiles
	}
	stop := p.tickWhile(ctx)
	defer stop()
	b, err := n.Files.Pack(ctx, spec.GetName(), spec.GetSets(), spec.GetSealing().GetRecipients()...)
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
	found, err := n.compareBundle(ctx, spec, p)
	compared := &agentv1.ComparedFiles{Files: found}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case is[*objectstore.Error](err), errors.Is(err, seal.ErrNoIdentity):
		return nil, err
	case errors.Is(err, files.ErrNotFound), is[*files.CorruptError](err), is[*remote.CorruptError](err):
		compared.Lost, compared.Problem, compared.Advice = true, err.Error(), "choose another snapshot, or restore without files (--files=none)"
	case err != nil:
		compared.Problem, compared.Advice = err.Error(), advice(err)
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Compared{Compared: compared}}, nil
}

// compareBundle compares the node's own bundle, or one in a remote, of which nothing is written to the disk.
func (n *Node) compareBundle(ctx context.Context, spec *agentv1.CompareFiles, p *Progress) ([]*requorumv1.PlannedFile, error) {
	b := spec.GetBundle()
	switch {
	case spec.GetRemote() == nil && b.GetLocal() != nil && spec.GetIdentity() == "":
		_, err := n.Files.Read(spec.GetName(), b)
		return nil, err
	case spec.GetRemote() == nil:
		data, err := n.Files.Open(spec.GetName(), b, spec.GetIdentity())
		if err != nil {
			return nil, err
		}
		return n.Files.CompareData(ctx, spec.GetName(), b, data)
	}
	data, err := n.bundleIn(ctx, spec.GetRemote(), spec.GetBundle(), spec.GetIdentity(), p)
	if err != nil {
		return nil, err
	}
	return n.Files.CompareData(ctx, spec.GetName(), spec.GetBundle(), data)
}

func (n *Node) bundleIn(ctx context.Context, r *agentv1.Remote, b *requorumv1.Bundle, identity string, p *Progress) (data []byte, err error) {
	err = n.inRemote(r, p, func(s objectstore.Store) (err error) {
		data, err = remote.DownloadFiles(ctx, s, b, identity, func(done int64) { p.Bytes(done, b.GetSize()) })
		return err
	})
	return data, err
}

// uploadFiles stores the node's bundle of a snapshot in a remote.
func (n *Node) uploadFiles(ctx context.Context, spec *agentv1.UploadFiles, p *Progress) (*agentv1.TaskResult, error) {
	if n.Files == nil {
		return nil, errNoFiles
	}
	b := spec.GetBundle()
	data, err := n.Files.Read(spec.GetName(), b) // an encrypted tar goes as it is
	if err != nil {
		return nil, err
	}
	var stored *requorumv1.StoredObject
	err = n.inRemote(spec.GetRemote(), p, func(s objectstore.Store) (err error) {
		stored, err = remote.UploadFiles(ctx, s, spec.GetName(), b, data, func(done int64) { p.Bytes(done, b.GetSize()) })
		return err
	})
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Stored{Stored: stored}}, err
}

// downloadFiles makes the node hold its bundle of a snapshot. One that is good stays, and nothing is written until one
// from the remote has shown to be the right one.
func (n *Node) downloadFiles(ctx context.Context, spec *agentv1.DownloadFiles, p *Progress) error {
	if n.Files == nil {
		return errNoFiles
	}
	_, err := n.Files.Read(spec.GetName(), spec.GetBundle())
	if err == nil || !errors.Is(err, files.ErrNotFound) && !is[*files.CorruptError](err) {
		return err
	}
	b := spec.GetBundle()
	if asStored(b.GetLocal(), b.GetStored()) {
		data, err := n.sealedBundleIn(ctx, spec.GetRemote(), b, p)
		if err != nil {
			return err
		}
		return n.Files.PutSealed(spec.GetName(), b, data)
	}
	data, err := n.bundleIn(ctx, spec.GetRemote(), b, spec.GetIdentity(), p)
	switch {
	case err != nil:
		return err
	case spec.GetRestoreId() != "":
		return n.Files.PutOpened(spec.GetRestoreId(), b, data)
	case b.GetLocal() != nil:
		return &Refused{Message: "the files of snapshot " + spec.GetName() + " are encrypted on this node, and not in the remote", Advice: "restore them from the remote (restore --from), which keeps nothing in the clear"}
	}
	return n.Files.Put(spec.GetName(), b, data)
}

func (n *Node) sealedBundleIn(ctx context.Context, r *agentv1.Remote, b *requorumv1.Bundle, p *Progress) ([]byte, error) {
	if size := b.GetStored().GetSize(); size > files.MaxStored {
		return nil, &remote.CorruptError{Key: b.GetStored().GetKey(), Detail: fmt.Sprintf("no bundle has %d bytes: its manifest is not to be trusted", size)}
	}
	var data bytes.Buffer
	err := n.inRemote(r, p, func(s objectstore.Store) error {
		return remote.DownloadSealed(ctx, s, b.GetStored(), &data, func(done int64) { p.Bytes(done, b.GetStored().GetSize()) })
	})
	return data.Bytes(), err
}

// openFiles opens the node's encrypted files for a restore, which needs them when no identity may be there any more. Once
// that has ended nothing is left of them in the clear but what was written back.
func (n *Node) openFiles(spec *agentv1.Stage) error {
	b := spec.GetBundle()
	if b == nil {
		return nil
	}
	if n.Files == nil {
		return errNoFiles
	}
	data, err := n.Files.Open(spec.GetManifest().GetName(), b, spec.GetIdentity())
	if err != nil {
		return err
	}
	return n.Files.PutOpened(spec.GetRestoreId(), b, data)
}

func (n *Node) dropOpened(restoreID string) error {
	if n.Files == nil {
		return nil
	}
	return n.Files.DropOpened(restoreID)
}

// keepOpened removes what was opened for restores of which this node did not see the end: it was not in the cluster then, or the
// controller was lost. A cluster has one operation at a time, so where another one changes something here none of them goes on.
func (n *Node) keepOpened(task *agentv1.Task) {
	if n.Files == nil || tasks.Question(task) || task.GetOperationId() == "" {
		return
	}
	if err := n.Files.KeepOpened(task.GetOperationId()); err != nil {
		n.Log.Error("files that were opened for an earlier restore cannot be removed; remove them from the agent's data_dir/files", "error", err)
	}
}

// restoreFiles writes files back, or puts back what was there before.
func (n *Node) restoreFiles(ctx context.Context, spec *agentv1.RestoreFiles, p *Progress) error {
	if n.Files == nil {
		return errNoFiles
	}
	stop := p.tickWhile(ctx)
	defer stop()
	if spec.GetUndo() {
		return n.Files.Undo(ctx, spec.GetRestoreId())
	}
	return n.Files.Restore(ctx, spec.GetRestoreId(), spec.GetName(), spec.GetBundle())
}

// oldFiles are the files that a restore has replaced, as they are kept now.
func (n *Node) oldFiles(restoreID string) ([]string, error) {
	if n.Files == nil {
		return nil, nil
	}
	return n.Files.Old(restoreID)
}

func (n *Node) removeOldFiles(ctx context.Context, restoreID string) error {
	if n.Files == nil {
		return errNoFiles
	}
	return n.Files.RemoveOld(ctx, restoreID)
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
		f.FileSets = n.Files.Names()
	}
	var err error
	if f.KubernetesVersion, err = n.Kubernetes.version(); err != nil {
		n.Log.Warn("the version of Kubernetes cannot be told", "error", err)
	}
}
