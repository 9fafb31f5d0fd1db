// Package reconcile compares what the catalog says with what nodes and remotes hold. It asks for lists only and reads no
// file, so it can be done often: that a copy has disappeared is noticed before it is needed.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/store"
)

// DefaultEvery is how often clusters are looked at where nothing else is said.
const DefaultEvery = 10 * time.Minute

// Fleet asks nodes.
type Fleet interface {
	Info(key dispatch.Key) dispatch.Info
	AskNode(ctx context.Context, cluster, node string, task *agentv1.Task) (*agentv1.TaskResult, error)
}

// Engine tells whether an operation is changing a cluster.
type Engine interface{ Running(cluster string) string }

// Reconciler looks at clusters.
type Reconciler struct {
	Catalog *catalog.Catalog
	Fleet   Fleet
	Engine  Engine
	Remotes *remote.Remotes
	Every   time.Duration // 0 for DefaultEvery
	Log     hclog.Logger

	mu   sync.Mutex
	away map[string]map[string]string // why remotes could not be looked into the last time, by cluster and remote
}

// Run looks at every cluster, again and again, until ctx ends. A remote that does not answer for long does not keep it
// from looking at the nodes. It fails when the catalog cannot be read or written.
func (r *Reconciler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.again(ctx, r.Look) })
	g.Go(func() error { return r.again(ctx, r.LookAtRemotes) })
	return g.Wait()
}

func (r *Reconciler) again(ctx context.Context, look func(context.Context, string) error) error {
	every := r.Every
	if every <= 0 {
		every = DefaultEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		clusters, err := r.Catalog.Clusters()
		if err != nil {
			return err
		}
		for _, c := range clusters {
			if err := look(ctx, c.GetName()); err != nil {
				return err
			}
		}
	}
}

// Look notes in the catalog which copies of a cluster's snapshots have disappeared since they were last read, and which
// are back. While an operation changes the cluster it does nothing: what the nodes hold is about to be another.
func (r *Reconciler) Look(ctx context.Context, cluster string) error {
	if r.Engine.Running(cluster) != "" {
		return nil
	}
	snapshots, err := r.Catalog.Snapshots(cluster) // before the nodes are asked: what is made meanwhile is on no list
	if err != nil {
		return err
	}
	held, err := r.ask(ctx, cluster)
	if err != nil || ctx.Err() != nil || r.Engine.Running(cluster) != "" {
		return err
	}
	for _, s := range snapshots {
		if !catalog.Good(s) || !slices.ContainsFunc(s.GetCopies(), func(c *requorumv1.Copy) bool { return changed(s, c, held) }) {
			continue
		}
		err := r.Catalog.Update(cluster, s.GetName(), func(now *requorumv1.Snapshot) {
			if proto.Equal(now, s) { // no operation has come to know better meanwhile
				r.note(now, held)
			}
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) { // it was removed meanwhile
			return err
		}
	}
	return nil
}

// lost is the detail of a copy that was good when it was last read and is not there any more.
const lost = "the node does not list it any more"

// note brings the copies of one entry up to date.
func (r *Reconciler) note(s *requorumv1.Snapshot, held map[string]map[string]*requorumv1.Manifest) {
	for _, c := range s.GetCopies() {
		if !changed(s, c, held) {
			continue
		}
		c.State, c.Detail = found(s, held[c.GetNode()])
		r.Log.Warn("a copy is not what it was", "cluster", s.GetCluster(), "snapshot", s.GetName(), "node", c.GetNode(), "state", c.GetState(), "detail", c.GetDetail())
	}
}

// changed tells whether a node's list says another thing of a copy than the catalog.
func changed(s *requorumv1.Snapshot, c *requorumv1.Copy, held map[string]map[string]*requorumv1.Manifest) bool {
	list, told := held[c.GetNode()]
	if !told {
		return false
	}
	state, _ := found(s, list)
	switch c.GetState() {
	case requorumv1.CopyState_COPY_STATE_GOOD:
		return state != requorumv1.CopyState_COPY_STATE_GOOD
	case requorumv1.CopyState_COPY_STATE_MISSING: // back, as good as it was when it was last read
		return c.GetDetail() == lost && state == requorumv1.CopyState_COPY_STATE_GOOD
	}
	return false
}

// found is what a node's list says of a snapshot.
func found(s *requorumv1.Snapshot, list map[string]*requorumv1.Manifest) (requorumv1.CopyState, string) {
	m, there := list[s.GetName()]
	switch {
	case !there:
		return requorumv1.CopyState_COPY_STATE_MISSING, lost
	case !catalog.SameFile(m, s.GetManifest()):
		return requorumv1.CopyState_COPY_STATE_DIFFERENT, "its manifest on the node is of another file"
	}
	return requorumv1.CopyState_COPY_STATE_GOOD, ""
}

// ask returns what the connected nodes hold, by node and name. Nodes that do not answer are left out.
func (r *Reconciler) ask(ctx context.Context, cluster string) (map[string]map[string]*requorumv1.Manifest, error) {
	nodes, err := r.Catalog.NodeNames(cluster)
	if err != nil {
		return nil, err
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		held = make(map[string]map[string]*requorumv1.Manifest)
	)
	for _, node := range nodes {
		if !r.Fleet.Info(dispatch.Key{Cluster: cluster, Node: node}).Connected {
			continue
		}
		wg.Go(func() {
			result, err := r.Fleet.AskNode(ctx, cluster, node, &agentv1.Task{Spec: &agentv1.Task_ListCopies{ListCopies: &agentv1.ListCopies{}}})
			if err != nil {
				r.Log.Warn("node did not tell what it holds", "cluster", cluster, "node", node, "error", err)
				return
			}
			list := make(map[string]*requorumv1.Manifest)
			for _, m := range result.GetCopies().GetManifests() {
				list[m.GetName()] = m
			}
			mu.Lock()
			defer mu.Unlock()
			held[node] = list
		})
	}
	wg.Wait()
	return held, nil
}

// Orphans returns what nodes and remotes hold and the catalog does not know, the nodes that did not answer, and what could
// not be read of remotes.
func (r *Reconciler) Orphans(ctx context.Context, cluster string) (*requorumv1.ListOrphansResponse, error) {
	if _, err := r.Catalog.Cluster(cluster); err != nil {
		return nil, err
	}
	onNodes, silent, err := r.nodeOrphans(ctx, cluster)
	if err != nil {
		return nil, err
	}
	inRemotes, problems, err := r.remoteOrphans(ctx, cluster, r.Remotes.All())
	return &requorumv1.ListOrphansResponse{Orphans: append(onNodes, inRemotes...), Silent: silent, Problems: problems}, err
}

// nodeOrphans returns the copies that nodes hold and the catalog does not know, and the nodes that did not answer.
func (r *Reconciler) nodeOrphans(ctx context.Context, cluster string) (orphans []*requorumv1.Orphan, silent []string, err error) {
	nodes, err := r.Catalog.NodeNames(cluster)
	if err != nil {
		return nil, nil, err
	}
	held, err := r.ask(ctx, cluster)
	if err != nil {
		return nil, nil, err
	}
	snapshots, err := r.Catalog.Snapshots(cluster) // after the nodes were asked: what was made meanwhile is known
	if err != nil {
		return nil, nil, err
	}
	known := make(map[string]bool)
	for _, s := range snapshots {
		known[s.GetName()] = s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED // of what failed nothing is left
	}
	for _, node := range nodes {
		list, told := held[node]
		if !told {
			silent = append(silent, node)
		}
		for _, name := range slices.Sorted(maps.Keys(list)) {
			if !known[name] {
				orphans = append(orphans, &requorumv1.Orphan{Node: node, Manifest: list[name]})
			}
		}
	}
	return orphans, silent, ctx.Err()
}

// shownLacking is how many snapshots are named that lack copies.
const shownLacking = 3

// Lacking says in a sentence which READY snapshots lack copies that they had; empty if none does.
func Lacking(snapshots []*requorumv1.Snapshot) string {
	var names []string
	for _, s := range snapshots {
		if catalog.Good(s) && lacks(s) {
			names = append(names, s.GetName())
		}
	}
	if len(names) == 0 {
		return ""
	}
	more := ""
	if n := len(names) - shownLacking; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("copies are missing or bad of %s%s: requorum snapshot repair %s", strings.Join(names[:min(len(names), shownLacking)], ", "), more, names[0])
}

// lacks tells whether a copy of a snapshot is not good, on a node or in a remote.
func lacks(s *requorumv1.Snapshot) bool {
	return slices.ContainsFunc(s.GetCopies(), func(c *requorumv1.Copy) bool { return c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD }) ||
		slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool { return c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD })
}
