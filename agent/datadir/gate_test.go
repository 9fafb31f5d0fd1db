package datadir

import (
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

func TestLowerVersions(t *testing.T) {
	for _, c := range []struct{ noted, runs, want, cluster string }{
		{"3.7.0", "3.7.3", "3.7.0", "3.7.0"},
		{"3.7.0", "3.6.16", "3.6.0", "3.6.0"},
		{"3.7.0", "3.5.35", "", "3.5.0"},
		{"3.6.0", "3.4.23", "", "3.4.0"},
		{"3.6.0", "3.7.3", "3.6.0", "3.7.0"}, // etcd raises it itself
		{"3.7.0", "", "3.7.0", "3.7.0"},      // not known
		{"", "3.6.16", "", "3.6.0"},          // saved by etcd 3.5
	} {
		db, err := bolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, cluster := "", ""
		err = db.Update(func(tx *bolt.Tx) error {
			meta, err := tx.CreateBucket(schema.Meta.Name())
			if err != nil {
				return err
			}
			if c.noted != "" {
				if err := meta.Put(schema.MetaStorageVersionName, []byte(c.noted)); err != nil {
					return err
				}
			}
			members, err := tx.CreateBucket(schema.Cluster.Name())
			if err != nil {
				return err
			}
			if err := members.Put(schema.ClusterClusterVersionKeyName, []byte("3.7.0")); err != nil {
				return err
			}
			err = lowerVersions(tx, c.runs)
			got = string(meta.Get(schema.MetaStorageVersionName))
			cluster = string(members.Get(schema.ClusterClusterVersionKeyName))
			return err
		})
		if err != nil || got != c.want || cluster != c.cluster {
			t.Errorf("%q for etcd %q becomes %q, not %q, and the cluster's version %q, not %q; %v", c.noted, c.runs, got, c.want, cluster, c.cluster, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
