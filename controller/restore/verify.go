package restore

import (
	"context"
	"fmt"
	"strings"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
)

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
	results, err := verifyAll(ctx, run, job)
	if err != nil {
		return err
	}
	if err := sameData(job, results); err != nil {
		return err
	}
	if node := compactedElsewhere(job, results); node != "" {
		err := run.Warn("%s: its HashKV was not compared with that of the staged data: it compacts at revision %d, not %d", node,
			results[node].GetVerified().GetHashKv().GetCompactRevision(), job.GetStartedCompactRevision())
		if err != nil {
			return err
		}
	}
	for _, n := range voters(job) {
		for _, w := range results[n.GetNode()].GetVerified().GetWarnings() {
			if err := run.Warn("%s: %s", n.GetNode(), w); err != nil {
				return err
			}
		}
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		if rec.GetRestore().GetVerified() == nil {
			rec.GetRestore().Verified = steady()
		}
	})
}

// verifyAll asks every voting member, again where an election fell between their answers.
func verifyAll(ctx context.Context, run *operation.Run, job *journalv1.RestoreJob) (map[string]*agentv1.TaskResult, error) {
	const tries = 5
	nodes := names(voters(job))
	for try := 1; ; try++ {
		results, err := run.AskAll(ctx, nodes, func(node string) *agentv1.Task {
			return &agentv1.Task{Spec: &agentv1.Task_Verify{Verify: &agentv1.Verify{
				ClusterId: job.GetClusterId(), MemberId: nodeOf(job, node).GetMemberId(), Revision: job.GetRevision(), HashRevision: job.GetRevision(),
				Members: memberURLs(voters(job)), ClearNoSpace: true, Gate: job.GetGate(),
			}}}
		})
		if err != nil {
			return nil, err
		}
		if err := oneLeader(nodes, results); err == nil || try == tries {
			return results, err
		}
	}
}

func oneLeader(nodes []string, results map[string]*agentv1.TaskResult) error {
	leader := results[nodes[0]].GetVerified().GetMember().GetLeader()
	for _, node := range nodes {
		if results[node].GetVerified().GetMember().GetLeader() != leader {
			return failure.On(node, "it sees another leader than "+nodes[0], "")
		}
	}
	return nil
}

// memberURLs returns the peer URLs of each member by its name, joined by commas.
func memberURLs(nodes []*journalv1.RestoreNode) map[string]string {
	members := make(map[string]string, len(nodes))
	for _, n := range nodes {
		members[n.GetMember()] = strings.Join(n.GetPeerUrls(), ",")
	}
	return members
}

// compactedElsewhere returns a node whose HashKV cannot be compared with that of the staged data, empty if there is none.
func compactedElsewhere(job *journalv1.RestoreJob, results map[string]*agentv1.TaskResult) string {
	for _, node := range names(voters(job)) {
		if results[node].GetVerified().GetHashKv().GetCompactRevision() != job.GetStartedCompactRevision() {
			return node
		}
	}
	return ""
}

// sameData compares the HashKV of the started members with what was computed from the staged data. Should
// somebody have compacted in the meantime, that comparison is meaningless; the members' own answers are
// compared all the same.
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
	}
	return nil
}
