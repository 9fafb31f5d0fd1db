package olddata_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/olddata"
	"github.com/requorum/requorum/agent/runtime"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/etcdtest"
)

const restoreID = "R1"

// TestMain is also the process that replays.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == olddata.Command {
		os.Exit(olddata.Main(os.Args, os.Stderr))
	}
	os.Exit(m.Run()) // the package starts no goroutine; etcd's members, in this process, leave some of theirs
}

// node is a runtime that knows where its member's data is.
type node struct {
	runtime.Runtime
	member runtime.Member
}

func (n node) Inspect(context.Context) (runtime.Member, error) { return n.member, nil }

// quarantined is the image of a running member's data, as a crash would leave it, in quarantine.
func quarantined(t *testing.T, dataDir, walDir string) *olddata.Reader {
	t.Helper()
	m := runtime.Member{DataDir: filepath.Join(t.TempDir(), "etcd"), UID: os.Geteuid(), GID: os.Getegid()}
	from := map[string]string{filepath.Join(dataDir, "member"): m.DataDir + ".quarantine-" + restoreID + "/member"}
	if walDir != "" {
		m.WALDir = filepath.Join(t.TempDir(), "wal")
		from[walDir] = m.WALDir + ".quarantine-" + restoreID
	}
	for src, dst := range from {
		if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
			t.Fatal(err)
		}
	}
	return &olddata.Reader{Runtime: node{member: m}, Log: hclog.NewNullLogger()}
}

// A member that was killed has not committed all it has applied to its database. The snapshot of its data holds
// everything all the same: keys, history, leases, users.
func TestSnapshotOfAKilledMemberHoldsEverything(t *testing.T) {
	for _, separateWAL := range []bool{false, true} {
		t.Run(fmt.Sprintf("separate WAL %v", separateWAL), func(t *testing.T) {
			wal := ""
			c := etcdtest.Start(t, etcdtest.Options{Auth: true, Configure: func(_ int, cfg *embed.Config) {
				cfg.BackendBatchInterval, cfg.BackendBatchLimit = time.Hour, 1<<30 // nothing is committed by itself
				if separateWAL {
					wal = filepath.Join(t.TempDir(), "wal")
					cfg.WalDir = wal
				}
			}})
			commit(t, c, 50)
			live := c.Member(0).Server().Server
			live.Backend().ForceCommit()
			atCommit := live.AppliedIndex()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			write(t, c, rand.New(rand.NewPCG(seed, 0)), 300)
			commit(t, c, 20)
			r := quarantined(t, c.Member(0).DataDir, wal)

			old, err := r.Inspect(t.Context(), restoreID)
			if err != nil {
				t.Fatal(err)
			}
			if !old.GetReadable() || old.GetAppliedIndex() < atCommit || old.GetLastIndex() != live.AppliedIndex() || old.GetLastTerm() != live.Term() ||
				old.GetClusterId() != live.Cluster().ID().String() {
				t.Fatalf("found %v; the member has committed %d and applied %d", old, atCommit, live.AppliedIndex())
			}
			if old.GetAppliedIndex() >= old.GetLastChange() {
				t.Fatal("the database is complete: this test proves nothing")
			}
			same(t, r, &agentv1.SaveOld{RestoreId: restoreID, Replay: true}, c)
		})
	}
}

// What an orderly stop leaves is complete, and needs no replay.
func TestSnapshotOfAStoppedMember(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	write(t, c, rand.New(rand.NewPCG(1, 0)), 200)
	c.Leader()
	live := inspect(t, c.SaveSnapshot(t, 0))
	c.Stop(0, 1, 2)
	r := quarantined(t, c.Member(0).DataDir, "")
	old, err := r.Inspect(t.Context(), restoreID)
	if err != nil || old.GetAppliedIndex() != old.GetLastIndex() || old.GetLastChange() == 0 || old.GetLastChange() > old.GetLastIndex() {
		t.Fatalf("found %v, %v", old, err)
	}
	for _, replay := range []bool{false, true} {
		m := save(t, r, &agentv1.SaveOld{RestoreId: restoreID, Replay: replay})
		if m.hash != live.hash || m.revision != live.revision || m.leases != live.leases {
			t.Errorf("replay %v: saved %+v, the member had %+v", replay, m, live)
		}
	}
}

// What is in quarantine stays as it is, and nothing is left beside it.
func TestQuarantineIsOnlyRead(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	write(t, c, rand.New(rand.NewPCG(2, 0)), 50)
	r := quarantined(t, c.Member(0).DataDir, "")
	d := dirs(t, r)
	before := content(t, filepath.Dir(d.QuarantinePaths()[0]))
	save(t, r, &agentv1.SaveOld{RestoreId: restoreID, Replay: true})
	if after := content(t, filepath.Dir(d.QuarantinePaths()[0])); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// tight has no room for what comes.
type tight struct {
	bytes.Buffer
	expected int64
}

var errNoRoom = errors.New("no room")

func (w *tight) Expect(size int64) error {
	w.expected = size
	return errNoRoom
}

// A snapshot that does not fit must not fill the disk of the etcd that serves again.
func TestNothingIsWrittenThatDoesNotFit(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	write(t, c, rand.New(rand.NewPCG(5, 0)), 50)
	c.Stop(0)
	r := quarantined(t, c.Member(0).DataDir, "")
	var fits bytes.Buffer
	if err := r.Save(t.Context(), &agentv1.SaveOld{RestoreId: restoreID}, &fits, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	w := new(tight)
	err := r.Save(t.Context(), &agentv1.SaveOld{RestoreId: restoreID}, w, func(int64, int64) {})
	if !errors.Is(err, errNoRoom) || w.Len() > 0 || w.expected != int64(fits.Len()) {
		t.Errorf("%v; %d bytes written, %d expected of %d", err, w.Len(), w.expected, fits.Len())
	}
}

func TestOldDataThatCannotBeRead(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	write(t, c, rand.New(rand.NewPCG(3, 0)), 50)
	dir := c.Member(0).DataDir
	c.Stop(0)
	for name, damage := range map[string]func(old datadir.Old) error{
		"no data at all":        func(o datadir.Old) error { return os.RemoveAll(filepath.Dir(o.Member)) },
		"no database":           func(o datadir.Old) error { return os.Remove(o.DB()) },
		"a database of garbage": func(o datadir.Old) error { return os.WriteFile(o.DB(), bytes.Repeat([]byte("garbage"), 9999), 0o600) },
		"an empty database":     func(o datadir.Old) error { return os.Truncate(o.DB(), 0) },
		"no log":                func(o datadir.Old) error { return os.RemoveAll(o.WAL) },
		"a log of garbage": func(o datadir.Old) error {
			all, err := filepath.Glob(filepath.Join(o.WAL, "*.wal"))
			if err != nil || len(all) == 0 {
				return fmt.Errorf("%v, %w", all, err)
			}
			return os.WriteFile(all[0], bytes.Repeat([]byte("garbage"), 9999), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := quarantined(t, dir, "")
			old, err := dirs(t, r).Old()
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(old); err != nil {
				t.Fatal(err)
			}
			found, err := r.Inspect(t.Context(), restoreID)
			if err != nil || found.GetReadable() || found.GetProblem() == "" {
				t.Errorf("found %v, %v", found, err)
			}
			if err := r.Save(t.Context(), &agentv1.SaveOld{RestoreId: restoreID, Replay: true}, new(bytes.Buffer), func(int64, int64) {}); err == nil {
				t.Error("it was saved all the same")
			}
		})
	}
}

// A record that the crash cut off was told to nobody.
func TestLastRecordCutOff(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	write(t, c, rand.New(rand.NewPCG(4, 0)), 50)
	r := quarantined(t, c.Member(0).DataDir, "")
	whole, err := r.Inspect(t.Context(), restoreID)
	if err != nil {
		t.Fatal(err)
	}
	old, err := dirs(t, r).Old()
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(old.WAL, "*.wal"))
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	data, err := os.ReadFile(all[0])
	if err != nil {
		t.Fatal(err)
	}
	used := int64(len(bytes.TrimRight(data, "\x00"))) // the rest is preallocated
	if err := os.Truncate(all[0], used-200); err != nil {
		t.Fatal(err)
	}
	cut, err := r.Inspect(t.Context(), restoreID)
	if err != nil || !cut.GetReadable() || cut.GetLastIndex() >= whole.GetLastIndex() || cut.GetLastIndex()+10 < whole.GetLastIndex() {
		t.Errorf("cut off, the log ends at %d, whole at %d; %v %v", cut.GetLastIndex(), whole.GetLastIndex(), cut.GetProblem(), err)
	}
	save(t, r, &agentv1.SaveOld{RestoreId: restoreID, Replay: true})
}

// facts are what a snapshot and a member can be compared by.
type facts struct {
	hash             uint32
	revision, leases int64
	auth             bool
}

// save saves the old data and reads what it is.
func save(t *testing.T, r *olddata.Reader, spec *agentv1.SaveOld) facts {
	t.Helper()
	var buf bytes.Buffer
	if err := r.Save(t.Context(), spec, &buf, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "saved.db")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	present, fits, err := etcdfile.Trailer(t.Context(), path, nil)
	if err != nil || !present || !fits {
		t.Errorf("SHA-256 at the end: present %v, fits %v, %v", present, fits, err)
	}
	if _, err := os.Stat(dirs(t, r).Scratch()); !os.IsNotExist(err) {
		t.Errorf("the scratch directory is left: %v", err)
	}
	return inspect(t, path)
}

func inspect(t *testing.T, path string) facts {
	t.Helper()
	m, err := etcdfile.Inspect(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return facts{m.GetHashKv(), m.GetRevision(), m.GetLeases(), m.GetAuthEnabled()}
}

// same compares what is saved with a snapshot that the member streams, which commits first.
func same(t *testing.T, r *olddata.Reader, spec *agentv1.SaveOld, c *etcdtest.Cluster) {
	t.Helper()
	saved, live := save(t, r, spec), inspect(t, c.SaveSnapshot(t, 0))
	if saved != live {
		t.Errorf("saved %+v, the member has %+v", saved, live)
	}
}

func dirs(t *testing.T, r *olddata.Reader) *datadir.Dirs {
	t.Helper()
	m, err := r.Runtime.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, err := datadir.Open(m, restoreID)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// commit writes keys.
func commit(t *testing.T, c *etcdtest.Cluster, n int) {
	t.Helper()
	for i := range n {
		if _, err := c.Client(t).Put(t.Context(), fmt.Sprint("first", i), "v"); err != nil {
			t.Fatal(err)
		}
	}
}

// write does everything that clients do, at random.
func write(t *testing.T, c *etcdtest.Cluster, random *rand.Rand, n int) {
	t.Helper()
	ctx, client := t.Context(), c.MemberClient(t, 0)
	var last int64
	for i := range n {
		key := fmt.Sprint("k", random.IntN(40))
		err := error(nil)
		switch random.IntN(8) {
		case 0:
			_, err = client.Delete(ctx, key)
		case 1:
			lease, failed := client.Grant(ctx, 3600)
			if err = failed; err == nil {
				_, err = client.Put(ctx, key, "leased", clientv3.WithLease(lease.ID))
			}
			if err == nil && random.IntN(2) == 0 {
				_, err = client.Revoke(ctx, lease.ID)
			}
		case 2:
			_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
				Then(clientv3.OpPut(key, "new")).Else(clientv3.OpPut("else", key), clientv3.OpDelete("k1", clientv3.WithPrefix())).Commit()
		case 3:
			if i%20 == 0 && last > 10 {
				_, err = client.Compact(ctx, last-10)
			}
		case 4:
			_, err = client.UserAdd(ctx, fmt.Sprint("user", i), "secret")
			if err != nil && strings.Contains(err.Error(), "not enabled") {
				err = nil
			}
		default:
			r, failed := client.Put(ctx, key, fmt.Sprint(i, strings.Repeat("x", random.IntN(3000))))
			if err = failed; err == nil {
				last = r.Header.Revision
			}
		}
		if err != nil && !strings.Contains(err.Error(), "compacted") {
			t.Fatal(err)
		}
	}
}

// content lists every file under dir with its size, except for locks.
func content(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintln(&b, path, len(data), hash(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func hash(data []byte) (sum uint64) {
	for _, b := range data {
		sum = sum*31 + uint64(b)
	}
	return sum
}
