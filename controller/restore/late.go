package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
)

// saveLate makes the safety snapshot hold everything that the old cluster was told to keep until it stopped, and not
// only until the safety snapshot was taken. It comes when clients are served again. Then the old data has an end of
// retention; if it fails, that is kept until a person removes it, for it alone has those writes.
func (j *Jobs) saveLate(ctx context.Context, run *operation.Run) error {
	err := j.replaceSafety(ctx, run)
	if err == nil {
		return scheduleRemoval(ctx, run)
	}
	if ctx.Err() != nil {
		return err
	}
	if late := run.Restore().GetLate(); late != nil && late.GetName() != run.Operation().GetSafetySnapshot() {
		err = errors.Join(err, snapshot.Drop(ctx, run, late.GetNode(), &agentv1.DropCopy{Name: late.GetName()}))
	}
	return run.Warn("%s: %v; the old data directories are kept until a person removes them", lacking(run.Restore()), err)
}

// lacking says what there is no snapshot of.
func lacking(job *journalv1.RestoreJob) string {
	if job.GetSafety().GetSha256() == "" {
		return "there is no safety snapshot"
	}
	return "the safety snapshot lacks what was written after it was taken"
}

// replaceSafety saves a snapshot of the old data if that goes further than the safety snapshot.
func (j *Jobs) replaceSafety(ctx context.Context, run *operation.Run) error {
	before := run.Restore().GetSafety()
	if late := run.Restore().GetLate(); late != nil && late.GetName() == run.Operation().GetSafetySnapshot() {
		return j.dropEarlier(ctx, run)
	}
	node, old, err := j.furthest(ctx, run)
	if err != nil {
		return err
	}
	if before.GetAppliedIndex() > 0 && before.GetAppliedIndex() >= old.GetLastChange() {
		return nil
	}
	late := run.Restore().GetLate()
	if late == nil {
		late = &requorumv1.Manifest{Name: snapshot.NewName("safety", run.Cluster()), Node: node}
		if err := run.Journal(func(rec *journalv1.OperationRecord) { rec.GetRestore().Late = late }); err != nil {
			return err
		}
	}
	m, err := saveOld(ctx, run, late, old.GetAppliedIndex() < old.GetLastChange())
	if err != nil {
		return err
	}
	if err := reaches(m, before); err != nil {
		return err
	}
	if err := j.noteSafety(run, m); err != nil {
		return err
	}
	return j.dropEarlier(ctx, run)
}

// reaches fails if a snapshot of the old data lacks something of the safety snapshot, which it may then not replace:
// it is of other data, such as that of a member which was not of the cluster that served.
func reaches(late, before *requorumv1.Manifest) error {
	if late.GetRevision() < before.GetRevision() {
		return fmt.Errorf("the old data on %s ends at revision %d, the safety snapshot at %d", late.GetNode(), late.GetRevision(), before.GetRevision())
	}
	return nil
}

// furthest asks the nodes how far their old data goes, and returns the one that goes furthest.
func (j *Jobs) furthest(ctx context.Context, run *operation.Run) (node string, old *agentv1.OldData, err error) {
	if late := run.Restore().GetLate(); late != nil {
		result, err := run.Ask(ctx, late.GetNode(), inspectOld(run))
		if err != nil {
			return "", nil, err
		}
		return furthestOf(map[string]*agentv1.OldData{late.GetNode(): result.GetOld()})
	}
	found, err := j.askOld(ctx, run)
	if err != nil {
		return "", nil, err
	}
	if node, old, err = furthestOf(found); err != nil {
		return "", nil, err
	}
	if doubt := missing(run.Restore(), found, old.GetClusterId()); doubt != "" {
		err = run.Warn("%s", doubt)
	}
	return node, old, err
}

// missing says whose logs could not be compared, empty if those that could are of a majority: only then one of them
// is sure to hold every entry that was acknowledged.
func missing(job *journalv1.RestoreJob, found map[string]*agentv1.OldData, cluster string) string {
	voting, unread := 0, []string(nil)
	for _, n := range voters(job) {
		if n.GetFenced() {
			continue
		}
		voting++
		if data := found[n.GetNode()]; !data.GetReadable() || data.GetClusterId() != cluster {
			unread = append(unread, n.GetNode())
		}
	}
	if voting-len(unread) > voting/2 {
		return ""
	}
	return fmt.Sprintf("the old data of %s could not be compared: the safety snapshot may lack what only those members had stored",
		strings.Join(unread, ", "))
}

// furthestOf returns the node that a cluster of the old members would have made its leader: the log whose last
// entry has the highest term, and among those the longest one, holds every entry that a quorum has stored (Raft,
// section 5.4.1). Where several do, it is one whose database is complete. Only logs of one cluster can be
// compared: that of most nodes.
func furthestOf(found map[string]*agentv1.OldData) (node string, old *agentv1.OldData, err error) {
	var problems []string
	nodes := slices.Sorted(maps.Keys(found))
	cluster := clusterOfMost(nodes, found)
	for _, candidate := range nodes {
		switch data := found[candidate]; {
		case !data.GetReadable():
			problems = append(problems, candidate+": "+data.GetProblem())
		case data.GetClusterId() == cluster && (old == nil || further(data, old)):
			node, old = candidate, data
		}
	}
	if old == nil {
		return "", nil, fmt.Errorf("no node has old data that can be read (%s)", strings.Join(problems, "; "))
	}
	return node, old, nil
}

// clusterOfMost returns the cluster ID that most of the logs which can be read are of.
func clusterOfMost(nodes []string, found map[string]*agentv1.OldData) (most string) {
	count := map[string]int{}
	for _, node := range nodes {
		if data := found[node]; data.GetReadable() {
			count[data.GetClusterId()]++
			if count[data.GetClusterId()] > count[most] {
				most = data.GetClusterId()
			}
		}
	}
	return most
}

func further(a, b *agentv1.OldData) bool {
	switch {
	case a.GetLastTerm() != b.GetLastTerm():
		return a.GetLastTerm() > b.GetLastTerm()
	case a.GetLastIndex() != b.GetLastIndex():
		return a.GetLastIndex() > b.GetLastIndex()
	}
	return a.GetAppliedIndex() > b.GetAppliedIndex()
}

func (j *Jobs) askOld(ctx context.Context, run *operation.Run) (map[string]*agentv1.OldData, error) {
	nodes, err := j.present(run)
	if err != nil {
		return nil, err
	}
	job := run.Restore()
	nodes = slices.DeleteFunc(nodes, func(n string) bool { return nodeOf(job, n).GetFenced() }) // their data is of before an earlier restore
	results, err := run.AskAll(ctx, nodes, func(string) *agentv1.Task { return inspectOld(run) })
	found := make(map[string]*agentv1.OldData, len(results))
	for node, result := range results {
		found[node] = result.GetOld()
	}
	return found, err
}

func inspectOld(run *operation.Run) *agentv1.Task {
	return &agentv1.Task{Spec: &agentv1.Task_InspectOld{InspectOld: &agentv1.InspectOld{RestoreId: run.ID()}}}
}

// saveOld saves a snapshot of a node's old data and describes it.
func saveOld(ctx context.Context, run *operation.Run, late *requorumv1.Manifest, replay bool) (*requorumv1.Manifest, error) {
	job := run.Restore()
	result, err := run.Ask(ctx, late.GetNode(), &agentv1.Task{Spec: &agentv1.Task_SaveOld{SaveOld: &agentv1.SaveOld{
		RestoreId: run.ID(), Name: late.GetName(), Replay: replay, EtcdVersion: job.GetEtcdVersion(), Sealing: job.GetSealing(),
	}}})
	if err != nil {
		return nil, err
	}
	if err := snapshot.KeepSealed(ctx, run, late.GetNode(), late.GetName(), job.GetSealing(), result.GetCopy()); err != nil {
		return nil, err
	}
	return snapshot.Describe(ctx, run, late.GetNode(), late.GetName(), result.GetCopy(), requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY, nil)
}

// dropEarlier removes the safety snapshot that was taken before the stop: the later one holds all of it. It is done
// again after a crash, and what cannot be removed is no longer READY.
func (j *Jobs) dropEarlier(ctx context.Context, run *operation.Run) error {
	name := run.Restore().GetSafetyName()
	if name == "" || name == run.Operation().GetSafetySnapshot() {
		return nil
	}
	earlier, err := j.Catalog.Snapshot(run.Cluster(), name)
	if gone := new(catalog.NotFoundError); errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return err
	}
	err = j.Catalog.Update(run.Cluster(), name, func(s *requorumv1.Snapshot) { s.State = requorumv1.SnapshotState_SNAPSHOT_STATE_DELETING })
	if err != nil {
		return err
	}
	node := earlier.GetManifest().GetNode()
	err = snapshot.Drop(ctx, run, node, &agentv1.DropCopy{Name: name})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return run.Warn("%s: the earlier safety snapshot %s could not be removed: %v (requorum snapshot rm %s)", node, name, err, name)
	}
	return j.Catalog.Write(func(tx store.Tx) error { return catalog.Remove(tx, run.Cluster(), name) })
}
