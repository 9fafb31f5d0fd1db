package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/store"
)

// place is a folder of a remote.
type place struct{ remote, folder string }

// placeOf is where a copy lies.
func placeOf(c *requorumv1.RemoteCopy) place {
	return place{c.GetRemote(), path.Dir(c.GetObject().GetKey())}
}

// shelf is what the nodes that looked into a place have seen, by name of the snapshot. There is more than one where the
// remote is a directory: it may not be mounted everywhere.
type shelf []map[string]sighting

// sighting is what one node saw of a snapshot.
type sighting struct {
	manifest *requorumv1.Manifest // nil with a fault
	fault    *agentv1.RemoteFault // nil with a manifest
}

// LookAtRemotes notes in the catalog which copies in remotes have disappeared or are not what was stored, and which are
// back. Of a remote that is out of reach nothing is noted: Unreachable tells of it. While an operation changes the cluster
// nothing is done.
func (r *Reconciler) LookAtRemotes(ctx context.Context, cluster string) error {
	if r.Engine.Running(cluster) != "" {
		return nil
	}
	snapshots, err := r.Catalog.Snapshots(cluster)
	if err != nil {
		return err
	}
	shelves, away, err := r.lookInto(ctx, cluster, placesOf(snapshots))
	if err != nil || ctx.Err() != nil {
		return err
	}
	r.setAway(cluster, away)
	if r.Engine.Running(cluster) != "" {
		return nil
	}
	for _, s := range snapshots {
		if !catalog.Good(s) || !slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool { return changedThere(s, c, shelves) }) {
			continue
		}
		err := r.Catalog.Update(cluster, s.GetName(), func(now *requorumv1.Snapshot) {
			if proto.Equal(now, s) { // no operation has come to know better meanwhile
				r.noteRemotes(now, shelves)
			}
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) { // it was removed meanwhile
			return err
		}
	}
	return nil
}

// placesOf returns where the catalog says that there are copies.
func placesOf(snapshots []*requorumv1.Snapshot) []place {
	all := make(map[place]bool)
	for _, s := range snapshots {
		for _, c := range s.GetRemotes() {
			all[placeOf(c)] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b place) int {
		return cmp.Or(strings.Compare(a.remote, b.remote), strings.Compare(a.folder, b.folder))
	})
}

// lookInto returns what the places hold, without those that nobody could look into, and the failures, by remote.
func (r *Reconciler) lookInto(ctx context.Context, cluster string, places []place) (map[place]shelf, map[string]string, error) {
	nodes, err := r.Catalog.NodeNames(cluster)
	if err != nil {
		return nil, nil, err
	}
	shelves, away := make(map[place]shelf), make(map[string]string)
	for _, p := range places {
		lists, err := r.list(ctx, cluster, nodes, p)
		if err != nil {
			r.Log.Warn("remote cannot be looked into", "cluster", cluster, "remote", p.remote, "error", err)
			away[p.remote] = err.Error()
		}
		for _, list := range lists {
			shelves[p] = append(shelves[p], sightings(list))
		}
	}
	return shelves, away, nil
}

// list has the connected nodes list a place: the first that can, and of a directory all. It may return both lists and a
// failure.
func (r *Reconciler) list(ctx context.Context, cluster string, nodes []string, p place) ([]*agentv1.RemoteList, error) {
	known, err := r.Remotes.Get(p.remote)
	if err != nil {
		return nil, err
	}
	access, err := known.Access(ctx)
	if err != nil {
		return nil, err
	}
	var (
		lists    []*agentv1.RemoteList
		failures []error
	)
	for _, node := range nodes {
		if !r.Fleet.Info(dispatch.Key{Cluster: cluster, Node: node}).Connected {
			continue
		}
		task := &agentv1.Task{Spec: &agentv1.Task_ListRemote{ListRemote: &agentv1.ListRemote{Remote: access, Folder: p.folder}}}
		result, err := r.Fleet.AskNode(ctx, cluster, node, task)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		lists = append(lists, result.GetRemote())
		if access.GetDir() == nil {
			return lists, nil
		}
	}
	if len(lists)+len(failures) == 0 {
		return nil, errors.New("no node is connected to look into it; start the agents")
	}
	return lists, errors.Join(failures...)
}

func sightings(list *agentv1.RemoteList) map[string]sighting {
	all := make(map[string]sighting)
	for _, f := range list.GetFaults() {
		all[f.GetName()] = sighting{fault: f}
	}
	for _, m := range list.GetManifests() {
		all[m.GetName()] = sighting{manifest: m}
	}
	return all
}

// lostThere is the detail of a copy that is not in its remote any more.
const lostThere = "the remote does not list it any more"

// foundThere is what was seen of a copy. It is good if anybody sees it so.
func (s shelf) foundThere(snap *requorumv1.Snapshot, c *requorumv1.RemoteCopy) (state requorumv1.CopyState, detail string) {
	for i, seen := range s {
		one, why := seen[snap.GetName()].judge(snap, c)
		if one == requorumv1.CopyState_COPY_STATE_GOOD {
			return one, ""
		}
		if i == 0 {
			state, detail = one, why
		}
	}
	return state, detail
}

func (s sighting) judge(snap *requorumv1.Snapshot, c *requorumv1.RemoteCopy) (requorumv1.CopyState, string) {
	switch {
	case s.fault != nil:
		return s.fault.GetState(), s.fault.GetDetail()
	case s.manifest == nil:
		return requorumv1.CopyState_COPY_STATE_MISSING, lostThere
	case s.manifest.GetSha256() != snap.GetManifest().GetSha256() || !proto.Equal(s.manifest.GetStored(), c.GetObject()):
		return requorumv1.CopyState_COPY_STATE_DIFFERENT, "its manifest in the remote is another one"
	}
	return requorumv1.CopyState_COPY_STATE_GOOD, ""
}

// changedThere tells whether a remote shows another thing of a copy than the catalog.
func changedThere(s *requorumv1.Snapshot, c *requorumv1.RemoteCopy, shelves map[place]shelf) bool {
	seen := shelves[placeOf(c)]
	if len(seen) == 0 {
		return false
	}
	state, detail := seen.foundThere(s, c)
	return state != c.GetState() || detail != c.GetDetail()
}

// noteRemotes brings the remote copies of one entry up to date.
func (r *Reconciler) noteRemotes(s *requorumv1.Snapshot, shelves map[place]shelf) {
	for _, c := range s.GetRemotes() {
		if !changedThere(s, c, shelves) {
			continue
		}
		c.State, c.Detail = shelves[placeOf(c)].foundThere(s, c)
		c.Checked = timestamppb.Now()
		r.Log.Warn("a copy in a remote is not what it was", "cluster", s.GetCluster(), "snapshot", s.GetName(), "remote", c.GetRemote(), "state", c.GetState(), "detail", c.GetDetail())
	}
}

func (r *Reconciler) setAway(cluster string, away map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away == nil {
		r.away = make(map[string]map[string]string)
	}
	r.away[cluster] = away
}

// Unreachable says, a sentence each, which remotes with copies of a cluster could not be looked into the last time.
func (r *Reconciler) Unreachable(cluster string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(r.away[cluster])) {
		all = append(all, fmt.Sprintf("remote %s could not be looked into, so its copies are shown as last seen: %s", name, r.away[cluster][name]))
	}
	return all
}

// remoteOrphans returns what the remotes hold in the cluster's folders and the catalog does not know, and what could not
// be read.
func (r *Reconciler) remoteOrphans(ctx context.Context, cluster string, remotes []*remote.Remote) (orphans []*requorumv1.Orphan, problems []string, err error) {
	nodes, err := r.Catalog.NodeNames(cluster)
	if err != nil {
		return nil, nil, err
	}
	lists := make(map[string]*agentv1.RemoteList)
	for _, one := range remotes {
		seen, err := r.list(ctx, cluster, nodes, place{one.Name(), one.Folder(cluster)})
		if err != nil {
			problems = append(problems, fmt.Sprintf("remote %s: %v", one.Name(), err))
		}
		if len(seen) > 0 {
			lists[one.Name()] = seen[0]
		}
	}
	snapshots, err := r.Catalog.Snapshots(cluster) // after the remotes were read: what was stored meanwhile is known
	if err != nil {
		return nil, nil, err
	}
	for _, one := range remotes {
		list := lists[one.Name()]
		for _, m := range list.GetManifests() {
			if !knownThere(snapshots, one.Name(), m) {
				orphans = append(orphans, &requorumv1.Orphan{Remote: one.Name(), Key: m.GetStored().GetKey(), Manifest: m})
			}
		}
		for _, key := range list.GetOrphans() {
			orphans = append(orphans, &requorumv1.Orphan{Remote: one.Name(), Key: key})
		}
		for _, p := range list.GetProblems() {
			problems = append(problems, fmt.Sprintf("remote %s: %s", one.Name(), p))
		}
	}
	return orphans, problems, ctx.Err()
}

// knownThere tells whether the catalog knows of a snapshot's copy in a remote.
func knownThere(snapshots []*requorumv1.Snapshot, remote string, m *requorumv1.Manifest) bool {
	return slices.ContainsFunc(snapshots, func(s *requorumv1.Snapshot) bool {
		return s.GetName() == m.GetName() && s.GetManifest().GetSha256() == m.GetSha256() &&
			slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool {
				return c.GetRemote() == remote && c.GetObject().GetKey() == m.GetStored().GetKey()
			})
	})
}
