package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
)

// stage restores the snapshot beside the live data on every node while the old cluster still serves,
// and makes sure that what is staged is one cluster. A copy that turns out to be bad is replaced first.
func (j *Jobs) stage(ctx context.Context, run *operation.Run) error {
	results, err := j.stageAll(ctx, run)
	if err != nil {
		return err
	}
	job := run.Restore()
	if err := oneCluster(job, results); err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		job := rec.GetRestore()
		for _, n := range job.GetNodes() {
			n.MemberId = results[n.GetNode()].GetStaged().GetMemberId()
		}
		first := results[voters(job)[0].GetNode()].GetStaged()
		job.ClusterId, job.Revision = first.GetClusterId(), first.GetRevision()
		job.Gate = first.GetGate()
		job.StartedHashKv, job.StartedCompactRevision = first.GetStartedHashKv(), first.GetStartedCompactRevision()
	})
}

// stageAll makes every node stage its copy, and once more, with copies or files of nodes that were replaced, if one was bad.
func (j *Jobs) stageAll(ctx context.Context, run *operation.Run) (map[string]*agentv1.TaskResult, error) {
	if run.Restore().GetCopiesRead() == nil {
		results, err := j.askStage(ctx, run)
		if err == nil || !ofTheCopy(err) {
			return results, err
		}
		bad, failed := j.findBadCopies(ctx, run)
		if failed == nil && !bad {
			bad, failed = j.findLostFiles(ctx, run)
		}
		if failed != nil || !bad {
			return nil, cmp.Or(failed, err)
		}
	}
	if err := j.fetchFile(ctx, run); err != nil {
		return nil, err
	}
	if err := j.distribute(ctx, run); err != nil {
		return nil, err
	}
	if err := j.fetchFiles(ctx, run); err != nil {
		return nil, err
	}
	return j.askStage(ctx, run)
}

func (j *Jobs) askStage(ctx context.Context, run *operation.Run) (map[string]*agentv1.TaskResult, error) {
	job := run.Restore()
	return run.AskAll(ctx, job.GetSpec().GetNodes(), func(node string) *agentv1.Task {
		spec := stageSpec(run.ID(), job, node)
		spec.Identity = j.Identities.Get(run.ID())
		return &agentv1.Task{Spec: &agentv1.Task_Stage{Stage: spec}}
	})
}

// ofTheCopy tells whether a node could not stage for a reason that its copy may have.
func ofTheCopy(err error) bool {
	task, answered := errors.AsType[*dispatch.TaskError](err)
	if !answered {
		return false // the node is away, or the restore is cancelled
	}
	return task.Code == agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT || task.Code == agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED
}

// findBadCopies reads every copy, and tells whether any is bad. Then the good ones are the holders, as after preflight.
func (j *Jobs) findBadCopies(ctx context.Context, run *operation.Run) (bool, error) {
	job := run.Restore()
	snap, err := j.Catalog.Snapshot(run.Cluster(), run.Operation().GetSnapshot())
	if err != nil {
		return false, err
	}
	p := &prepared{spec: job.GetSpec(), snapshot: snap}
	if p.copies, err = snapshot.HashAll(ctx, run, p.spec.GetNodes(), job.GetManifest()); err != nil {
		return false, err
	}
	holders := snapshot.GoodOn(p.copies)
	if len(holders) == len(p.copies) {
		return false, nil
	}
	if err := j.checkRemotes(ctx, within{run}, p); err != nil {
		return false, err
	}
	p.checkCopies()
	if err := j.conclude(run, p); err != nil {
		return false, err
	}
	err = run.Journal(func(rec *journalv1.OperationRecord) {
		job := rec.GetRestore()
		job.Holders, job.Fetched, job.Remotes, job.CopiesRead = holders, "", p.remotes, timestamppb.Now()
	})
	return err == nil, err
}

// stageChecks tells whether what is staged is compared with the SHA-256 at the snapshot's end and in its manifest.
func stageChecks(spec *requorumv1.RestoreSpec, m *requorumv1.Manifest) bool {
	return !spec.GetSkipHashCheck() && m.GetHasTrailer()
}

func stageSpec(restoreID string, job *journalv1.RestoreJob, node string) *agentv1.Stage {
	n := nodeOf(job, node)
	bundle := bundleOf(job.GetManifest(), node)
	if bundle.GetLocal() == nil || job.GetSpec().GetFiles() != restoreFiles {
		bundle = nil
	}
	return &agentv1.Stage{
		Bundle:    bundle,
		RestoreId: restoreID, Manifest: job.GetManifest(), MemberName: n.GetMember(), PeerUrls: n.GetPeerUrls(), Learner: n.GetLearner(),
		InitialCluster: pairs(voters(job)), ClusterToken: job.GetClusterToken(), BumpRevision: job.GetSpec().GetBumpRevision(),
		SkipHashCheck: !stageChecks(job.GetSpec(), job.GetManifest()), CopiesRead: job.GetCopiesRead(),
	}
}

// pairs returns name=url pairs joined by commas, as etcd takes an initial cluster.
func pairs(nodes []*journalv1.RestoreNode) string {
	var all []string
	for _, n := range nodes {
		for _, u := range n.GetPeerUrls() {
			all = append(all, n.GetMember()+"="+u)
		}
	}
	return strings.Join(all, ",")
}

// oneCluster compares what the nodes have staged with each other and with the manifest.
func oneCluster(job *journalv1.RestoreJob, results map[string]*agentv1.TaskResult) error {
	all := voters(job)
	first := results[all[0].GetNode()].GetStaged()
	seen := map[string]string{}
	for _, n := range all {
		s := results[n.GetNode()].GetStaged()
		differs := func(what string) error {
			return failure.On(n.GetNode(), "what it staged has another "+what+" than what "+all[0].GetNode()+" staged", "this is a fault of requorum; nothing was stopped")
		}
		switch {
		case s.GetClusterId() != first.GetClusterId():
			return differs("cluster ID")
		case s.GetGate() != first.GetGate():
			return differs("gate against writes")
		case s.GetRevision() != first.GetRevision():
			return differs("revision")
		case s.GetHashKv() != first.GetHashKv() || s.GetStartedHashKv() != first.GetStartedHashKv():
			return differs("HashKV")
		case s.GetHashKv() != job.GetManifest().GetHashKv() && !job.GetSpec().GetSkipHashCheck():
			return failure.On(n.GetNode(), fmt.Sprintf("the staged data has HashKV %d, the snapshot %d", s.GetHashKv(), job.GetManifest().GetHashKv()),
				"check the disk of that node")
		case seen[s.GetMemberId()] != "":
			return failure.On(n.GetNode(), "its member would have the same ID as the one on "+seen[s.GetMemberId()], "give every member a name and peer URLs of its own")
		}
		seen[s.GetMemberId()] = n.GetNode()
	}
	return nil
}

// unstageAll removes what was staged from every node, and tells what a restore would cost.
func (j *Jobs) unstageAll(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	_, err := run.AskAll(ctx, job.GetSpec().GetNodes(), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Unstage{Unstage: &agentv1.Unstage{RestoreId: run.ID()}}}
	})
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetOperation().EstimatedUnavailability = durationpb.New(estimate(job.GetManifest().GetSize()))
	})
}

func (j *Jobs) unstage(ctx context.Context, run *operation.Run, node string) error {
	return unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_Unstage{Unstage: &agentv1.Unstage{RestoreId: run.ID()}}})
}
