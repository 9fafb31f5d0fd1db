package datadir

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/coreos/go-semver/semver"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"
)

// gateLock is how long to wait for the staged database, which nobody else should have open.
const gateLock = 10 * time.Second

// gateOf chooses the member whose alarm is the gate: one that all nodes choose, for the alarms of all members
// have to be the same.
func gateOf(members []types.ID) string { return hexID(uint64(slices.Min(members))) }

// adapt makes of the restored database what the member may start on: closed for writes, and of a version that its etcd
// reads.
func (d *Dirs) adapt(gate, etcdVersion string) error {
	db, err := bolt.Open(d.StagedDB(), 0o600, &bolt.Options{Timeout: gateLock, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}) // as etcd opens it
	if err != nil {
		return fmt.Errorf("open staged database: %w", err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := raiseGate(tx, gate); err != nil {
			return fmt.Errorf("close the staged data for writes: %w", err)
		}
		if err := lowerVersions(tx, etcdVersion); err != nil {
			return fmt.Errorf("make staged data fit etcd %s: %w", etcdVersion, err)
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// raiseGate puts the alarm CORRUPT of one member of the cluster that is to be into the staged database. etcd
// refuses every change of keys and leases while such an alarm is raised (etcd's applierV3Corrupt, since 3.3),
// and answers reads. So what clients write before the restore is past the point of no return is refused and not
// lost when the restore is taken back. The step "open" clears the alarm.
func raiseGate(tx *bolt.Tx, gate string) error {
	id, err := strconv.ParseUint(gate, 16, 64)
	if err != nil {
		return fmt.Errorf("member ID %q: %w", gate, err)
	}
	alarm, err := proto.Marshal(&etcdserverpb.AlarmMember{MemberID: id, Alarm: etcdserverpb.AlarmType_CORRUPT})
	if err != nil {
		return err
	}
	alarms, err := tx.CreateBucketIfNotExists(schema.Alarm.Name())
	if err != nil {
		return err
	}
	return alarms.Put(alarm, nil)
}

// lowerVersions keeps an older etcd from refusing what a newer one has saved. etcd notes the version of its schema and that
// of the cluster in the database, and since 3.6 does not start where either is higher than its own. An older etcd ignores
// them, and the 3.6 that it is one day replaced by would not. No version up to 3.7 has added anything but the first note
// to the schema (etcd's schemaChanges), so the notes are all there is to change. Lower ones are raised by etcd itself.
func lowerVersions(tx *bolt.Tx, etcdVersion string) error {
	if etcdVersion == "" {
		return nil
	}
	runs, err := semver.NewVersion(etcdVersion)
	if err != nil {
		return err
	}
	target := semver.Version{Major: runs.Major, Minor: runs.Minor}
	if err := lowerVersion(tx.Bucket(schema.Cluster.Name()), schema.ClusterClusterVersionKeyName, target); err != nil {
		return fmt.Errorf("cluster version: %w", err)
	}
	meta := tx.Bucket(schema.Meta.Name())
	if err := lowerVersion(meta, schema.MetaStorageVersionName, target); err != nil {
		return fmt.Errorf("storage version: %w", err)
	}
	if meta != nil && target.LessThan(version.V3_6) { // which brought it
		return meta.Delete(schema.MetaStorageVersionName)
	}
	return nil
}

// lowerVersion replaces the version under key by target where it is higher.
func lowerVersion(bucket *bolt.Bucket, key []byte, target semver.Version) error {
	if bucket == nil || len(bucket.Get(key)) == 0 {
		return nil
	}
	noted, err := semver.NewVersion(string(bucket.Get(key)))
	if err != nil || !target.LessThan(*noted) {
		return err
	}
	return bucket.Put(key, []byte(target.String()))
}
