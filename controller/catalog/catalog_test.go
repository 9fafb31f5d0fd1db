package catalog_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

const (
	creating = requorumv1.SnapshotState_SNAPSHOT_STATE_CREATING
	ready    = requorumv1.SnapshotState_SNAPSHOT_STATE_READY
	failed   = requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED
	deleting = requorumv1.SnapshotState_SNAPSHOT_STATE_DELETING
	safety   = requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY
)

func open(t *testing.T) *catalog.Catalog {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return catalog.New(s)
}

// write runs a transaction that must succeed.
func write(t *testing.T, c *catalog.Catalog, f func(store.Tx) error) {
	t.Helper()
	if err := c.Write(f); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, c *catalog.Catalog, snaps ...*requorumv1.Snapshot) {
	t.Helper()
	for _, s := range snaps {
		write(t, c, func(tx store.Tx) error { return catalog.Put(tx, s) })
	}
}

func snap(cluster, name string, age time.Duration, state requorumv1.SnapshotState) *requorumv1.Snapshot {
	return &requorumv1.Snapshot{Cluster: cluster, Name: name, State: state, Created: timestamppb.New(time.Now().Add(-age))}
}

func TestLatestIsTheNewestReadySnapshotThatIsNoSafetyCopy(t *testing.T) {
	c := open(t)
	latest := func() string {
		s, err := c.Snapshot("prod", catalog.Latest)
		var missing *catalog.NotFoundError
		if errors.As(err, &missing) {
			return "none"
		}
		if err != nil {
			t.Fatal(err)
		}
		return s.GetName()
	}
	kept := snap("prod", "kept", time.Minute, ready)
	kept.Kind = safety
	for _, step := range []struct {
		add  *requorumv1.Snapshot
		want string
	}{
		{snap("other", "elsewhere", 0, ready), "none"},
		{snap("prod", "being-made", 0, creating), "none"},
		{snap("prod", "broken", 0, failed), "none"},
		{snap("prod", "going", 0, deleting), "none"},
		{kept, "none"},
		{snap("prod", "old", time.Hour, ready), "old"},
		{snap("prod", "older", 2*time.Hour, ready), "old"},
		{snap("prod", "newer", time.Minute, ready), "newer"},
	} {
		put(t, c, step.add)
		if got := latest(); got != step.want {
			t.Errorf("after %s: latest is %s, want %s", step.add.GetName(), got, step.want)
		}
	}
	if s, err := c.Snapshot("prod", "kept"); err != nil || s.GetKind() != safety {
		t.Errorf("a safety snapshot is found by name: %v, %v", s, err)
	}
}

// What was imported today may be a year old, or another cluster's.
func TestImportedSnapshotIsNotTheLatest(t *testing.T) {
	c := open(t)
	imported := snap("prod", "imported", 0, ready)
	imported.Kind = requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED
	put(t, c, imported)
	var missing *catalog.NotFoundError
	if s, err := c.Snapshot("prod", catalog.Latest); !errors.As(err, &missing) {
		t.Errorf("the latest is %v, %v", s, err)
	}
	put(t, c, snap("prod", "own", 2*time.Hour, ready))
	if s, err := c.Snapshot("prod", catalog.Latest); err != nil || s.GetName() != "own" {
		t.Errorf("the latest is %v, %v", s, err)
	}
}

func TestSnapshotsAreListedNewestFirst(t *testing.T) {
	c := open(t)
	put(t, c, snap("prod", "b", 2*time.Hour, ready), snap("prod", "a", 3*time.Hour, failed), snap("prod", "c", time.Hour, ready), snap("prod2", "d", 0, ready))
	for cluster, want := range map[string][]string{"prod": {"c", "b", "a"}, "": {"d", "c", "b", "a"}, "pro": nil} {
		all, err := c.Snapshots(cluster)
		var got []string
		for _, s := range all {
			got = append(got, s.GetName())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("cluster %q: %v, %v, want %v", cluster, got, err, want)
		}
	}
}

// A clock that was put back makes a later snapshot look older. It is the latest all the same.
func TestLatestIsThatOfTheLatestOperation(t *testing.T) {
	c := open(t)
	first, second := snap("prod", "first", 0, ready), snap("prod", "second", time.Hour, ready)
	first.OperationId, second.OperationId = "01K0000000AAAAAAAAAAAAAAAA", "01K0000001AAAAAAAAAAAAAAAA"
	put(t, c, first, second)
	if s, err := c.Snapshot("prod", catalog.Latest); err != nil || s.GetName() != "second" {
		t.Errorf("the latest is %v, %v", s, err)
	}
}

func TestUnknownNamesSayWhatToDo(t *testing.T) {
	c := open(t)
	put(t, c, snap("prod", "pre-1.31", 0, ready))
	for name, want := range map[string]string{
		"pre-1.31.db": "there is pre-1.31: give the name without the file's extension",
		"pre-1":       "requorum snapshot ls shows them",
	} {
		_, err := c.Snapshot("prod", name)
		var missing *catalog.NotFoundError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", name, err, want)
		}
	}
	var missing *catalog.NotFoundError
	if _, err := c.Cluster("nope"); !errors.As(err, &missing) {
		t.Errorf("cluster: %v", err)
	}
}

func TestNameIsTakenUnlessItsSnapshotFailed(t *testing.T) {
	for state, taken := range map[requorumv1.SnapshotState]bool{creating: true, ready: true, deleting: true, failed: false} {
		t.Run(state.String(), func(t *testing.T) {
			c := open(t)
			put(t, c, snap("prod", "s", time.Hour, state))
			err := c.Write(func(tx store.Tx) error { return catalog.Add(tx, snap("prod", "s", 0, creating)) })
			var exists *catalog.ExistsError
			if errors.As(err, &exists) != taken || !taken && err != nil {
				t.Errorf("add: %v", err)
			}
			write(t, c, func(tx store.Tx) error { return catalog.Add(tx, snap("test", "s", 0, creating)) }) // of another cluster
		})
	}
}

func TestUpdateAndRemove(t *testing.T) {
	c := open(t)
	put(t, c, snap("prod", "s", 0, creating))
	if err := c.Update("prod", "s", func(s *requorumv1.Snapshot) { s.State = ready }); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Snapshot("prod", "s"); err != nil || !catalog.Good(s) {
		t.Errorf("%v, %v", s, err)
	}
	if err := c.Update("prod", "nope", func(*requorumv1.Snapshot) {}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("update of nothing: %v", err)
	}
	write(t, c, func(tx store.Tx) error { return catalog.Remove(tx, "prod", "s") })
	if _, err := c.Snapshot("prod", "s"); err == nil {
		t.Error("still there")
	}
}

// A restore makes a generation. Nodes that took part know it, nodes that were left out must not get it,
// nodes that came later take it over.
func TestGenerationIsTakenOverByNodesThatBeginAnew(t *testing.T) {
	c := open(t)
	update := func(f func(*journalv1.ClusterRecord)) {
		if err := c.UpdateCluster("prod", f); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, generation uint64, adopt map[string]bool) {
		t.Helper()
		for node, want := range adopt {
			g, got, err := c.Generation("prod", node)
			if err != nil || g != generation || got != want {
				t.Errorf("%s, node %s: generation %d, adopt %v, %v; want %d, %v", when, node, g, got, err, generation, want)
			}
		}
	}
	update(func(*journalv1.ClusterRecord) {})
	expect("before any restore", 0, map[string]bool{"a": true})
	update(func(rec *journalv1.ClusterRecord) {
		rec.Generation, rec.Members, rec.LeftOut = 1, []string{"a", "b"}, []string{"c"}
	})
	expect("after a restore", 1, map[string]bool{"a": false, "b": false, "c": false, "new": true})
	for _, node := range []string{"a", "c", "new"} {
		if err := c.Reenrolled("prod", node); err != nil {
			t.Fatal(err)
		}
	}
	expect("after they were enrolled again", 1, map[string]bool{"a": true, "b": false, "c": false, "new": true})
	if _, _, err := c.Generation("nope", "a"); err == nil {
		t.Error("the generation of a cluster that is not there")
	}
}

func TestNodesAreThoseThatWereNotRemoved(t *testing.T) {
	c := open(t)
	write(t, c, func(tx store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Nodes, "prod/a", &journalv1.NodeRecord{Cluster: "prod", Name: "a"}),
			store.Save(tx, store.Nodes, "prod/b", &journalv1.NodeRecord{Cluster: "prod", Name: "b", Removed: true}),
			store.Save(tx, store.Nodes, "prod2/c", &journalv1.NodeRecord{Cluster: "prod2", Name: "c"}),
		)
	})
	if names, err := c.NodeNames("prod"); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("%v, %v", names, err)
	}
	if all, err := c.EveryNode(); err != nil || len(all) != 3 {
		t.Errorf("%v, %v", all, err)
	}
	if err := c.Seen("prod", "a", "a:1"); err != nil {
		t.Fatal(err)
	}
	nodes, err := c.Nodes("prod")
	if err != nil || nodes[0].GetTransferAddress() != "a:1" || time.Since(nodes[0].GetLastSeen().AsTime()) > time.Minute {
		t.Errorf("%v, %v", nodes, err)
	}
	if err := c.Seen("prod", "nope", ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an unknown node: %v", err)
	}
}

func TestClustersAndVoters(t *testing.T) {
	c := open(t)
	for _, name := range []string{"b", "a"} {
		if err := c.SetVoters(name, 3); err != nil {
			t.Fatal(err)
		}
	}
	all, err := c.Clusters()
	if err != nil || len(all) != 2 || all[0].GetName() != "a" || all[0].GetVoters() != 3 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestUnreadableRecordIsTold(t *testing.T) {
	c := open(t)
	write(t, c, func(tx store.Tx) error { return tx.Put(store.Snapshots, "prod/s", []byte("nonsense")) })
	if _, err := c.Snapshots("prod"); err == nil || !strings.Contains(err.Error(), "record snapshots/prod/s cannot be read") {
		t.Errorf("got %v", err)
	}
}
