package task

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/remote"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/transfer"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Member is the node's running etcd member.
type Member interface {
	// Status never fails: a member that is down is told as one that does not serve.
	Status(ctx context.Context) *requorumv1.Member
	HashKV(ctx context.Context, revision int64) (*agentv1.HashKVResult, error)
	Snapshot(ctx context.Context) (stream io.ReadCloser, etcdVersion string, err error)
	Verify(ctx context.Context, want *agentv1.Verify) (*agentv1.Verified, error)
}

// Node does tasks on this node.
type Node struct {
	Vault      Vault
	Sealed     *vault.Vault // sealed copies of the same vault; nil for a node that neither seals nor opens
	Runtime    runtime.Runtime
	Member     func(context.Context) (Member, error) // connects as the member is configured now
	Disk       Disk                                  // the real one if nil
	Fetcher    Fetcher
	Grants     *transfer.Grants
	Old        OldData
	Remote     func(r *agentv1.Remote, activity func(), again func(error)) (remote.Store, error)
	Drill      Driller
	Files      Bundles // nil for none
	Kubernetes Kubernetes
	Journal    *journal.Journal
	Push       func(context.Context) (grpc.ClientStreamingClient[agentv1.PushCopyRequest, agentv1.PushCopyResponse], error)
	StartWait  time.Duration // how long a started member may take to serve, besides 1 min per GiB; 2 min if 0
	Log        hclog.Logger

	// How long the runtime may take to stop, or to start, etcd or the control plane; DefaultRuntimeWait
	// if 0. The tasks tick meanwhile, so that nobody else would notice that they hang.
	StopWait, LaunchWait time.Duration

	clusterGeneration atomic.Uint64

	mu      sync.Mutex
	granted []heldGrant
}

// heldGrant lets neighbours fetch what this node has fetched in a step of an operation.
type heldGrant struct {
	operation, step string
	release         func()
}

// SetClusterGeneration tells the cluster's generation as the controller last told it.
func (n *Node) SetClusterGeneration(generation uint64) { n.clusterGeneration.Store(generation) }

// Do does a task.
func (n *Node) Do(ctx context.Context, task *agentv1.Task, p *Progress) (*agentv1.TaskResult, error) {
	n.releaseGrants(task)
	n.keepOpened(task)
	switch spec := task.GetSpec().(type) {
	case *agentv1.Task_InspectNode:
		return n.inspect(ctx, spec.InspectNode)
	case *agentv1.Task_HashKv:
		return n.hashKV(ctx, spec.HashKv, p)
	case *agentv1.Task_Verify:
		return n.verify(ctx, spec.Verify, p)
	}
	if result, err, known := n.doCopy(ctx, task, p); known {
		return result, err
	}
	return n.doRestore(ctx, task, p)
}

// doCopy does what is about copies of snapshots.
func (n *Node) doCopy(ctx context.Context, task *agentv1.Task, p *Progress) (result *agentv1.TaskResult, err error, known bool) { //nolint:revive // known goes with both
	switch spec := task.GetSpec().(type) {
	case *agentv1.Task_SaveCopy:
		result, err = n.save(ctx, task, spec.SaveCopy, p)
	case *agentv1.Task_ImportCopy:
		result, err = n.importCopy(ctx, spec.ImportCopy, p)
	case *agentv1.Task_InspectCopy:
		result, err = n.inspectCopy(ctx, spec.InspectCopy, p)
	case *agentv1.Task_WriteManifest:
		err = n.Vault.WriteManifest(spec.WriteManifest.GetManifest())
	case *agentv1.Task_FetchCopy:
		result, err = n.fetch(ctx, task, spec.FetchCopy, p)
	case *agentv1.Task_FollowCopy:
		err = n.follow(ctx, task, spec.FollowCopy, p)
	case *agentv1.Task_ServeCopy:
		err = n.serve(ctx, spec.ServeCopy, p)
	case *agentv1.Task_DrillCopy:
		result, err = n.drillCopy(ctx, spec.DrillCopy, p)
	case *agentv1.Task_HashCopy:
		c := n.hashCopy(ctx, spec.HashCopy.GetManifest(), p)
		result, err = &agentv1.TaskResult{Result: &agentv1.TaskResult_Hashed{Hashed: c}}, ctx.Err()
	case *agentv1.Task_DropCopy:
		err = n.drop(spec.DropCopy)
	case *agentv1.Task_PushCopy:
		err = n.push(ctx, spec.PushCopy, p)
	case *agentv1.Task_ListCopies:
		result, err = n.list()
	case *agentv1.Task_PackFiles:
		result, err = n.packFiles(ctx, spec.PackFiles, p)
	case *agentv1.Task_CompareFiles:
		result, err = n.compareFiles(ctx, spec.CompareFiles, p)
	default:
		return n.doRemote(ctx, task, p)
	}
	return result, err, true
}

// doRemote does what is about copies in remotes.
func (n *Node) doRemote(ctx context.Context, task *agentv1.Task, p *Progress) (result *agentv1.TaskResult, err error, known bool) { //nolint:revive // known goes with both
	switch spec := task.GetSpec().(type) {
	case *agentv1.Task_UploadCopy:
		result, err = n.upload(ctx, spec.UploadCopy, p)
	case *agentv1.Task_DownloadCopy:
		result, err = n.download(ctx, spec.DownloadCopy, p)
	case *agentv1.Task_DropRemote:
		err = n.dropRemote(ctx, spec.DropRemote, p)
	case *agentv1.Task_ListRemote:
		result, err = n.listRemote(ctx, spec.ListRemote, p)
	case *agentv1.Task_UploadFiles:
		result, err = n.uploadFiles(ctx, spec.UploadFiles, p)
	case *agentv1.Task_DownloadFiles:
		err = n.downloadFiles(ctx, spec.DownloadFiles, p)
	default:
		return nil, nil, false
	}
	return result, err, true
}

// doRestore does what is about the data directory and etcd's process.
func (n *Node) doRestore(ctx context.Context, task *agentv1.Task, p *Progress) (*agentv1.TaskResult, error) {
	if err := n.refuseEnded(task); err != nil {
		return nil, err
	}
	switch spec := task.GetSpec().(type) {
	case *agentv1.Task_Stage:
		return n.stage(ctx, spec.Stage, p)
	case *agentv1.Task_Unstage:
		return nil, n.unstage(ctx, spec.Unstage.GetRestoreId())
	case *agentv1.Task_Stop:
		return nil, n.stop(ctx, spec.Stop, p)
	case *agentv1.Task_Swap:
		return n.swap(ctx, spec.Swap.GetRestoreId(), p)
	case *agentv1.Task_SwapBack:
		return nil, n.swapBack(ctx, spec.SwapBack.GetRestoreId(), p)
	case *agentv1.Task_Start:
		return nil, n.start(ctx, spec.Start, p)
	case *agentv1.Task_RestoreFiles:
		return nil, n.restoreFiles(ctx, spec.RestoreFiles, p)
	case *agentv1.Task_Open:
		return nil, n.open(ctx, spec.Open, p)
	case *agentv1.Task_InspectOld:
		return n.inspectOld(ctx, spec.InspectOld, p)
	case *agentv1.Task_SaveOld:
		return n.saveOld(ctx, spec.SaveOld, p)
	case *agentv1.Task_Finish:
		return nil, n.finish(ctx, spec.Finish, p)
	}
	return nil, errNotKnown
}
