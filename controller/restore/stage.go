package restore

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
)

// stage restores the snapshot beside the live data on every node while the old cluster still serves,
// and makes sure that what is staged is one cluster.
func (j *Jobs) stage(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	results, err := run.AskAll(ctx, job.GetSpec().GetNodes(), func(node string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Stage{Stage: stageSpec(run.ID(), job, node)}}
	})
	if err != nil {
		return err
	}
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

func stageSpec(restoreID string, job *journalv1.RestoreJob, node string) *agentv1.Stage {
	n := nodeOf(job, node)
	return &agentv1.Stage{
		RestoreId: restoreID, Manifest: job.GetManifest(), MemberName: n.GetMember(), PeerUrls: n.GetPeerUrls(), Learner: n.GetLearner(),
		InitialCluster: pairs(voters(job)), ClusterToken: job.GetClusterToken(), BumpRevision: job.GetSpec().GetBumpRevision(),
		SkipHashCheck: job.GetSpec().GetSkipHashCheck() || !job.GetManifest().GetHasTrailer(),
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
