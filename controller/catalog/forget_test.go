package catalog_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

// Only failed ones are forgotten, the oldest first, and only those of the cluster.
func TestFailedSnapshotsDoNotPileUp(t *testing.T) {
	db, err := bolt.Open(t.TempDir() + "/store.db")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	const failed, ready = requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED, requorumv1.SnapshotState_SNAPSHOT_STATE_READY
	const extra = 3
	begin := time.Unix(1e9, 0)
	err = db.Update(func(tx store.Tx) error {
		add := func(cluster, name string, age int, state requorumv1.SnapshotState) {
			err := catalog.Put(tx, &requorumv1.Snapshot{Cluster: cluster, Name: name, State: state, Created: timestamppb.New(begin.Add(-time.Duration(age) * time.Minute))})
			if err != nil {
				t.Error(err)
			}
		}
		for i := range catalog.KeptFailed + extra {
			add("prod", fmt.Sprintf("f%03d", i), i, failed) // the later its name, the older
		}
		add("prod", "good", 10000, ready)
		add("production", "old", 10000, failed)
		return catalog.ForgetFailed(tx, "prod")
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := catalog.New(db).Snapshots("prod")
	if err != nil || len(all) != catalog.KeptFailed+1 {
		t.Errorf("%d entries are left, %v", len(all), err)
	}
	for name, there := range map[string]bool{"good": true, "f000": true, fmt.Sprintf("f%03d", catalog.KeptFailed-1): true, fmt.Sprintf("f%03d", catalog.KeptFailed): false} {
		if _, err := catalog.New(db).Snapshot("prod", name); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := catalog.New(db).Snapshot("production", "old"); err != nil {
		t.Error(err)
	}
}
