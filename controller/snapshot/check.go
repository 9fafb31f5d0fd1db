package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
)

// checkCluster makes sure that the members agree with each other, and chooses the one to save from.
func (j *Jobs) checkCluster(ctx context.Context, run *operation.Run) error {
	req := run.Snapshot().GetSave()
	nodes := run.Operation().GetNodes()
	if err := j.allConnected(ctx, run.Cluster(), nodes); err != nil {
		return err
	}
	facts, err := InspectAll(ctx, run, nodes)
	if err != nil {
		return err
	}
	serving, err := healthy(facts, nodes, req.GetAllowDegraded())
	if err != nil {
		return err
	}
	if err := nameFree(ctx, run, nodes); err != nil {
		return err
	}
	compared := hashed(facts, serving, req.GetHashLeader())
	if err := warnUncompared(run, serving, compared); err != nil {
		return err
	}
	if err := compareHashes(ctx, run, facts, compared); err != nil {
		return err
	}
	if err := knowSets(facts, nodes, req.GetFiles()); err != nil {
		return err
	}
	saver := chooseSaver(facts, serving)
	if err := j.checkRemote(ctx, run, saver); err != nil {
		return err
	}
	keep, targets := nodes, chooseKeepers(facts, saver, run.Snapshot().GetWantedCopies())
	if len(targets) > 0 {
		keep = targets
	}
	size := facts[saver].GetMember().GetDbSize()
	if err := spaceForCopies(facts, keep, size); err != nil {
		return err
	}
	if run.Snapshot().GetSealing() != nil { // it is inspected in the clear beside what is sealed
		if err := spaceForCopies(facts, []string{saver}, 2*size); err != nil {
			return err
		}
	}
	if err := j.Catalog.SetVoters(run.Cluster(), voters(facts[saver].GetMember())); err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetSnapshot().Node, rec.GetSnapshot().Targets = saver, targets
		rec.GetSnapshot().KubernetesVersion = facts[saver].GetKubernetesVersion()
	})
}

// chooseKeepers returns the nodes that are to hold a snapshot: the saver and those with the most free space. None
// stands for every node.
func chooseKeepers(facts map[string]*agentv1.NodeFacts, saver string, wanted uint32) []string {
	if wanted == 0 {
		return nil
	}
	free := make(map[string]uint64, len(facts))
	for node, f := range facts {
		free[node] = f.GetVaultFreeBytes()
	}
	return roomiest(free, []string{saver}, int(wanted))
}

// nameFree refuses a name under which a node keeps a snapshot that the catalog does not know of, as when the
// catalog was lost: what cannot be made is removed by its name, and would take that one along.
func nameFree(ctx context.Context, run *operation.Run, nodes []string) error {
	name := run.Operation().GetSnapshot()
	results, err := run.AskAll(ctx, nodes, func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_ListCopies{ListCopies: &agentv1.ListCopies{}}}
	})
	if err != nil {
		return err
	}
	for _, node := range nodes {
		for _, m := range results[node].GetCopies().GetManifests() {
			if m.GetName() == name {
				return failure.On(node, "it keeps a snapshot "+name+" already, which the catalog does not know", "choose another name")
			}
		}
	}
	return nil
}

// InspectAll asks every node for its facts.
func InspectAll(ctx context.Context, run *operation.Run, nodes []string) (map[string]*agentv1.NodeFacts, error) {
	results, err := run.AskAll(ctx, nodes, func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{}}}
	})
	if err != nil {
		return nil, err
	}
	facts := make(map[string]*agentv1.NodeFacts, len(results))
	for node, r := range results {
		facts[node] = r.GetNode()
	}
	return facts, nil
}

// allConnected refuses, sooner than a task's time-out would, when a node has no session.
func (j *Jobs) allConnected(ctx context.Context, cluster string, nodes []string) error {
	j.Fleet.Gather(ctx, cluster, nodes)
	for _, node := range nodes {
		if info := j.Fleet.Info(dispatch.Key{Cluster: cluster, Node: node}); !info.Connected {
			message, advice := info.Away("start the agent, or remove the node if it is gone for good (requorum cluster remove-node); a snapshot can be saved without it (snapshot save --allow-degraded)")
			return failure.On(node, message+lastSeen(info), advice)
		}
	}
	return nil
}

func lastSeen(info dispatch.Info) string {
	if info.Seen.IsZero() {
		return ""
	}
	return fmt.Sprintf(" (last heard of %s ago)", time.Since(info.Seen).Round(time.Second))
}

func (j *Jobs) connected(cluster string, nodes []string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(node string) bool {
		return !j.Fleet.Info(dispatch.Key{Cluster: cluster, Node: node}).Connected
	})
}

// healthy returns the nodes whose members serve, or why the cluster is not fit for a snapshot.
func healthy(facts map[string]*agentv1.NodeFacts, nodes []string, degraded bool) ([]string, error) {
	var serving []string
	var first *requorumv1.Member
	for _, node := range nodes {
		m := facts[node].GetMember()
		if !m.GetServing() {
			if degraded {
				continue
			}
			if facts[node].GetFenced() {
				return nil, failure.On(node, "it missed a restore and keeps etcd stopped", "include it in the next restore, or save without it (--allow-degraded)")
			}
			return nil, failure.On(node, "its member does not answer: "+m.GetError(), "repair it, or save without it (--allow-degraded)")
		}
		if first == nil {
			first = m
		}
		if err := fits(node, m, first); err != nil {
			return nil, err
		}
		serving = append(serving, node)
	}
	if len(serving) == 0 {
		return nil, &failure.Error{Message: "no member answers", Advice: "the cluster is down: restore it from a snapshot (requorum restore)"}
	}
	return serving, nil
}

// fits compares a member with the first one that answered.
func fits(node string, m, first *requorumv1.Member) error {
	switch {
	case m.GetClusterId() != first.GetClusterId():
		return failure.On(node, fmt.Sprintf("its member belongs to the etcd cluster %s, others to %s", m.GetClusterId(), first.GetClusterId()),
			"enrol nodes of different etcd clusters under different cluster names")
	case m.GetLeader() == "":
		return failure.On(node, "its member sees no leader: the cluster has lost its quorum", "repair the cluster, or restore it from a snapshot (requorum restore)")
	case m.GetLeader() != first.GetLeader():
		return failure.On(node, fmt.Sprintf("its member sees the leader %s, others see %s", m.GetLeader(), first.GetLeader()), "an election is going on; try again")
	}
	for _, a := range m.GetAlarms() {
		return failure.On(node, fmt.Sprintf("member %s has raised the alarm %s", a.GetMemberId(), a.GetType()), alarmAdvice(a.GetType()))
	}
	return nil
}

func alarmAdvice(kind string) string {
	if kind == "NOSPACE" {
		return "compact, defragment and disarm it (etcdctl alarm disarm), then try again"
	}
	return "replace the corrupt member before you trust a snapshot"
}

// hashed returns the nodes on which HashKV is computed: the voting followers, and the leader on request.
func hashed(facts map[string]*agentv1.NodeFacts, serving []string, leader bool) []string {
	return slices.DeleteFunc(slices.Clone(serving), func(node string) bool {
		m := facts[node].GetMember()
		return m.GetLearner() || isLeader(m) && !leader
	})
}

// warnUncompared says that one follower's data is saved as it is: there is no other follower to compare it with.
func warnUncompared(run *operation.Run, serving, compared []string) error {
	if len(compared) != 1 || len(serving) == 1 {
		return nil
	}
	return run.Warn("%s: its data is not compared with another member's: hashing it on the leader would block writes, for about 0.3 s per GiB (snapshot save --hash-leader)", compared[0])
}

func isLeader(m *requorumv1.Member) bool { return m.GetId() != "" && m.GetId() == m.GetLeader() }

// compareHashes compares HashKV at the lowest revision that all have reached. A compaction that falls
// between two answers makes them incomparable, so it is tried a few times.
func compareHashes(ctx context.Context, run *operation.Run, facts map[string]*agentv1.NodeFacts, nodes []string) error {
	if len(nodes) < 2 {
		return nil
	}
	const tries = 5
	for try := 1; ; try++ {
		results, err := run.AskAll(ctx, nodes, func(string) *agentv1.Task {
			return &agentv1.Task{Spec: &agentv1.Task_HashKv{HashKv: &agentv1.HashKV{Revision: lowestRevision(facts, nodes)}}}
		})
		compared := false
		switch {
		case err == nil:
			compared, err = equalHashes(nodes, results)
		case !compactedMeanwhile(err):
			return err
		}
		if compared {
			return err
		}
		if try == tries { // an idle cluster whose members remember different compactions stays so
			return run.Warn("the members' data could not be compared: their compact revisions differ")
		}
		if facts, err = InspectAll(ctx, run, nodes); err != nil {
			return err
		}
	}
}

// compactedMeanwhile tells whether a member has compacted the revision that it was asked for.
func compactedMeanwhile(err error) bool {
	var task *dispatch.TaskError
	return errors.As(err, &task) && task.Code == agentv1.TaskErrorCode_TASK_ERROR_CODE_COMPACTED
}

func lowestRevision(facts map[string]*agentv1.NodeFacts, nodes []string) int64 {
	lowest := facts[nodes[0]].GetMember().GetRevision()
	for _, node := range nodes {
		lowest = min(lowest, facts[node].GetMember().GetRevision())
	}
	return lowest
}

func equalHashes(nodes []string, results map[string]*agentv1.TaskResult) (compared bool, err error) {
	first := results[nodes[0]].GetHashKv()
	for _, node := range nodes[1:] {
		h := results[node].GetHashKv()
		if h.GetCompactRevision() != first.GetCompactRevision() || h.GetRevision() != first.GetRevision() {
			return false, nil
		}
		if h.GetHash() != first.GetHash() {
			return true, failure.On(node, fmt.Sprintf("its data differs from that of %s: HashKV at revision %d is %d, there %d",
				nodes[0], h.GetRevision(), h.GetHash(), first.GetHash()), "find out which member is corrupt (etcdctl endpoint hashkv --cluster) and replace it")
		}
	}
	return true, nil
}

// chooseSaver prefers the most caught-up voting follower, because serving a snapshot costs the member
// about half of its write rate; then a learner, and the leader only if it must.
func chooseSaver(facts map[string]*agentv1.NodeFacts, serving []string) string {
	rank := func(node string) int {
		m := facts[node].GetMember()
		switch {
		case isLeader(m):
			return 2
		case m.GetLearner():
			return 1
		}
		return 0
	}
	return slices.MinFunc(serving, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		ma, mb := facts[a].GetMember(), facts[b].GetMember()
		if d := int64(mb.GetRaftAppliedIndex() - ma.GetRaftAppliedIndex()); d != 0 {
			return sign(d)
		}
		return strings.Compare(a, b)
	})
}

func sign(d int64) int {
	if d < 0 {
		return -1
	}
	return 1
}

// Headroom is what nodes keep free on the file system of their snapshots, in bytes, where etcd may live too.
const Headroom = 64 << 20

// spaceForCopies refuses before anything is written when a node cannot hold a file of that size.
func spaceForCopies(facts map[string]*agentv1.NodeFacts, nodes []string, size int64) error {
	for _, node := range nodes {
		if free := facts[node].GetVaultFreeBytes(); size > 0 && free < uint64(size)+Headroom {
			return failure.On(node, fmt.Sprintf("%s are free where snapshots are kept (snapshots_dir), %s are needed, of which %s stay free",
				humanize.IBytes(free), humanize.IBytes(uint64(size)+Headroom), humanize.IBytes(Headroom)),
				"free space there, or remove old snapshots (requorum snapshot rm)")
		}
	}
	return nil
}

// voters counts the voting members that a member lists.
func voters(m *requorumv1.Member) int {
	n := 0
	for _, l := range m.GetMembers() {
		if !l.GetLearner() {
			n++
		}
	}
	return n
}

// goodRemotely tells whether a remote held a good copy when it was last looked at.
func goodRemotely(s *requorumv1.Snapshot) bool {
	return slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool {
		return c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD
	})
}

// partial tells whether only some copies of a snapshot are removed, and it stays in the catalog.
func partial(job *journalv1.SnapshotJob) bool {
	return job.GetKeepRemotes() || job.GetOnlyRemote() != ""
}

// checkPartial makes sure that a good copy is left where none is removed.
func (j *Jobs) checkPartial(run *operation.Run) error {
	job := run.Snapshot()
	snap, err := j.Catalog.Snapshot(run.Cluster(), run.Operation().GetSnapshot())
	if err != nil {
		return err
	}
	left := proto.CloneOf(snap)
	if removed := job.GetOnlyRemote(); removed != "" {
		left.Remotes = withoutRemote(left.GetRemotes(), removed)
		if len(left.GetRemotes()) == len(snap.GetRemotes()) {
			return &failure.Error{Message: fmt.Sprintf("remote %s has no copy of %s", removed, snap.GetName()), Advice: "see where there are copies (requorum snapshot show " + snap.GetName() + ")"}
		}
	} else {
		left.Copies = nil
	}
	if len(GoodOn(left.GetCopies())) == 0 && !goodRemotely(left) {
		return &failure.Error{Message: "no good copy of " + snap.GetName() + " would be left", Advice: "to remove it for good: requorum snapshot rm " + snap.GetName()}
	}
	return nil
}

// checkImport makes sure that the nodes can take part.
func (j *Jobs) checkImport(ctx context.Context, run *operation.Run) error {
	nodes := run.Operation().GetNodes()
	if err := j.allConnected(ctx, run.Cluster(), nodes); err != nil {
		return err
	}
	return nameFree(ctx, run, nodes)
}

// checkDelete keeps the last good snapshot of a cluster, and refuses while a node that may hold a copy
// is away. By force, the nodes that are there suffice.
func (j *Jobs) checkDelete(ctx context.Context, run *operation.Run) error {
	op := run.Operation()
	if run.Snapshot().GetForce() {
		present := j.connected(run.Cluster(), op.GetNodes())
		return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Holders = present })
	}
	if err := j.allConnected(ctx, run.Cluster(), op.GetNodes()); err != nil {
		return err
	}
	if partial(run.Snapshot()) {
		return j.checkPartial(run)
	}
	all, err := j.Catalog.Snapshots(run.Cluster())
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(all, func(s *requorumv1.Snapshot) bool {
		return !catalog.Good(s) || len(GoodOn(s.GetCopies())) == 0 && !goodRemotely(s) || s.GetName() == op.GetSnapshot() || s.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY
	})
	snap, err := j.Catalog.Snapshot(run.Cluster(), op.GetSnapshot())
	if err != nil {
		return err
	}
	if len(others) == 0 && catalog.Good(snap) {
		return &failure.Error{
			Message: fmt.Sprintf("%s is the last good snapshot of cluster %s", op.GetSnapshot(), run.Cluster()),
			Advice:  "save another one first, or give --force",
		}
	}
	return nil
}
