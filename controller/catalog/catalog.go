// Package catalog keeps what the controller knows of clusters, nodes, snapshots and their copies.
package catalog

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

// Latest stands for a cluster's newest READY snapshot where a name is expected.
const Latest = "latest"

// NotFoundError says that there is no such cluster, node or snapshot.
type NotFoundError struct{ Message string }

func (e *NotFoundError) Error() string { return e.Message }

// ExistsError refuses a name that is taken.
type ExistsError struct{ Cluster, Name string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("cluster %s has a snapshot %s already; choose another name or remove it first (requorum snapshot rm %s)", e.Cluster, e.Name, e.Name)
}

// Catalog reads and writes the records.
type Catalog struct{ store store.Store }

// New returns the catalog that is kept in s.
func New(s store.Store) *Catalog { return &Catalog{store: s} }

func key(cluster, name string) string { return cluster + "/" + name }

// Clusters returns the clusters' records in the order of their names.
func (c *Catalog) Clusters() ([]*journalv1.ClusterRecord, error) {
	return list[journalv1.ClusterRecord](c.store, store.Clusters, "")
}

// Cluster returns a cluster's record, or a *NotFoundError.
func (c *Catalog) Cluster(name string) (*journalv1.ClusterRecord, error) {
	rec := new(journalv1.ClusterRecord)
	err := c.store.View(func(tx store.Tx) error { return store.Load(tx, store.Clusters, name, rec) })
	if errors.Is(err, store.ErrNotFound) {
		return nil, &NotFoundError{fmt.Sprintf("there is no cluster %q; requorum cluster ls shows them", name)}
	}
	return rec, err
}

// UpdateCluster changes a cluster's record within a transaction.
func UpdateCluster(tx store.Tx, name string, change func(*journalv1.ClusterRecord)) error {
	rec := &journalv1.ClusterRecord{Name: name}
	if err := store.Load(tx, store.Clusters, name, rec); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	change(rec)
	return store.Save(tx, store.Clusters, name, rec)
}

// UpdateCluster changes a cluster's record in a transaction of its own.
func (c *Catalog) UpdateCluster(name string, change func(*journalv1.ClusterRecord)) error {
	return c.store.Update(func(tx store.Tx) error { return UpdateCluster(tx, name, change) })
}

// SetVoters notes how many voting members a cluster has.
func (c *Catalog) SetVoters(cluster string, voters int) error {
	return c.store.Update(func(tx store.Tx) error {
		return UpdateCluster(tx, cluster, func(rec *journalv1.ClusterRecord) { rec.Voters = uint32(voters) })
	})
}

// Nodes returns the records of a cluster's nodes that are not removed, in the order of their names.
func (c *Catalog) Nodes(cluster string) ([]*journalv1.NodeRecord, error) {
	all, err := list[journalv1.NodeRecord](c.store, store.Nodes, cluster+"/")
	return slices.DeleteFunc(all, (*journalv1.NodeRecord).GetRemoved), err
}

// EveryNode returns the records of the nodes of all clusters, those that are removed included.
func (c *Catalog) EveryNode() ([]*journalv1.NodeRecord, error) {
	return list[journalv1.NodeRecord](c.store, store.Nodes, "")
}

// NodeNames returns the names of a cluster's nodes that are not removed.
func (c *Catalog) NodeNames(cluster string) ([]string, error) {
	nodes, err := c.Nodes(cluster)
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.GetName()
	}
	return names, err
}

// Generation returns a cluster's generation, and whether the node was enrolled since the last restore
// and takes it over.
func (c *Catalog) Generation(cluster, node string) (generation uint64, adopt bool, err error) {
	rec, err := c.Cluster(cluster)
	if err != nil {
		return 0, false, err
	}
	known := slices.Contains(rec.GetMembers(), node) || slices.Contains(rec.GetLeftOut(), node)
	return rec.GetGeneration(), !known, nil
}

// Reenrolled notes that a node begins anew: it takes the generation over if it was part of the last restore.
func (c *Catalog) Reenrolled(cluster, node string) error {
	return c.store.Update(func(tx store.Tx) error {
		return UpdateCluster(tx, cluster, func(rec *journalv1.ClusterRecord) {
			rec.Members = slices.DeleteFunc(rec.GetMembers(), func(m string) bool { return m == node })
		})
	})
}

// Keys returns the fingerprints of the keys by which a node is known now; none of one that was removed or never was.
func (c *Catalog) Keys(cluster, node string) ([]string, error) {
	rec := new(journalv1.NodeRecord)
	err := c.store.View(func(tx store.Tx) error { return store.Load(tx, store.Nodes, key(cluster, node), rec) })
	if errors.Is(err, store.ErrNotFound) || rec.GetRemoved() {
		return nil, nil
	}
	keys := []string{rec.GetKeyFingerprint(), rec.GetNextKeyFingerprint()}
	return slices.DeleteFunc(keys, func(k string) bool { return k == "" }), err
}

// Seen notes that a node was heard of.
func (c *Catalog) Seen(cluster, node, transferAddress string) error {
	return c.store.Update(func(tx store.Tx) error {
		rec := new(journalv1.NodeRecord)
		if err := store.Load(tx, store.Nodes, key(cluster, node), rec); err != nil {
			return fmt.Errorf("record of node %s: %w", node, err)
		}
		rec.LastSeen, rec.TransferAddress = timestamppb.New(time.Now()), transferAddress
		return store.Save(tx, store.Nodes, key(cluster, node), rec)
	})
}

// Snapshots returns a cluster's snapshots, or all where cluster is empty, newest first.
func (c *Catalog) Snapshots(cluster string) ([]*requorumv1.Snapshot, error) {
	prefix := ""
	if cluster != "" {
		prefix = cluster + "/"
	}
	all, err := list[requorumv1.Snapshot](c.store, store.Snapshots, prefix)
	slices.SortStableFunc(all, NewestFirst)
	return all, err
}

// NewestFirst goes by the operations that made the snapshots, whose IDs are in the order in which they began. A clock
// that was put back tells another story. Of one whose operation is not known there is only what its manifest says.
func NewestFirst(a, b *requorumv1.Snapshot) int {
	return cmp.Or(cmp.Compare(order(b), order(a)), strings.Compare(b.GetOperationId(), a.GetOperationId()),
		b.GetCreated().AsTime().Compare(a.GetCreated().AsTime()))
}

// order is the time at which a snapshot's operation began, in milliseconds.
func order(s *requorumv1.Snapshot) uint64 {
	if id, err := ulid.ParseStrict(s.GetOperationId()); err == nil {
		return id.Time()
	}
	return uint64(max(0, s.GetCreated().AsTime().UnixMilli()))
}

// Snapshot returns a snapshot by name, or the newest READY one for Latest. Safety snapshots and imported
// ones are found by name only.
func (c *Catalog) Snapshot(cluster, name string) (*requorumv1.Snapshot, error) {
	if name == Latest {
		return c.latest(cluster)
	}
	snap := new(requorumv1.Snapshot)
	err := c.store.View(func(tx store.Tx) error { return store.Load(tx, store.Snapshots, key(cluster, name), snap) })
	if errors.Is(err, store.ErrNotFound) {
		return nil, &NotFoundError{c.unknown(cluster, name)}
	}
	return snap, err
}

func (c *Catalog) unknown(cluster, name string) string {
	text := fmt.Sprintf("cluster %s has no snapshot %q", cluster, name)
	all, err := c.Snapshots(cluster)
	if err != nil {
		return text
	}
	for _, s := range all {
		if trimmed := strings.TrimSuffix(name, ".db"); trimmed == s.GetName() {
			return fmt.Sprintf("%s; there is %s: give the name without the file's extension", text, trimmed)
		}
	}
	return text + "; requorum snapshot ls shows them"
}

func (c *Catalog) latest(cluster string) (*requorumv1.Snapshot, error) {
	all, err := c.Snapshots(cluster)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if Good(s) && !byNameOnly(s) {
			return s, nil
		}
	}
	return nil, &NotFoundError{fmt.Sprintf("cluster %s has no READY snapshot of its own that counts as the latest; name an imported or a safety snapshot (requorum snapshot ls), or take one with requorum snapshot save", cluster)}
}

// byNameOnly tells whether a snapshot is never the latest: a safety snapshot is what a restore threw
// away, and an imported one may be old, or another cluster's.
func byNameOnly(s *requorumv1.Snapshot) bool {
	switch s.GetKind() {
	case requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY, requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED:
		return true
	}
	return false
}

// Good tells whether a snapshot is verified and agreed.
func Good(s *requorumv1.Snapshot) bool {
	return s.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_READY
}

// Add adds a snapshot within a transaction. A name is taken as long as its entry exists and did not fail.
func Add(tx store.Tx, snap *requorumv1.Snapshot) error {
	old := new(requorumv1.Snapshot)
	err := store.Load(tx, store.Snapshots, key(snap.GetCluster(), snap.GetName()), old)
	if err == nil && old.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED {
		return &ExistsError{Cluster: snap.GetCluster(), Name: snap.GetName()}
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return store.Save(tx, store.Snapshots, key(snap.GetCluster(), snap.GetName()), snap)
}

// Put writes a snapshot within a transaction, whether it was there or not.
func Put(tx store.Tx, snap *requorumv1.Snapshot) error {
	return store.Save(tx, store.Snapshots, key(snap.GetCluster(), snap.GetName()), snap)
}

// Update changes a snapshot's entry within a transaction.
func Update(tx store.Tx, cluster, name string, change func(*requorumv1.Snapshot)) error {
	snap := new(requorumv1.Snapshot)
	if err := store.Load(tx, store.Snapshots, key(cluster, name), snap); err != nil {
		return fmt.Errorf("catalog entry of snapshot %s: %w", name, err)
	}
	change(snap)
	return store.Save(tx, store.Snapshots, key(cluster, name), snap)
}

// Update changes a snapshot's entry in a transaction of its own.
func (c *Catalog) Update(cluster, name string, change func(*requorumv1.Snapshot)) error {
	return c.store.Update(func(tx store.Tx) error { return Update(tx, cluster, name, change) })
}

// Write runs a transaction.
func (c *Catalog) Write(f func(store.Tx) error) error { return c.store.Update(f) }

// Remove removes a snapshot's entry within a transaction.
func Remove(tx store.Tx, cluster, name string) error {
	return tx.Delete(store.Snapshots, key(cluster, name))
}

func list[T any, P interface {
	*T
	proto.Message
}](s store.Store, b store.Bucket, prefix string) ([]*T, error) {
	var all []*T
	err := s.View(func(tx store.Tx) error {
		return tx.Each(b, prefix, func(k string, data []byte) error {
			rec := P(new(T))
			if err := proto.Unmarshal(data, rec); err != nil {
				return fmt.Errorf("record %s/%s cannot be read: %w", b, k, err)
			}
			all = append(all, (*T)(rec))
			return nil
		})
	})
	return all, err
}
