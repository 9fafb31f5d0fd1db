package catalog

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

// KeptFailed is how many entries of failed snapshots a cluster's catalog keeps, the newest ones. There is no file
// behind them.
const KeptFailed = 100

// ForgetFailed removes the entries of a cluster's oldest failed snapshots within a transaction.
func ForgetFailed(tx store.Tx, cluster string) error {
	var failed []*requorumv1.Snapshot
	err := tx.Each(store.Snapshots, key(cluster, ""), func(k string, data []byte) error {
		snap := new(requorumv1.Snapshot)
		if err := proto.Unmarshal(data, snap); err != nil {
			return fmt.Errorf("record %s/%s cannot be read: %w", store.Snapshots, k, err)
		}
		if snap.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED {
			failed = append(failed, snap)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(failed, func(a, b *requorumv1.Snapshot) int { return a.GetCreated().AsTime().Compare(b.GetCreated().AsTime()) })
	for _, snap := range failed[:max(0, len(failed)-KeptFailed)] {
		if err := Remove(tx, cluster, snap.GetName()); err != nil {
			return err
		}
	}
	return nil
}
