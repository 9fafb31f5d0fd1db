package etcdfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/etcdtest"
)

// unfinished makes every compaction stop after a few entries, for as long as the test runs.
var unfinished = etcdtest.Options{CompactionBatchLimit: 7, CompactionSleepInterval: time.Hour}

func TestHashKVEqualsTheLiveMember(t *testing.T) {
	for _, finished := range []bool{true, false} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("compactions finish %v, seed %d", finished, seed), func(t *testing.T) {
				o, compact := unfinished, []clientv3.CompactOption{}
				if finished {
					o, compact = etcdtest.Options{}, append(compact, clientv3.WithCompactPhysical())
				}
				c := etcdtest.Start(t, o)
				h := newHistory(t, seed, c)
				for range 6 {
					h.write(40)
					compareHashes(t, c, h)
					h.compact(compact...)
					compareHashes(t, c, h)
				}
				c.Stop(0)
				c.Restart(0) // forgets the hashes of compactions: also the one at the compact revision is computed
				compareHashAt(t, c.SaveSnapshot(t, 0), h, h.compacted)
				compareHashes(t, c, h)
			})
		}
	}
}

// compareHashes compares at the latest revision and some between it and the compact revision, not at the
// latter, where a member may answer with the hash it kept of the compaction.
func compareHashes(t *testing.T, c *etcdtest.Cluster, h *history) {
	t.Helper()
	path := c.SaveSnapshot(t, 0)
	if h.revision > h.compacted {
		compareHashAt(t, path, h, h.revision)
	}
	for range 3 {
		if span := h.revision - h.compacted; span > 1 {
			compareHashAt(t, path, h, h.compacted+1+h.rand.Int64N(span-1))
		}
	}
}

func compareHashAt(t *testing.T, path string, h *history, rev int64) {
	t.Helper()
	want, compactRev := h.liveHash(rev)
	if compactRev != h.compacted {
		t.Fatalf("the member says that it is compacted at %d, not at %d", compactRev, h.compacted)
	}
	got, err := etcdfile.HashKV(t.Context(), path, rev, compactRev, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("revision %d, compacted at %d: %d from the file, %d from the member", rev, compactRev, got, want)
	}
}

func TestHashKVWithoutAnyLiveKey(t *testing.T) {
	for name, o := range map[string]etcdtest.Options{"compaction finished": {}, "compaction unfinished": unfinished} {
		t.Run(name, func(t *testing.T) {
			c := etcdtest.Start(t, o)
			h := newHistory(t, 1, c)
			h.write(40)
			h.delete("", clientv3.WithPrefix())
			h.compactAt(h.revision - 1)
			if o.CompactionBatchLimit == 0 {
				_, err := h.client.Put(t.Context(), "k", "v") // a compaction right behind waits for the one before it
				h.must(err)
				h.delete("k")
				h.compactAt(h.revision-1, clientv3.WithCompactPhysical())
			}
			compareHashAt(t, c.SaveSnapshot(t, 0), h, h.revision)
		})
	}
}

func TestMemberAnswersWithTheHashItKeptOfACompaction(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	h := newHistory(t, 1, c)
	h.write(40)
	h.compactAt(h.revision-10, clientv3.WithCompactPhysical())
	first := h.compacted
	h.compactAt(h.revision, clientv3.WithCompactPhysical())
	if _, compactRev := h.liveHash(h.compacted); compactRev != first {
		t.Errorf("compact revision %d, expected the one before, %d: doc.go is wrong", compactRev, first)
	}
}

func TestHashKVRefusesRevisionBelowCompactRevision(t *testing.T) {
	if _, err := etcdfile.HashKV(t.Context(), "any", 4, 5, nil); err == nil {
		t.Fatal("accepted")
	}
}

// bump is what a restore adds to the revision.
const bump = 1_000_000_000

func TestHashesOfARestoredFile(t *testing.T) {
	for _, tc := range []struct {
		name    string
		bump    uint64
		options etcdtest.Options
		prepare func(h *history)
	}{
		{name: "bumped, never compacted", bump: bump, prepare: func(h *history) { h.write(100) }},
		{name: "bumped, compacted before", bump: bump, prepare: func(h *history) {
			h.write(100)
			h.compact(clientv3.WithCompactPhysical())
			h.write(100)
		}},
		{name: "bumped, its compaction unfinished", bump: bump, options: unfinished, prepare: func(h *history) {
			h.write(100)
			h.compactAt(h.revision - 5)
			h.write(20)
		}},
		{name: "bumped, latest revision a tombstone and compacted", bump: bump, prepare: func(h *history) {
			h.write(100)
			h.put()
			h.delete("", clientv3.WithPrefix())
			h.compactAt(h.revision, clientv3.WithCompactPhysical())
		}},
		{name: "not bumped", prepare: func(h *history) {
			h.write(100)
			h.compact(clientv3.WithCompactPhysical())
			h.write(100)
		}},
		{name: "not bumped, compaction unfinished", options: unfinished, prepare: func(h *history) {
			h.write(100)
			h.compactAt(h.revision - 5)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := etcdtest.Start(t, tc.options)
			h := newHistory(t, 7, c)
			tc.prepare(h)
			file := c.SaveSnapshot(t, 0)
			manifest, err := etcdfile.Inspect(t.Context(), file, nil)
			h.must(err)

			c.Stop(0)
			h.must(os.Rename(c.Member(0).DataDir, c.Member(0).DataDir+".old"))
			db := restore(t, c, file, tc.bump)
			if got, err := etcdfile.HashKV(t.Context(), db, manifest.Revision, manifest.CompactRevision, nil); err != nil || got != manifest.HashKv {
				t.Errorf("HashKV of the staged db at the snapshot's revision is %d, %v; the manifest says %d", got, err, manifest.HashKv)
			}
			started, err := etcdfile.StartedHash(t.Context(), db, nil)
			h.must(err)
			hash, again, err := etcdfile.Hashes(t.Context(), db, manifest.Revision, manifest.CompactRevision, nil)
			if err != nil || hash != manifest.HashKv || again != started {
				t.Errorf("both in one go are %d and %+v, %v; one by one %d and %+v", hash, again, err, manifest.HashKv, started)
			}
			if want := manifest.Revision + int64(tc.bump); started.Revision != want {
				t.Errorf("started revision %d, expected %d", started.Revision, want)
			}

			c.Restart(0)
			compareStarted(t, c, started)
			if tc.options.CompactionBatchLimit == 0 {
				awaitCompaction(t, c, h, started)
				compareStarted(t, c, started)
			}
		})
	}
}

func restore(t *testing.T, c *etcdtest.Cluster, file string, bump uint64) (db string) {
	t.Helper()
	m := c.Member(0)
	if err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: m.Name, OutputDataDir: m.DataDir, PeerURLs: []string{m.PeerURL},
		InitialCluster: c.InitialCluster(), InitialClusterToken: c.Token + "-restored",
		RevisionBump: bump, MarkCompacted: bump > 0,
	}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(m.DataDir, "member", "snap", "db")
}

func compareStarted(t *testing.T, c *etcdtest.Cluster, want etcdfile.Started) {
	t.Helper()
	client := c.Client(t)
	hash, compactRev := liveHash(t, client, want.Revision)
	got := etcdfile.Started{Revision: want.Revision, CompactRevision: compactRev, Hash: hash}
	if got != want {
		t.Errorf("the started member says %+v, the staged file %+v", got, want)
	}
	status, err := client.Status(t.Context(), c.Endpoints[0])
	if err != nil || status.Header.Revision != want.Revision {
		t.Errorf("the started member is at revision %v, %v, expected %d", status.Header.Revision, err, want.Revision)
	}
}

// awaitCompaction waits until the compaction that the start resumed has removed the old entries.
func awaitCompaction(t *testing.T, c *etcdtest.Cluster, h *history, started etcdfile.Started) {
	t.Helper()
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for finishedCompaction(t, c.SaveSnapshot(t, 0)) != started.CompactRevision {
		select {
		case <-every.C:
		case <-t.Context().Done():
			t.Fatal("the compaction did not finish")
		}
	}
}

// Parts change nothing about what comes out. The file has 20 keys, and a set of 8 slots holds 7.
func TestFilesWithMoreKeysThanFitAreReadInParts(t *testing.T) {
	c := etcdtest.Start(t, unfinished)
	h := newHistory(t, 5, c)
	h.write(200)
	h.compact()
	h.write(100)
	file := c.SaveSnapshot(t, 0)
	whole, err := etcdfile.Inspect(t.Context(), file, nil)
	h.must(err)
	if whole.GetKeys() < 8 {
		t.Fatalf("%d keys fit into one part", whole.GetKeys())
	}
	passes := countTicks(t, file)
	t.Cleanup(etcdfile.SetKeysAtOnce(8))
	inParts, err := etcdfile.Inspect(t.Context(), file, nil)
	h.must(err)
	if diff := cmp.Diff(whole, inParts, protocmp.Transform()); diff != "" {
		t.Errorf("-whole +in parts:\n%s", diff)
	}
	if n := countTicks(t, file); n <= passes {
		t.Errorf("%d bytes read in parts, %d at once: the file was not read in parts", n, passes)
	}
	compareHashes(t, c, h)
}

func countTicks(t *testing.T, file string) (bytes int64) {
	t.Helper()
	if _, err := etcdfile.Inspect(t.Context(), file, func(n int64) { bytes += n }); err != nil {
		t.Fatal(err)
	}
	return bytes
}
