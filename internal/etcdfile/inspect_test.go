package etcdfile_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/testing/protocmp"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/etcdtest"
)

// finishedCompaction is the revision of the last compaction that finished, 0 if none.
func finishedCompaction(t *testing.T, path string) (rev int64) {
	t.Helper()
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		if v := tx.Bucket([]byte("meta")).Get([]byte("finishedCompactRev")); v != nil {
			rev = int64(binary.BigEndian.Uint64(v))
		}
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestInspectTellsWhatIsInTheFile(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3, Auth: true})
	client := c.MemberClient(t, 0)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []string{"a", "b", "c", "a"} {
		_, err := client.Put(ctx, k, "v")
		must(err)
	}
	_, err := client.Delete(ctx, "b")
	must(err)
	_, err = client.Compact(ctx, 3, clientv3.WithCompactPhysical())
	must(err)
	_, err = client.Grant(ctx, 3600)
	must(err)
	id := uint64(c.Member(0).Server().Server.MemberID())
	_, err = c.Member(0).Server().Server.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
	must(err)
	list, err := client.MemberList(ctx)
	must(err)
	hash, _ := liveHash(t, client, 6)

	applied := c.Member(0).Server().Server.AppliedIndex()
	path := c.SaveSnapshot(t, 0)
	got, err := etcdfile.Inspect(ctx, path, nil)
	must(err)
	if got.AppliedIndex < applied {
		t.Errorf("the file holds what was applied up to %d, the member had applied %d before", got.AppliedIndex, applied)
	}
	info, err := os.Stat(path)
	must(err)
	want := &requorumv1.Manifest{
		Size: info.Size(), HasTrailer: true, Revision: 6, CompactRevision: 3, Keys: 2, HashKv: hash,
		StorageVersion: "3.7", AuthEnabled: true, Leases: 1, SizeInUse: got.SizeInUse, AppliedIndex: got.AppliedIndex,
		Alarms: []*requorumv1.Alarm{{MemberId: hex(id), Type: "NOSPACE"}},
	}
	for _, m := range list.Members {
		want.Members = append(want.Members, &requorumv1.ListedMember{Id: hex(m.ID), Name: m.Name, PeerUrls: m.PeerURLs, ClientUrls: m.ClientURLs})
	}
	byID := protocmp.SortRepeated(func(a, b *requorumv1.ListedMember) bool { return a.Id < b.Id })
	if diff := cmp.Diff(want, got, protocmp.Transform(), byID); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got.SizeInUse <= 0 || got.SizeInUse > got.Size {
		t.Errorf("%d bytes of %d in use", got.SizeInUse, got.Size)
	}
}

func TestInspectEmptyStore(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	got, err := etcdfile.Inspect(t.Context(), c.SaveSnapshot(t, 0), nil)
	if err != nil || got.Revision != 1 || got.CompactRevision != 0 || got.Keys != 0 {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestInspectRefusesTheDbOfARunningMember(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	_, err := etcdfile.Inspect(t.Context(), c.Member(0).DataDir+"/member/snap/db", nil)
	if err == nil {
		t.Fatal("inspected the db of a running member")
	}
	t.Log(err)
}

func TestReadsStopWhenCancelled(t *testing.T) {
	path := bigSnapshot(t)
	gaveUp := errors.New("gave up")
	for name, read := range map[string]func(context.Context, func(int64)) error{
		"Inspect": func(ctx context.Context, tick func(int64)) error {
			_, err := etcdfile.Inspect(ctx, path, tick)
			return err
		},
		"HashKV": func(ctx context.Context, tick func(int64)) error {
			_, err := etcdfile.HashKV(ctx, path, 10, 0, tick)
			return err
		},
		"Trailer": func(ctx context.Context, tick func(int64)) error {
			_, _, err := etcdfile.Trailer(ctx, path, tick)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			err := read(ctx, func(n int64) {
				if n <= 0 {
					t.Errorf("a tick of %d bytes", n)
				}
				cancel(gaveUp)
			})
			if !errors.Is(err, gaveUp) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestTrailer(t *testing.T) {
	whole := bigSnapshot(t)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte{}, data...)
	flipped[len(flipped)/2] ^= 1
	for name, tc := range map[string]struct {
		data          []byte
		present, fits bool
	}{
		"as streamed": {data, true, true},
		"a bit flips": {flipped, true, false},
		"none":        {data[:len(data)-32], false, false},
		"empty":       {nil, false, false},
		"only itself": {data[:32], true, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/f"
			if err := os.WriteFile(path, tc.data, 0o400); err != nil {
				t.Fatal(err)
			}
			present, fits, err := etcdfile.Trailer(t.Context(), path, nil)
			if err != nil || present != tc.present || fits != tc.fits {
				t.Fatalf("present %v, fits %v, %v", present, fits, err)
			}
		})
	}
}
