package datadir

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"
)

// gateLock is how long to wait for the staged database, which nobody else should have open.
const gateLock = 10 * time.Second

// gateOf chooses the member whose alarm is the gate: one that all nodes choose, for the alarms of all members
// have to be the same.
func gateOf(members []types.ID) string { return hexID(uint64(slices.Min(members))) }

// raiseGate puts the alarm CORRUPT of one member of the cluster that is to be into the staged database. etcd
// refuses every change of keys and leases while such an alarm is raised (etcd's applierV3Corrupt, since 3.3),
// and answers reads. So what clients write before the restore is past the point of no return is refused and not
// lost when the restore is taken back. The step "open" clears the alarm.
func (d *Dirs) raiseGate(gate string) error {
	id, err := strconv.ParseUint(gate, 16, 64)
	if err != nil {
		return fmt.Errorf("member ID %q: %w", gate, err)
	}
	alarm, err := proto.Marshal(&etcdserverpb.AlarmMember{MemberID: id, Alarm: etcdserverpb.AlarmType_CORRUPT})
	if err != nil {
		return err
	}
	db, err := bolt.Open(d.StagedDB(), 0o600, &bolt.Options{Timeout: gateLock, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}) // as etcd opens it
	if err != nil {
		return fmt.Errorf("open staged database: %w", err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		alarms, err := tx.CreateBucketIfNotExists(schema.Alarm.Name())
		if err != nil {
			return err
		}
		return alarms.Put(alarm, nil)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("close the staged data for writes: %w", err)
	}
	return nil
}
