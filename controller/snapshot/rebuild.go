package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

// Rebuild starts the operation that enters into the catalog what the nodes hold and it does not know.
func (j *Jobs) Rebuild(cluster, requestID, by string) (*requorumv1.Operation, error) {
	kind := requorumv1.OperationKind_OPERATION_KIND_REBUILD
	if known, err := j.Engine.Repeated(requestID, kind, cluster, ""); known != nil || err != nil {
		return known, err
	}
	rec, err := j.newRecord(kind, cluster, "", requestID, by)
	if err != nil {
		return nil, err
	}
	rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: &journalv1.SnapshotJob{}}
	return j.Engine.Start(rec, nil)
}

// find asks the nodes what they hold, and journals what the catalog does not know. A node that is away holds what it
// holds: the rebuild can be done again.
func (j *Jobs) find(ctx context.Context, run *operation.Run) error {
	nodes := run.Operation().GetNodes()
	j.Fleet.Gather(ctx, run.Cluster(), nodes)
	present := j.connected(run.Cluster(), nodes)
	if len(present) == 0 {
		return &failure.Error{Message: "no agent is connected", Advice: "start the agents, then try again"}
	}
	for _, node := range nodes {
		if info := j.Fleet.Info(dispatch.Key{Cluster: run.Cluster(), Node: node}); !info.Connected {
			if err := run.Warn("%s: its agent is not connected, so what it holds is left out; rebuild the catalog again once it is", node); err != nil {
				return err
			}
		}
	}
	results, err := run.AskAll(ctx, present, func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_ListCopies{ListCopies: &agentv1.ListCopies{}}}
	})
	if err != nil {
		return err
	}
	held := make(map[string][]*requorumv1.Manifest, len(results))
	for node, r := range results {
		held[node] = r.GetCopies().GetManifests()
	}
	found, err := j.unknown(run, held)
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Found = found })
}

// unknown returns the snapshots that nodes hold and the catalog does not know, in the order of their names.
func (j *Jobs) unknown(run *operation.Run, held map[string][]*requorumv1.Manifest) ([]*journalv1.FoundSnapshot, error) {
	known, err := j.Catalog.Snapshots(run.Cluster())
	if err != nil {
		return nil, err
	}
	var found []*journalv1.FoundSnapshot
	for name, copies := range byName(held) {
		if slices.ContainsFunc(known, func(s *requorumv1.Snapshot) bool {
			return s.GetName() == name && s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED
		}) {
			continue
		}
		m, differ := likeliest(copies)
		if m.GetCluster() != run.Cluster() {
			if err := run.Warn("%s is left out: its manifest says that it is of cluster %q", name, m.GetCluster()); err != nil {
				return nil, err
			}
			continue
		}
		if differ {
			if err := run.Warn("%s: the nodes' manifests differ; that of the most nodes is taken", name); err != nil {
				return nil, err
			}
		}
		found = append(found, &journalv1.FoundSnapshot{Manifest: m, Nodes: slices.Sorted(maps.Keys(copies))})
	}
	slices.SortFunc(found, func(a, b *journalv1.FoundSnapshot) int {
		return strings.Compare(a.GetManifest().GetName(), b.GetManifest().GetName())
	})
	return found, nil
}

// byName turns the manifests by node into those of each snapshot by node.
func byName(held map[string][]*requorumv1.Manifest) map[string]map[string]*requorumv1.Manifest {
	all := make(map[string]map[string]*requorumv1.Manifest)
	for node, manifests := range held {
		for _, m := range manifests {
			if all[m.GetName()] == nil {
				all[m.GetName()] = make(map[string]*requorumv1.Manifest)
			}
			all[m.GetName()][node] = m
		}
	}
	return all
}

// likeliest returns the manifest that the most nodes have, and whether there is another one.
func likeliest(copies map[string]*requorumv1.Manifest) (m *requorumv1.Manifest, differ bool) {
	votes := make(map[string]int)
	for _, c := range copies {
		votes[c.GetSha256()]++
	}
	best := slices.MaxFunc(slices.Sorted(maps.Keys(votes)), func(a, b string) int { return cmp.Compare(votes[a], votes[b]) })
	for _, node := range slices.Sorted(maps.Keys(copies)) {
		if copies[node].GetSha256() == best {
			return copies[node], len(votes) > 1
		}
	}
	return nil, false // there is at least one copy
}

// readFound makes the nodes read back what was found, one snapshot after the other.
func (j *Jobs) readFound(ctx context.Context, run *operation.Run) error {
	for i, f := range run.Snapshot().GetFound() {
		if len(f.GetCopies()) > 0 {
			continue // read before a crash
		}
		copies, err := HashAll(ctx, run, f.GetNodes(), f.GetManifest())
		if err != nil {
			return err
		}
		if err := run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Found[i].Copies = copies }); err != nil {
			return err
		}
	}
	return nil
}

// enter enters into the catalog what was found and is good on a node at least.
func (j *Jobs) enter(_ context.Context, run *operation.Run) error {
	found := run.Snapshot().GetFound()
	for _, f := range found {
		if len(GoodOn(f.GetCopies())) == 0 {
			if err := run.Warn("%s is left out: no node holds a good copy: %s", f.GetManifest().GetName(), describeBad(f.GetCopies())); err != nil {
				return err
			}
		}
	}
	if len(found) == 0 {
		return run.Warn("the nodes hold nothing that the catalog does not know")
	}
	return j.Catalog.Write(func(tx store.Tx) error {
		for _, f := range found {
			if len(GoodOn(f.GetCopies())) == 0 {
				continue
			}
			if err := catalog.Put(tx, entryOf(f)); err != nil {
				return fmt.Errorf("enter %s: %w", f.GetManifest().GetName(), err)
			}
		}
		return nil
	})
}

// entryOf is the catalog's entry of a snapshot that was found. The operation that made it is not known.
func entryOf(f *journalv1.FoundSnapshot) *requorumv1.Snapshot {
	m := proto.CloneOf(f.GetManifest())
	return &requorumv1.Snapshot{
		Name: m.GetName(), Cluster: m.GetCluster(), State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Kind: m.GetKind(),
		Created: m.GetCreated(), Manifest: m, Copies: f.GetCopies(), Schedule: m.GetSchedule(), Expires: m.GetExpires(),
	}
}
