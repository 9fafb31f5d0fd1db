package etcdfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Inspect checks the file's structure and fills the manifest's fields that the file itself tells: sizes,
// has_trailer (from the size alone; Trailer verifies it), revisions, live keys, HashKV, storage version,
// applied raft index, members, alarms, authentication and leases. etcd does not keep the cluster ID in the
// file; that field stays empty. A damaged file gives a *CorruptError.
func Inspect(ctx context.Context, path string, tick func(n int64)) (*requorumv1.Manifest, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	m := &requorumv1.Manifest{Size: info.Size(), HasTrailer: HasTrailer(info.Size())}
	s, err := run(ctx, path, tick,
		func(b bounds) []*view { return []*view{b.view()} },
		func(bucket string, key, value []byte) error { return describe(m, bucket, key, value) })
	if err != nil {
		return nil, err
	}
	v := s.views[0]
	m.Revision, m.CompactRevision, m.Keys, m.HashKv = v.revision, v.compacted, v.keys, v.hash
	m.SizeInUse = s.inUse()
	slices.Reverse(m.Members) // they were met from the last to the first
	slices.Reverse(m.Alarms)
	return m, nil
}

// describe notes what an entry says that is of another bucket than key.
func describe(m *requorumv1.Manifest, bucket string, key, value []byte) error {
	switch bucket {
	case string(schema.Members.Name()):
		return addMember(m, value)
	case string(schema.Alarm.Name()):
		return addAlarm(m, key)
	case string(schema.Lease.Name()):
		m.Leases++
	case string(schema.Auth.Name()):
		if bytes.Equal(key, schema.AuthEnabledKeyName) {
			m.AuthEnabled = len(value) == 1 && value[0] == 1
		}
	case string(schema.Meta.Name()):
		describeMeta(m, key, value)
	}
	return nil
}

func describeMeta(m *requorumv1.Manifest, key, value []byte) {
	switch {
	case bytes.Equal(key, schema.MetaStorageVersionName):
		m.StorageVersion = majorMinor(string(value))
	case bytes.Equal(key, schema.MetaConsistentIndexKeyName) && len(value) == 8:
		m.AppliedIndex = binary.BigEndian.Uint64(value)
	}
}

// majorMinor returns "3.7" for "3.7.0", and nothing for what is no version.
func majorMinor(version string) string {
	var major, minor, patch int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); err != nil {
		return ""
	}
	return fmt.Sprintf("%d.%d", major, minor)
}

func addMember(m *requorumv1.Manifest, value []byte) error {
	var member membership.Member
	if err := json.Unmarshal(value, &member); err != nil {
		return err
	}
	m.Members = append(m.Members, &requorumv1.ListedMember{
		Id: member.ID.String(), Name: member.Name, PeerUrls: member.PeerURLs, ClientUrls: member.ClientURLs, Learner: member.IsLearner,
	})
	return nil
}

func addAlarm(m *requorumv1.Manifest, key []byte) error {
	var a etcdserverpb.AlarmMember
	if err := proto.Unmarshal(key, &a); err != nil {
		return err
	}
	m.Alarms = append(m.Alarms, &requorumv1.Alarm{MemberId: fmt.Sprintf("%x", a.MemberID), Type: a.Alarm.String()})
	return nil
}
