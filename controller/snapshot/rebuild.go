package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

// Rebuild starts the operation that enters into the catalog what the nodes, and remotes that are named, hold and it does
// not know.
func (j *Jobs) Rebuild(cluster string, from []string, requestID, by string) (*requorumv1.Operation, error) {
	kind, digest := requorumv1.OperationKind_OPERATION_KIND_REBUILD, strings.Join(from, ",")
	if known, err := j.Engine.Repeated(requestID, kind, cluster, digest); known != nil || err != nil {
		return known, err
	}
	for _, name := range from {
		if _, err := j.Remotes.Get(name); err != nil {
			return nil, err
		}
	}
	rec, err := j.newRecord(kind, cluster, "", requestID, by)
	if err != nil {
		return nil, err
	}
	rec.RequestDigest = digest
	rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: &journalv1.SnapshotJob{From: from}}
	return j.Engine.Start(rec, nil)
}

// PlanRebuild says what a rebuild would enter, without reading a file.
func (j *Jobs) PlanRebuild(ctx context.Context, cluster string, from []string) (*requorumv1.PlanRebuildResponse, error) {
	if _, err := j.Catalog.Cluster(cluster); err != nil {
		return nil, err
	}
	nodes, err := j.Catalog.NodeNames(cluster)
	if err != nil {
		return nil, err
	}
	s, err := j.survey(ctx, j.Fleet, cluster, nodes, from)
	if err != nil {
		return nil, err
	}
	resp := &requorumv1.PlanRebuildResponse{Notes: s.notes}
	for _, f := range s.found {
		e := &requorumv1.RebuildEntry{Manifest: f.GetManifest(), Nodes: f.GetNodes(), Known: f.GetKnown()}
		for _, c := range f.GetRemotes() {
			e.Remotes = append(e.Remotes, c.GetRemote())
		}
		resp.Entries = append(resp.Entries, e)
	}
	return resp, nil
}

// find looks for what the catalog does not know, and journals it.
func (j *Jobs) find(ctx context.Context, run *operation.Run) error {
	s, err := j.survey(ctx, within{run}, run.Cluster(), run.Operation().GetNodes(), run.Snapshot().GetFrom())
	if err != nil {
		return err
	}
	for _, note := range s.notes {
		if err := run.Warn("%s", note); err != nil {
			return err
		}
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Found = s.found })
}

// survey is what nodes and remotes hold and the catalog does not know.
type survey struct {
	found []*journalv1.FoundSnapshot // in the order of their names
	notes []string                   // what is left out, and why
}

// survey asks the nodes, and looks into the remotes. A node that is away holds what it holds: the rebuild can be done
// again. A remote that cannot be looked into was asked for, and ends it.
func (j *Jobs) survey(ctx context.Context, ask Asker, cluster string, nodes, from []string) (*survey, error) {
	j.Fleet.Gather(ctx, cluster, nodes)
	present := j.connected(cluster, nodes)
	if len(present) == 0 {
		return nil, &failure.Error{Message: "no agent is connected", Advice: "start the agents, then try again"}
	}
	s := new(survey)
	for _, node := range nodes {
		if !slices.Contains(present, node) {
			s.note("%s: its agent is not connected, so what it holds is left out; rebuild the catalog again once it is", node)
		}
	}
	held, err := heldOn(ctx, ask, cluster, present)
	if err != nil {
		return nil, err
	}
	stored := make(map[string][]*requorumv1.Manifest, len(from))
	for _, name := range from {
		r, err := j.Remotes.Get(name)
		if err != nil {
			return nil, err
		}
		list, err := listRemote(ctx, ask, cluster, present[0], r, r.Folder(cluster), "")
		if err != nil {
			return nil, fmt.Errorf("remote %s: %w", name, err)
		}
		for _, problem := range list.GetProblems() {
			s.note("remote %s: left out: %s", name, problem)
		}
		stored[name] = slices.SortedFunc(slices.Values(list.GetManifests()), func(a, b *requorumv1.Manifest) int {
			return strings.Compare(a.GetName(), b.GetName())
		})
	}
	all, err := j.Catalog.Snapshots(cluster)
	if err != nil {
		return nil, err
	}
	known := make(map[string]*requorumv1.Snapshot)
	for _, snap := range all {
		if snap.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED { // of what failed nothing is left
			known[snap.GetName()] = snap
		}
	}
	s.onNodes(cluster, known, held)
	for _, name := range from {
		s.inRemote(cluster, known, name, stored[name])
	}
	slices.SortFunc(s.found, func(a, b *journalv1.FoundSnapshot) int {
		return strings.Compare(a.GetManifest().GetName(), b.GetManifest().GetName())
	})
	return s, nil
}

// heldOn asks the nodes, all at once, what they hold.
func heldOn(ctx context.Context, ask Asker, cluster string, nodes []string) (map[string][]*requorumv1.Manifest, error) {
	group, ctx := errgroup.WithContext(ctx)
	lists := make([][]*requorumv1.Manifest, len(nodes))
	for i, node := range nodes {
		group.Go(func() error {
			result, err := ask.AskNode(ctx, cluster, node, &agentv1.Task{Spec: &agentv1.Task_ListCopies{ListCopies: &agentv1.ListCopies{}}})
			lists[i] = result.GetCopies().GetManifests()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	held := make(map[string][]*requorumv1.Manifest, len(nodes))
	for i, node := range nodes {
		held[node] = lists[i]
	}
	return held, nil
}

func (s *survey) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// onNodes adds what nodes hold and the catalog does not know.
func (s *survey) onNodes(cluster string, known map[string]*requorumv1.Snapshot, held map[string][]*requorumv1.Manifest) {
	copies := byName(held)
	for _, name := range slices.Sorted(maps.Keys(copies)) {
		m, differ := likeliest(copies[name])
		switch {
		case known[name] != nil:
			for _, node := range slices.Sorted(maps.Keys(copies[name])) {
				if conflicts(known[name].GetManifest(), copies[name][node]) {
					s.note("%s: the catalog has another snapshot of that name than %s holds; the catalog's stays", name, node)
				}
			}
			continue
		case m.GetCluster() != cluster:
			s.note("%s is left out: its manifest says that it is of cluster %q", name, m.GetCluster())
			continue
		case differ:
			s.note("%s: the nodes' manifests differ; that of the most nodes is taken", name)
		}
		s.found = append(s.found, &journalv1.FoundSnapshot{Manifest: m, Nodes: slices.Sorted(maps.Keys(copies[name]))})
	}
}

// inRemote adds what a remote holds and the catalog does not know that it does. What was found before under the same name
// stays what it is.
func (s *survey) inRemote(cluster string, known map[string]*requorumv1.Snapshot, remote string, stored []*requorumv1.Manifest) {
	for _, m := range stored {
		c := &requorumv1.RemoteCopy{Remote: remote, State: requorumv1.CopyState_COPY_STATE_GOOD, Checked: timestamppb.Now(), Object: m.GetStored(), Bundles: m.GetBundles()}
		plain := asOnNodes(m)
		i := slices.IndexFunc(s.found, func(f *journalv1.FoundSnapshot) bool { return f.GetManifest().GetName() == m.GetName() })
		snap := known[m.GetName()]
		switch {
		case snap != nil && conflicts(snap.GetManifest(), m):
			s.note("%s: the catalog has another snapshot of that name than remote %s; the catalog's stays, and the remote's is left out", m.GetName(), remote)
		case snap != nil && slices.ContainsFunc(snap.GetRemotes(), func(c *requorumv1.RemoteCopy) bool { return c.GetRemote() == remote }):
		case m.GetCluster() != cluster:
			s.note("%s in remote %s is left out: its manifest says that it is of cluster %q", m.GetName(), remote, m.GetCluster())
		case i >= 0 && conflicts(s.found[i].GetManifest(), m):
			s.note("%s: remote %s holds another snapshot of that name than what was found before, and is left out", m.GetName(), remote)
		case i >= 0:
			s.found[i].Remotes = append(s.found[i].Remotes, c)
		default:
			s.found = append(s.found, &journalv1.FoundSnapshot{Manifest: plain, Remotes: []*requorumv1.RemoteCopy{c}, Known: snap != nil})
		}
	}
}

// conflicts tells whether two manifests of one name are of different files.
func conflicts(a, b *requorumv1.Manifest) bool { return a.GetSha256() != b.GetSha256() }

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
		votes[catalog.FileDigest(c)]++
	}
	best := slices.MaxFunc(slices.Sorted(maps.Keys(votes)), func(a, b string) int { return cmp.Compare(votes[a], votes[b]) })
	for _, node := range slices.Sorted(maps.Keys(copies)) {
		if catalog.FileDigest(copies[node]) == best {
			return copies[node], len(votes) > 1
		}
	}
	return nil, false // there is at least one copy
}

// readFound makes the nodes read back what was found, one snapshot after the other.
func (j *Jobs) readFound(ctx context.Context, run *operation.Run) error {
	for i, f := range run.Snapshot().GetFound() {
		if len(f.GetNodes()) == 0 || len(f.GetCopies()) > 0 {
			continue // in remotes only, or read before a crash
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

// enter enters into the catalog what was found and of which there is a good copy.
func (j *Jobs) enter(_ context.Context, run *operation.Run) error {
	var good []*journalv1.FoundSnapshot
	for _, f := range run.Snapshot().GetFound() {
		if len(GoodOn(f.GetCopies())) > 0 || len(f.GetRemotes()) > 0 {
			good = append(good, f)
			continue
		}
		if err := run.Warn("%s is left out: no node holds a good copy: %s", f.GetManifest().GetName(), describeBad(f.GetCopies())); err != nil {
			return err
		}
	}
	switch from := run.Snapshot().GetFrom(); {
	case len(run.Snapshot().GetFound()) > 0:
	case len(from) > 0:
		return run.Warn("the nodes and %s hold nothing that the catalog does not know", strings.Join(from, ", "))
	default:
		return run.Warn("the nodes hold nothing that the catalog does not know")
	}
	return j.Catalog.Write(func(tx store.Tx) error {
		for _, f := range good {
			if err := enterOne(tx, run.Cluster(), f); err != nil {
				return fmt.Errorf("enter %s: %w", f.GetManifest().GetName(), err)
			}
		}
		return nil
	})
}

func enterOne(tx store.Tx, cluster string, f *journalv1.FoundSnapshot) error {
	if !f.GetKnown() {
		return catalog.Put(tx, entryOf(f))
	}
	return catalog.Update(tx, cluster, f.GetManifest().GetName(), func(s *requorumv1.Snapshot) {
		for _, c := range f.GetRemotes() {
			s.Remotes = append(withoutRemote(s.GetRemotes(), c.GetRemote()), c)
		}
	})
}

// entryOf is the catalog's entry of a snapshot that was found. The operation that made it is not known.
func entryOf(f *journalv1.FoundSnapshot) *requorumv1.Snapshot {
	m := proto.CloneOf(f.GetManifest())
	return &requorumv1.Snapshot{
		Name: m.GetName(), Cluster: m.GetCluster(), State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Kind: m.GetKind(),
		Created: m.GetCreated(), Manifest: m, Copies: f.GetCopies(), Remotes: f.GetRemotes(), Schedule: m.GetSchedule(), Expires: m.GetExpires(),
	}
}
