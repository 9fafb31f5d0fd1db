package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/redact"
)

// drillBump is what a drill adds to the revision, as a restore does by default.
const drillBump = 1_000_000_000

// Verify starts the operation that proves on one node that a snapshot can be restored.
func (j *Jobs) Verify(req *requorumv1.VerifySnapshotRequest, by string) (*requorumv1.Operation, error) {
	const kind = requorumv1.OperationKind_OPERATION_KIND_VERIFY
	identity := req.GetIdentity()
	req = redact.Message(req)
	digest, err := operation.Digest(req)
	if err != nil {
		return nil, err
	}
	if known, err := j.Engine.Repeated(req.GetRequestId(), kind, req.GetCluster(), digest); known != nil || err != nil {
		return known, err
	}
	snap, err := j.Catalog.Snapshot(req.GetCluster(), req.GetName())
	if err != nil {
		return nil, err
	}
	if !catalog.Good(snap) {
		return nil, &InvalidError{fmt.Sprintf("snapshot %s is %s, not READY", snap.GetName(), StateName(snap.GetState()))}
	}
	rec, err := j.newRecord(kind, req.GetCluster(), snap.GetName(), req.GetRequestId(), by)
	if err != nil {
		return nil, err
	}
	node := req.GetNode()
	if node == "" {
		node = j.bestDriller(snap, rec.GetOperation().GetNodes())
	}
	if err := j.knownNode(req.GetCluster(), node, rec.GetOperation().GetNodes()); err != nil {
		return nil, err
	}
	rec.GetOperation().Nodes = []string{node} // the others are not asked anything
	rec.RequestDigest = digest
	rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: &journalv1.SnapshotJob{
		Verify: req, Kind: snap.GetKind(), Manifest: snap.GetManifest(), Node: node,
	}}
	return j.Engine.Start(rec, func(_ store.Tx, rec *journalv1.OperationRecord) error {
		j.Identities.Put(rec.GetOperation().GetId(), identity)
		return nil
	})
}

// bestDriller prefers a connected node with a good copy, and among those one whose member does not lead: a drill takes
// time of its processor and disk. Without a good copy it is the first node, which says what is wrong with its copy.
func (j *Jobs) bestDriller(snap *requorumv1.Snapshot, nodes []string) string {
	good := GoodOn(snap.GetCopies())
	rank := func(node string) int {
		info := j.Fleet.Info(dispatch.Key{Cluster: snap.GetCluster(), Node: node})
		switch {
		case !slices.Contains(good, node):
			return 3
		case !info.Connected:
			return 2
		case isLeader(info.Member):
			return 1
		}
		return 0
	}
	return slices.MinFunc(nodes, func(a, b string) int { return cmp.Or(rank(a)-rank(b), cmp.Compare(a, b)) })
}

// verifying restores a snapshot into a scratch directory of one node and reads everything from an etcd on it. It needs
// no undo: the node removes everything itself, after a crash at its next start.
func (j *Jobs) verifying(*operation.Run) operation.Job {
	return operation.Job{End: j.forgetIdentity, Plan: steps(
		operation.Step{Name: "check", Do: j.checkDrill, Check: true},
		operation.Step{Name: "read", Do: j.readCopy},
		operation.Step{Name: "drill", Do: j.drill},
		operation.Step{Name: "record", Do: j.recordDrill},
	)}
}

// checkDrill refuses where the node is away or would have too little space left.
func (j *Jobs) checkDrill(ctx context.Context, run *operation.Run) error {
	m := run.Snapshot().GetManifest()
	node, size := run.Snapshot().GetNode(), m.GetSize()
	if err := CanOpen(copiesAre(m), j.Identities.Get(run.ID()), m.GetLocal().GetRecipients()); err != nil {
		return err
	}
	if err := j.allConnected(ctx, run.Cluster(), []string{node}); err != nil {
		return err
	}
	result, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{SnapshotSize: size}}})
	if err != nil {
		return err
	}
	if m.GetLocal() != nil { // it is opened there first
		if err := spaceForCopies(map[string]*agentv1.NodeFacts{node: result.GetNode()}, []string{node}, size); err != nil {
			return err
		}
	}
	if free, needed := result.GetNode().GetScratchFreeBytes(), result.GetNode().GetScratchNeededBytes(); free < needed {
		return failure.On(node, fmt.Sprintf("%s are free where drills restore to (scratch_dir), %s are needed, with what is left free for a live etcd on that disk",
			humanize.IBytes(free), humanize.IBytes(needed)), "free space there, choose another node (--node), or set scratch_dir to another disk")
	}
	return nil
}

// readCopy makes sure that the copy is the file that the manifest describes.
func (j *Jobs) readCopy(ctx context.Context, run *operation.Run) error {
	job := run.Snapshot()
	copies, err := HashAll(ctx, run, []string{job.GetNode()}, job.GetManifest())
	if err != nil {
		return err
	}
	err = j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) { s.Copies = withCopy(s.GetCopies(), copies[0]) })
	if err != nil {
		return err
	}
	if bad := Agree(job.GetManifest(), copies); bad != nil {
		return errors.Join(bad, j.noteFailed(run, bad))
	}
	return nil
}

// withCopy returns the copies with what one node has just found.
func withCopy(copies []*requorumv1.Copy, found *requorumv1.Copy) []*requorumv1.Copy {
	at := slices.IndexFunc(copies, func(c *requorumv1.Copy) bool { return c.GetNode() == found.GetNode() })
	if at < 0 {
		return append(copies, found)
	}
	copies[at] = found
	return copies
}

func (j *Jobs) drill(ctx context.Context, run *operation.Run) error {
	job := run.Snapshot()
	result, err := run.Ask(ctx, job.GetNode(), &agentv1.Task{Spec: &agentv1.Task_DrillCopy{DrillCopy: &agentv1.DrillCopy{
		Manifest: job.GetManifest(), BumpRevision: drillBump, Identity: j.Identities.Get(run.ID()),
	}}})
	var task *dispatch.TaskError
	if errors.As(err, &task) && task.Code == agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT {
		return errors.Join(err, j.noteFailed(run, err))
	}
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Drilled = result.GetDrilled() })
}

// noteFailed notes in the catalog that the data could not be restored.
func (j *Jobs) noteFailed(run *operation.Run, reason error) error {
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		s.FailedVerification = &requorumv1.Verification{
			Time: timestamppb.New(time.Now()), Node: run.Snapshot().GetNode(), OperationId: run.ID(), Error: reason.Error(),
		}
	})
}

func (j *Jobs) recordDrill(_ context.Context, run *operation.Run) error {
	job := run.Snapshot()
	d := job.GetDrilled()
	took := d.GetStagedIn().AsDuration() + d.GetServedIn().AsDuration() + d.GetReadIn().AsDuration()
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		s.Verified = &requorumv1.Verification{
			Time: timestamppb.New(time.Now()), Node: job.GetNode(), OperationId: run.ID(), Took: durationpb.New(took),
		}
	})
}
