package etcdfile

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Inspect checks the file's structure and fills the manifest's fields that the file itself tells: sizes,
// has_trailer (from the size alone; Trailer verifies it), revisions, live keys, HashKV, storage version,
// applied raft index, members, alarms, authentication and leases. etcd does not keep the cluster ID in the file; that field stays
// empty. A damaged file gives a *CorruptError.
func Inspect(ctx context.Context, path string, tick func(n int64)) (*requorumv1.Manifest, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	m := &requorumv1.Manifest{Size: info.Size(), HasTrailer: HasTrailer(info.Size())}
	p := &progress{ctx: ctx, tick: tick}
	err = view(path, p, func(tx *bolt.Tx, inUse int64) error {
		m.SizeInUse = inUse
		if err := inspectKeys(path, tx, m, p); err != nil {
			return err
		}
		return inspectRest(path, tx, m)
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func inspectKeys(path string, tx *bolt.Tx, m *requorumv1.Manifest, p *progress) error {
	b, err := readBounds(path, tx)
	if err != nil {
		return err
	}
	keys := tx.Bucket(schema.Key.Name())
	l, err := readLiveness(path, keys, b.revision, b.compacted, p)
	if err != nil {
		return err
	}
	m.Revision, m.CompactRevision, m.Keys = b.revision, b.compacted, l.keys
	m.HashKv, err = hashKV(path, keys, b.revision, b.compacted, l, p)
	return err
}

func inspectRest(path string, tx *bolt.Tx, m *requorumv1.Manifest) (err error) {
	if v := schema.ReadStorageVersionFromSnapshot(tx); v != nil {
		m.StorageVersion = fmt.Sprintf("%d.%d", v.Major, v.Minor)
	}
	m.AppliedIndex = appliedIndex(tx)
	if m.Members, err = readMembers(tx); err != nil {
		return corrupt(path, "members: %v", err)
	}
	if m.Alarms, err = readAlarms(tx); err != nil {
		return corrupt(path, "alarms: %v", err)
	}
	if b := tx.Bucket(schema.Auth.Name()); b != nil {
		on := b.Get(schema.AuthEnabledKeyName)
		m.AuthEnabled = len(on) == 1 && on[0] == 1
	}
	return each(tx, schema.Lease.Name(), func(_, _ []byte) error { m.Leases++; return nil })
}

// appliedIndex returns the raft index of the last change in the file; 0 if the file does not tell.
func appliedIndex(tx *bolt.Tx) uint64 {
	b := tx.Bucket(schema.Meta.Name())
	if b == nil {
		return 0
	}
	v := b.Get(schema.MetaConsistentIndexKeyName)
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func readMembers(tx *bolt.Tx) (list []*requorumv1.ListedMember, err error) {
	err = each(tx, schema.Members.Name(), func(_, v []byte) error {
		var m membership.Member
		if err := json.Unmarshal(v, &m); err != nil {
			return err
		}
		list = append(list, &requorumv1.ListedMember{
			Id: m.ID.String(), Name: m.Name, PeerUrls: m.PeerURLs, ClientUrls: m.ClientURLs, Learner: m.IsLearner,
		})
		return nil
	})
	return list, err
}

func readAlarms(tx *bolt.Tx) (list []*requorumv1.Alarm, err error) {
	err = each(tx, schema.Alarm.Name(), func(k, _ []byte) error {
		var a etcdserverpb.AlarmMember
		if err := proto.Unmarshal(k, &a); err != nil {
			return err
		}
		list = append(list, &requorumv1.Alarm{MemberId: fmt.Sprintf("%x", a.MemberID), Type: a.Alarm.String()})
		return nil
	})
	return list, err
}

// each calls f for every entry of a bucket, which need not be there.
func each(tx *bolt.Tx, bucket []byte, f func(k, v []byte) error) error {
	b := tx.Bucket(bucket)
	if b == nil {
		return nil
	}
	return b.ForEach(f)
}
