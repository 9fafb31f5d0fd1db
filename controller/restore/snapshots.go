package restore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
)

// saveSafety saves the present state on one node, if any member still serves. Restoring from it undoes
// the restore.
func (j *Jobs) saveSafety(ctx context.Context, run *operation.Run) error {
	planned, err := planSafety(ctx, run)
	if err != nil {
		return err
	}
	if planned == nil {
		return nil // late-writes takes one of the old data
	}
	kind, node, name := requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY, planned.GetNode(), planned.GetName()
	m, err := saveOne(ctx, run, node, name, kind)
	if err != nil && !run.Restore().GetHadLeader() && ctx.Err() == nil { // such a cluster may not even let us log in
		run.Log.Warn("no safety snapshot of a cluster without a quorum; one is taken of the old data later", "error", err)
		return snapshot.Drop(ctx, run, node, &agentv1.DropCopy{Name: name})
	}
	if err != nil {
		return err
	}
	return j.noteSafety(run, m)
}

// noteSafety puts a safety snapshot into the catalog, where it is what undoes the restore.
func (j *Jobs) noteSafety(run *operation.Run, m *requorumv1.Manifest) error {
	copied := &requorumv1.Copy{Node: m.GetNode(), State: requorumv1.CopyState_COPY_STATE_GOOD, Size: m.GetSize(), Md5: m.GetMd5(), Sha256: m.GetSha256(), Checked: timestamppb.New(time.Now())}
	if l := m.GetLocal(); l != nil {
		copied.Size, copied.Md5, copied.Sha256 = l.GetSize(), "", l.GetSha256()
	}
	err := j.Catalog.Write(func(tx store.Tx) error {
		return catalog.Put(tx, entry(run, m, m.GetKind(), []*requorumv1.Copy{copied}))
	})
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetRestore().Safety, rec.GetOperation().SafetySnapshot = m, m.GetName()
	})
}

// planSafety chooses name and node of the safety snapshot; nil if no member serves. The choice is journaled:
// another one after a crash would leave a file behind that nobody knows of.
func planSafety(ctx context.Context, run *operation.Run) (*requorumv1.Manifest, error) {
	if planned := run.Restore().GetSafety(); planned != nil {
		return planned, nil
	}
	facts, err := snapshot.InspectAll(ctx, run, run.Operation().GetNodes())
	if err != nil {
		return nil, err
	}
	node := mostRecent(facts)
	if node == "" {
		return nil, nil
	}
	planned := &requorumv1.Manifest{Name: snapshot.NewName("safety", run.Cluster()), Node: node}
	return planned, run.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetRestore().SafetyName, rec.GetRestore().Safety = planned.GetName(), planned
	})
}

// mostRecent returns the node whose member has applied the most, a follower if there is a choice.
func mostRecent(facts map[string]*agentv1.NodeFacts) string {
	best := ""
	for _, node := range slices.Sorted(maps.Keys(facts)) {
		m := facts[node].GetMember()
		if m.GetServing() && (best == "" || better(m, facts[best].GetMember())) {
			best = node
		}
	}
	return best
}

func better(a, b *requorumv1.Member) bool {
	if a.GetRaftAppliedIndex() != b.GetRaftAppliedIndex() {
		return a.GetRaftAppliedIndex() > b.GetRaftAppliedIndex()
	}
	return b.GetId() == b.GetLeader() && a.GetId() != a.GetLeader()
}

func saveOne(ctx context.Context, run *operation.Run, node, name string, kind requorumv1.SnapshotKind) (*requorumv1.Manifest, error) {
	facts, err := snapshot.SaveOn(ctx, run, node, name, run.Restore().GetSealing())
	if err != nil {
		return nil, err
	}
	return snapshot.Describe(ctx, run, node, name, facts, kind, nil)
}

func entry(run *operation.Run, m *requorumv1.Manifest, kind requorumv1.SnapshotKind, copies []*requorumv1.Copy) *requorumv1.Snapshot {
	return &requorumv1.Snapshot{
		Name: m.GetName(), Cluster: run.Cluster(), OperationId: run.ID(), Kind: kind, Created: m.GetCreated(),
		State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Manifest: m, Copies: copies,
	}
}

// dropSafety removes the safety snapshot of a restore that is reverted before anything was stopped: it
// holds nothing that the cluster does not have. From the stop on it stays, until a person removes it.
func (j *Jobs) dropSafety(ctx context.Context, run *operation.Run, node string) error {
	name := run.Restore().GetSafetyName()
	if name == "" || run.Restore().GetStopped() != nil {
		return nil
	}
	if err := snapshot.Drop(ctx, run, node, &agentv1.DropCopy{Name: name}); err != nil {
		return err
	}
	err := j.Catalog.Write(func(tx store.Tx) error { return catalog.Remove(tx, run.Cluster(), name) })
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetOperation().SafetySnapshot = "" })
}

// saveAfter takes a fresh snapshot of the restored cluster. The restore is over: a failure is a warning.
func (j *Jobs) saveAfter(ctx context.Context, run *operation.Run) error {
	err := j.freshSnapshot(ctx, run)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if name := run.Restore().GetAfter().GetManifest().GetName(); name != "" { // what is left of it is of no use
		err = errors.Join(err, dropUnfinished(ctx, run, name))
	}
	return run.Warn("the cluster is restored; no fresh snapshot could be taken of it: %v (take one with requorum snapshot save)", err)
}

const (
	dropTries = 20
	dropEvery = time.Second
)

// dropUnfinished removes a snapshot that was not finished from every node. What kept it from being finished,
// as a full disk does, may for a while keep it from being removed.
func dropUnfinished(ctx context.Context, run *operation.Run, name string) error {
	for try := 1; ; try++ {
		err := askPresent(ctx, run, run.Operation().GetNodes(), func(string) *agentv1.Task {
			return &agentv1.Task{Spec: &agentv1.Task_DropCopy{DropCopy: &agentv1.DropCopy{Name: name}}}
		})
		if err == nil || try == dropTries {
			return err
		}
		timer := time.NewTimer(dropEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

func (j *Jobs) freshSnapshot(ctx context.Context, run *operation.Run) error {
	nodes, err := j.present(run)
	if err != nil {
		return err
	}
	facts, err := snapshot.InspectAll(ctx, run, nodes)
	if err != nil {
		return err
	}
	job := run.Restore().GetAfter()
	if job == nil && mostRecent(facts) == "" {
		return errors.New("no member serves")
	}
	if job == nil {
		job = &journalv1.SnapshotJob{Node: mostRecent(facts), Manifest: &requorumv1.Manifest{Name: snapshot.NewName("post-restore", run.Cluster())}}
		if err := run.Journal(func(rec *journalv1.OperationRecord) { rec.GetRestore().After = job }); err != nil {
			return err
		}
	}
	kind := requorumv1.SnapshotKind_SNAPSHOT_KIND_POST_RESTORE
	m, err := saveOne(ctx, run, job.GetNode(), job.GetManifest().GetName(), kind)
	if err != nil {
		return err
	}
	if err := snapshot.Distribute(ctx, run, j.Fleet, m, []string{job.GetNode()}, nodes); err != nil {
		return err
	}
	copies, err := snapshot.HashAll(ctx, run, nodes, m)
	if err != nil {
		return err
	}
	if err := snapshot.Agree(m, copies); err != nil {
		return err
	}
	return j.Catalog.Write(func(tx store.Tx) error { return catalog.Put(tx, entry(run, m, kind, copies)) })
}

// present returns the operation's nodes that were not removed in the meantime.
func (j *Jobs) present(run *operation.Run) ([]string, error) {
	enrolled, err := j.Catalog.NodeNames(run.Cluster())
	return slices.DeleteFunc(run.Operation().GetNodes(), func(n string) bool { return !slices.Contains(enrolled, n) }), err
}
