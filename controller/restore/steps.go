package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
)

// within asks nodes as a part of a step.
type within struct{ run *operation.Run }

func (w within) AskNode(ctx context.Context, _, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	return w.run.Ask(ctx, node, task)
}

// preflight runs every check and journals what the restore works with.
func (j *Jobs) preflight(ctx context.Context, run *operation.Run) error {
	p, err := j.prepare(ctx, within{run}, run.Restore().GetSpec())
	if err != nil {
		return err
	}
	if err := p.refusal(); err != nil {
		return err
	}
	for _, c := range p.checks {
		if c.GetState() == requorumv1.CheckState_CHECK_STATE_WARNING {
			if err := run.Warn("%s", strings.TrimPrefix(c.GetNode()+": "+c.GetMessage()+" ("+c.GetAdvice()+")", ": ")); err != nil {
				return err
			}
		}
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		job := rec.GetRestore()
		job.Manifest, job.Nodes, job.LeaderNode = p.snapshot.GetManifest(), p.nodes, p.leader()
		job.Generation, job.Holders = p.cluster.GetGeneration()+1, snapshot.GoodOn(p.copies)
		job.ClusterToken = "requorum-" + run.ID() // fresh, so that no member with old data can join
	})
}

// distribute gives every node that lacks a good copy one.
func (j *Jobs) distribute(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	if len(job.GetHolders()) == 0 {
		return nil // hash checks are skipped: agree tells whether the copies are at least one file
	}
	return snapshot.Distribute(ctx, run, j.Fleet, job.GetManifest(), job.GetHolders(), job.GetSpec().GetNodes())
}

func (j *Jobs) dropPartial(ctx context.Context, run *operation.Run, node string) error {
	return snapshot.Drop(ctx, run, node, &agentv1.DropCopy{Name: run.Operation().GetSnapshot(), PartialOnly: true})
}

// agree makes sure that every node's copy is the same file, by reading it back from disk.
func (j *Jobs) agree(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	copies, err := snapshot.HashAll(ctx, run, job.GetSpec().GetNodes(), job.GetManifest())
	if err != nil {
		return err
	}
	disagreement := snapshot.Agree(job.GetManifest(), copies)
	if disagreement == nil || !job.GetSpec().GetSkipHashCheck() {
		return disagreement
	}
	for _, c := range copies {
		if !usable(c) || c.GetSha256() != copies[0].GetSha256() {
			return disagreement // not even with hash checks skipped are different files restored
		}
	}
	return run.Warn("the copies agree with each other and not with the manifest; restored on request all the same")
}

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

func (j *Jobs) unstage(ctx context.Context, run *operation.Run, node string) error {
	return unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_Unstage{Unstage: &agentv1.Unstage{RestoreId: run.ID()}}})
}

// unlessRemoved asks a node to do or undo something. On a node that was removed there is nothing to do any more.
func unlessRemoved(ctx context.Context, run *operation.Run, node string, task *agentv1.Task) error {
	_, err := run.Ask(ctx, node, task)
	if errors.Is(err, dispatch.ErrRemoved) {
		return nil
	}
	return err
}

// stop stops the control plane everywhere, then the followers together, then the leader: all at once
// makes the leader wait for a peer that is dying, to hand leadership over.
func (j *Jobs) stop(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	nodes := job.GetSpec().GetNodes()
	err := run.Journal(func(rec *journalv1.OperationRecord) {
		if rec.GetRestore().GetStopped() == nil {
			rec.GetRestore().Stopped = timestamppb.New(time.Now())
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

// swap puts the staged data in place of the live data on every node, by rename.
func (j *Jobs) swap(ctx context.Context, run *operation.Run) error {
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
			op.Quarantines = append(op.Quarantines, &requorumv1.Quarantine{Node: node, Paths: results[node].GetSwapped().GetQuarantinePaths()})
		}
	})
}

func (j *Jobs) swapBack(ctx context.Context, run *operation.Run, node string) error {
	return unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_SwapBack{SwapBack: &agentv1.SwapBack{RestoreId: run.ID()}}})
}

// start starts all voting members together: none starts before all are swapped.
func (j *Jobs) start(ctx context.Context, run *operation.Run) error {
	_, err := run.AskAll(ctx, names(voters(run.Restore())), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Start{Start: &agentv1.Start{RestoreId: run.ID()}}}
	})
	return err
}

func (j *Jobs) stopNew(ctx context.Context, run *operation.Run, node string) error {
	return unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{RestoreId: run.ID()}}})
}

// verify makes sure that the members form the cluster that was staged and serve the snapshot's data.
func (j *Jobs) verify(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	results, err := run.AskAll(ctx, names(voters(job)), func(node string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Verify{Verify: &agentv1.Verify{
			ClusterId: job.GetClusterId(), MemberId: nodeOf(job, node).GetMemberId(), Revision: job.GetRevision(), HashRevision: job.GetRevision(),
			Members: memberURLs(voters(job)), ClearNoSpace: true,
		}}}
	})
	if err != nil {
		return err
	}
	if err := sameData(job, results); err != nil {
		return err
	}
	for _, n := range voters(job) {
		for _, w := range results[n.GetNode()].GetVerified().GetWarnings() {
			if err := run.Warn("%s: %s", n.GetNode(), w); err != nil {
				return err
			}
		}
	}
	return run.Journal(noteServing)
}

// memberURLs returns the peer URLs of each member by its name, joined by commas.
func memberURLs(nodes []*journalv1.RestoreNode) map[string]string {
	members := make(map[string]string, len(nodes))
	for _, n := range nodes {
		members[n.GetMember()] = strings.Join(n.GetPeerUrls(), ",")
	}
	return members
}

// sameData compares the HashKV of the started members with what was computed from the staged data. A
// client that has compacted in the meantime makes that comparison meaningless; the members' own
// answers are compared all the same.
func sameData(job *journalv1.RestoreJob, results map[string]*agentv1.TaskResult) error {
	nodes := names(voters(job))
	first := results[nodes[0]].GetVerified().GetHashKv()
	for _, node := range nodes {
		v := results[node].GetVerified()
		h := v.GetHashKv()
		if h.GetCompactRevision() == job.GetStartedCompactRevision() && h.GetHash() != job.GetStartedHashKv() {
			return failure.On(node, fmt.Sprintf("the started member has HashKV %d at revision %d, the staged data %d", h.GetHash(), h.GetRevision(), job.GetStartedHashKv()), "")
		}
		if h.GetCompactRevision() == first.GetCompactRevision() && h.GetHash() != first.GetHash() {
			return failure.On(node, fmt.Sprintf("its HashKV at revision %d differs from that of %s", h.GetRevision(), nodes[0]), "")
		}
		if leader := results[nodes[0]].GetVerified().GetMember().GetLeader(); v.GetMember().GetLeader() != leader {
			return failure.On(node, "it sees another leader than "+nodes[0], "")
		}
	}
	return nil
}

func noteServing(rec *journalv1.OperationRecord) {
	job := rec.GetRestore()
	if job.GetVerified() == nil {
		job.Verified = timestamppb.New(time.Now())
	}
	rec.GetOperation().Unavailability = between(job.GetStopped(), job.GetVerified())
}

// open starts the control plane: clients may write, and there is no way back.
func (j *Jobs) open(ctx context.Context, run *operation.Run) error {
	return askPresent(ctx, run, run.Operation().GetNodes(), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Open{Open: &agentv1.Open{RestoreId: run.ID()}}}
	})
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

// addLearners lets the members join again that were learners. It comes after open because etcd takes
// new learners only some seconds after a start, and nobody waits for them.
func (j *Jobs) addLearners(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	joining := learners(job)
	if len(joining) == 0 {
		return nil
	}
	voter := voters(job)[0]
	_, err := run.Ask(ctx, voter.GetNode(), &agentv1.Task{Spec: &agentv1.Task_Verify{Verify: &agentv1.Verify{
		ClusterId: job.GetClusterId(), MemberId: voter.GetMemberId(), Revision: job.GetRevision(),
		Members: memberURLs(voters(job)), AddLearners: memberURLs(joining),
	}}})
	if err != nil {
		return err
	}
	return askPresent(ctx, run, names(joining), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Start{Start: &agentv1.Start{RestoreId: run.ID(), JoinCluster: pairs(job.GetNodes())}}}
	})
}

// finish schedules the removal of old data and raises the generation, which fences nodes that were left out.
func (j *Jobs) finish(ctx context.Context, run *operation.Run) error {
	err := run.Journal(func(rec *journalv1.OperationRecord) {
		job := rec.GetRestore()
		if job.GetQuarantineExpires() == nil {
			job.QuarantineExpires = timestamppb.New(time.Now().Add(job.GetSpec().GetQuarantine().AsDuration()))
		}
		for _, q := range rec.GetOperation().GetQuarantines() {
			q.Expires = job.GetQuarantineExpires()
		}
	})
	if err != nil {
		return err
	}
	job := run.Restore()
	err = askPresent(ctx, run, job.GetSpec().GetNodes(), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Finish{Finish: &agentv1.Finish{
			RestoreId: run.ID(), Generation: job.GetGeneration(), QuarantineExpires: job.GetQuarantineExpires(),
		}}}
	})
	if err != nil {
		return err
	}
	return j.raiseGeneration(run.Cluster(), job)
}

func (j *Jobs) raiseGeneration(cluster string, job *journalv1.RestoreJob) error {
	enrolled, err := j.Catalog.NodeNames(cluster)
	if err != nil {
		return err
	}
	leftOut := slices.DeleteFunc(enrolled, func(n string) bool { return slices.Contains(job.GetSpec().GetNodes(), n) })
	err = j.Catalog.UpdateCluster(cluster, func(rec *journalv1.ClusterRecord) {
		rec.Generation, rec.Members, rec.LeftOut, rec.Voters = job.GetGeneration(), job.GetSpec().GetNodes(), leftOut, uint32(len(voters(job)))
	})
	if err != nil {
		return err
	}
	for _, node := range leftOut {
		j.Fleet.Reconnect(cluster, node)
	}
	return nil
}
