package restore

import (
	"slices"
	"testing"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

// A node that takes no part in a restore is fenced, also one that was removed: it may come back with its old data.
func TestRemovedNodeIsFencedToo(t *testing.T) {
	r := newRoom(t)
	r.enrolled = []string{"a", "b", "c"}
	r.open()
	err := r.Catalog.Write(func(tx store.Tx) error {
		return store.Save(tx, store.Nodes, "prod/c", &journalv1.NodeRecord{Cluster: "prod", Name: "c", Removed: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	job := &journalv1.RestoreJob{
		Spec: &requorumv1.RestoreSpec{Nodes: []string{"a"}}, Generation: 7, Nodes: []*journalv1.RestoreNode{{Node: "a"}},
	}
	if err := r.raiseGeneration("prod", job); err != nil {
		t.Fatal(err)
	}
	rec, err := r.Catalog.Cluster("prod")
	if err != nil || rec.GetGeneration() != 7 || rec.GetVoters() != 1 || !slices.Equal(rec.GetLeftOut(), []string{"b", "c"}) {
		t.Errorf("record %v, %v", rec, err)
	}
	for node, fenced := range map[string]bool{"b": true, "c": true, "new": false} {
		generation, adopt, err := r.Catalog.Generation("prod", node)
		if err != nil || generation != 7 || adopt == fenced {
			t.Errorf("%s: generation %d, adopt %v, %v", node, generation, adopt, err)
		}
	}
}
