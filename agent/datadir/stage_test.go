package datadir_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/datadir"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/etcdtest"
)

func TestRestoreOfALiveMemberAndBack(t *testing.T) {
	for _, separateWAL := range []bool{false, true} {
		t.Run(fmt.Sprintf("separate WAL %v", separateWAL), func(t *testing.T) {
			wal := ""
			o := etcdtest.Options{}
			if separateWAL {
				wal = filepath.Join(t.TempDir(), "wal")
				o.Configure = func(_ int, cfg *embed.Config) { cfg.WalDir = wal }
			}
			c := etcdtest.Start(t, o)
			m := c.Member(0)
			put(t, c, "k", "before")
			snapshot := c.SaveSnapshot(t, 0)
			put(t, c, "k", "after")

			d := open(t, member(m.DataDir, wal))
			var last, total int64
			staged, err := d.Stage(t.Context(), spec(c, snapshot), func(done, all int64) {
				if done < last {
					t.Errorf("progress went from %d back to %d", last, done)
				}
				last, total = done, all
			})
			if err != nil {
				t.Fatal(err)
			}
			if last == 0 || last != total {
				t.Errorf("progress ended at %d of %d", last, total)
			}
			if got := get(t, c, "k"); got != "after" {
				t.Fatalf("while staged data lies beside it, etcd answers %q", got)
			}
			checkModes(t, d.StagedDB())
			expectHeld(t, d)

			c.Stop(0)
			if err := datadir.WaitFree(t.Context(), m.DataDir, wal, []string{m.ClientURL, m.PeerURL}); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Swap(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Restart(0)
			checkServes(t, c, "before", staged)
			checkGate(t, c, staged)
			if _, err := d.Swap(t.Context()); err != nil {
				t.Fatalf("swap what is swapped, etcd serving: %v", err)
			}
			var held *datadir.HeldError
			if err := d.SwapBack(t.Context()); !errors.As(err, &held) {
				t.Fatalf("swap back while etcd serves: %v", err)
			}
			c.Stop(0)
			if err := d.SwapBack(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.Restart(0)
			if got := get(t, c, "k"); got != "after" {
				t.Fatalf("swapped back, etcd answers %q", got)
			}
			c.Stop(0)
			if _, err := d.Swap(t.Context()); err != nil {
				t.Fatalf("swap again: %v", err)
			}
			c.Restart(0)
			checkServes(t, c, "before", staged)
		})
	}
}

func expectHeld(t *testing.T, d *datadir.Dirs) {
	t.Helper()
	var held *datadir.HeldError
	if _, err := d.Swap(t.Context()); !errors.As(err, &held) {
		t.Fatalf("swap while etcd serves: %v", err)
	}
	if has, err := d.HasQuarantine(); has || err != nil {
		t.Fatalf("a refused swap left a quarantine: %v, %v", has, err)
	}
}

func spec(c *etcdtest.Cluster, snapshot string) datadir.StageSpec {
	return datadir.StageSpec{
		SnapshotPath: snapshot,
		Task: &agentv1.Stage{
			RestoreId: id, MemberName: c.Member(0).Name, PeerUrls: []string{c.Member(0).PeerURL},
			InitialCluster: c.InitialCluster(), ClusterToken: "fresh", BumpRevision: 1000,
		},
		UID: os.Geteuid(), GID: os.Getegid(),
	}
}

func checkServes(t *testing.T, c *etcdtest.Cluster, want string, staged *agentv1.Staged) {
	t.Helper()
	if got := get(t, c, "k"); got != want {
		t.Fatalf("etcd answers %q, expected %q", got, want)
	}
	status, err := c.Client(t).Status(timeout(t), c.Endpoints[0])
	if err != nil {
		t.Fatal(err)
	}
	h := status.Header
	if m, cl := fmt.Sprintf("%x", h.GetMemberId()), fmt.Sprintf("%x", h.GetClusterId()); m != staged.GetMemberId() || cl != staged.GetClusterId() {
		t.Errorf("member %s of cluster %s, staged %v", m, cl, staged)
	}
	if h.GetRevision() < 1000 {
		t.Errorf("revision %d was not bumped", h.GetRevision())
	}
}

// checkGate fails if etcd takes a write before the gate is lifted, or none afterwards.
func checkGate(t *testing.T, c *etcdtest.Cluster, staged *agentv1.Staged) {
	t.Helper()
	ctx, client := timeout(t), c.Client(t)
	write := func() map[string]error {
		_, put := client.Put(ctx, "gate", "v")
		_, del := client.Delete(ctx, "gate")
		_, txn := client.Txn(ctx).Then(clientv3.OpPut("gate", "v")).Commit()
		_, lease := client.Grant(ctx, 60)
		_, compact := client.Compact(ctx, 2000)
		return map[string]error{"put": put, "delete": del, "transaction": txn, "lease": lease, "compaction": compact}
	}
	for what, err := range write() {
		if !errors.Is(err, rpctypes.ErrCorrupt) {
			t.Errorf("%s while the gate is closed: %v", what, err)
		}
	}
	gate, err := strconv.ParseUint(staged.GetGate(), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: gate, Alarm: pb.AlarmType_CORRUPT}); err != nil {
		t.Fatal(err)
	}
	for what, err := range write() {
		if errors.Is(err, rpctypes.ErrCorrupt) {
			t.Errorf("%s once the gate is lifted: %v", what, err)
		}
	}
}

// checkModes fails if others than the owner may read what is staged.
func checkModes(t *testing.T, db string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Dir(filepath.Dir(db)), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStageRefusesASnapshotThatIsDamaged(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	put(t, c, "k", "v")
	good := c.SaveSnapshot(t, 0)
	for name, damage := range map[string]func(t *testing.T, f *os.File, size int64){
		"a flipped bit": func(t *testing.T, f *os.File, size int64) {
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, size/2); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{b[0] ^ 1}, size/2); err != nil {
				t.Fatal(err)
			}
		},
		"cut off": func(t *testing.T, f *os.File, size int64) {
			if err := f.Truncate(size - 5000); err != nil {
				t.Fatal(err)
			}
		},
		"empty": func(t *testing.T, f *os.File, size int64) {
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(good)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "snapshot.db")
			write(t, path, string(data))
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, f, int64(len(data)))
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			expectCorrupt(t, spec(c, path))
		})
	}
	t.Run("another one than the manifest's", func(t *testing.T) {
		s := spec(c, good)
		s.Task.Manifest = manifest("00")
		expectCorrupt(t, s)
	})
	t.Run("not a database, check skipped", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "snapshot.db")
		write(t, path, string(make([]byte, 64<<10)))
		s := spec(c, path)
		s.Task.SkipHashCheck = true
		expectCorrupt(t, s)
	})
}

func expectCorrupt(t *testing.T, s datadir.StageSpec) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "etcd")
	_, err := open(t, member(dir, "")).Stage(t.Context(), s, nil)
	var corrupt *datadir.CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("error %v", err)
	}
	expectNothingLeft(t, dir)
}

func expectNothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left, err := filepath.Glob(dir + ".*"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestStageEndsWithItsContextAndLeavesNothing(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	put(t, c, "k", "v")
	dir := filepath.Join(t.TempDir(), "etcd")
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := open(t, member(dir, "")).Stage(ctx, spec(c, c.SaveSnapshot(t, 0)), func(int64, int64) { cancel(enough) })
	if !errors.Is(err, enough) {
		t.Fatalf("error %v", err)
	}
	expectNothingLeft(t, dir)
}

func TestStageSaysHowMuchSpaceItNeeds(t *testing.T) {
	for _, small := range []string{"etcd", "wal"} { // one of the two file systems has 16 MiB, and the other one enough
		root := t.TempDir()
		dir := filepath.Join(root, small)
		mountTmpfs(t, dir)
		snapshot := filepath.Join(t.TempDir(), "snapshot.db")
		write(t, snapshot, "small")
		d := open(t, member(filepath.Join(root, "etcd"), filepath.Join(root, "wal")))
		_, err := d.Stage(t.Context(), datadir.StageSpec{SnapshotPath: snapshot, Task: &agentv1.Stage{RestoreId: id}}, nil)
		var space *datadir.NoSpaceError
		if !errors.As(err, &space) || space.Path != dir || space.Needed <= space.Free {
			t.Errorf("%s: error %v", small, err)
		}
		expectNothingLeft(t, dir)
	}
}

// Without SELinux the kernel keeps labels all the same, where root sets them.
func TestStagedFilesHaveTheLabelOfTheOldOnes(t *testing.T) {
	const attr, label = "security.selinux", "system_u:object_r:etcd_var_lib_t:s0\x00"
	c := etcdtest.Start(t, etcdtest.Options{})
	root := t.TempDir()
	dir, wal := filepath.Join(root, "etcd"), filepath.Join(root, "wal")
	write(t, filepath.Join(dir, "member", "snap", "db"), "old")
	write(t, filepath.Join(wal, "0.wal"), "old")
	for _, path := range []string{filepath.Join(dir, "member"), wal} {
		if err := unix.Setxattr(path, attr, []byte(label), 0); err != nil {
			t.Skipf("setting a label: %v", err)
		}
	}
	d := open(t, member(dir, wal))
	if _, err := d.Stage(t.Context(), spec(c, c.SaveSnapshot(t, 0)), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Swap(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, root := range append(d.QuarantinePaths(), filepath.Join(dir, "member"), wal) {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || path != root && slices.Contains(d.QuarantinePaths(), root) {
				return err // what is in there is as it was
			}
			got := make([]byte, 100)
			n, err := unix.Getxattr(path, attr, got)
			if err != nil || string(got[:n]) != label {
				t.Errorf("%s has the label %q, %v", path, got[:max(n, 0)], err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestStagedFilesBelongToEtcdsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving files away needs root")
	}
	c := etcdtest.Start(t, etcdtest.Options{})
	dir := filepath.Join(t.TempDir(), "etcd")
	m := member(dir, "")
	m.UID, m.GID = 4242, 4343
	d := open(t, m)
	s := spec(c, c.SaveSnapshot(t, 0))
	s.UID, s.GID = m.UID, m.GID
	if _, err := d.Stage(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Swap(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, root := range append(d.QuarantinePaths(), dir) {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var stat syscall.Stat_t
			if err := syscall.Stat(path, &stat); err != nil {
				return err
			}
			if filepath.Base(path) != "requorum-quarantine.json" && (stat.Uid != 4242 || stat.Gid != 4343) {
				t.Errorf("%s belongs to %d:%d", path, stat.Uid, stat.Gid)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFreeNamesWhatHoldsTheData(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := c.Member(0)
	for name, test := range map[string]struct {
		dataDir string
		urls    []string
		what    string
	}{
		"database":    {m.DataDir, nil, filepath.Join(m.DataDir, "member", "snap", "db")},
		"port":        {t.TempDir(), []string{m.ClientURL}, m.ClientURL},
		"any address": {t.TempDir(), []string{"http://0.0.0.0:" + port(m.PeerURL)}, "http://0.0.0.0:" + port(m.PeerURL)},
	} {
		t.Run(name, func(t *testing.T) {
			err := datadir.Free(t.Context(), test.dataDir, "", test.urls)
			var held *datadir.HeldError
			if !errors.As(err, &held) || held.What != test.what || held.PID != os.Getpid() || held.Process == "" {
				t.Fatalf("error %v", err)
			}
		})
	}
	t.Run("log", func(t *testing.T) {
		err := datadir.Free(t.Context(), t.TempDir(), filepath.Join(m.DataDir, "member", "wal"), nil)
		var held *datadir.HeldError
		if !errors.As(err, &held) || filepath.Ext(held.What) != ".wal" || held.PID != os.Getpid() {
			t.Fatalf("error %v", err)
		}
	})
	put(t, c, "k", "looking harms nothing")
	t.Run("waiting ends with the context", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err := datadir.WaitFree(ctx, m.DataDir, "", nil)
		var held *datadir.HeldError
		if !errors.As(err, &held) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v", err)
		}
	})
	c.Stop(0)
	if err := datadir.Free(t.Context(), m.DataDir, "", []string{m.ClientURL, m.PeerURL}); err != nil {
		t.Fatalf("stopped: %v", err)
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, c *etcdtest.Cluster, key, value string) {
	t.Helper()
	if _, err := c.Client(t).Put(timeout(t), key, value); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, c *etcdtest.Cluster, key string) string {
	t.Helper()
	r, err := c.Client(t).Get(timeout(t), key)
	if err != nil {
		t.Fatal(err)
	}
	return first(r)
}

func first(r *clientv3.GetResponse) string {
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}
