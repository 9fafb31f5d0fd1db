package datadir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

const id = "01J0RESTORE"

func member(dataDir, walDir string) runtime.Member {
	return runtime.Member{Name: "m1", DataDir: dataDir, WALDir: walDir, UID: os.Geteuid(), GID: os.Getegid()}
}

func open(t *testing.T, m runtime.Member) *datadir.Dirs {
	t.Helper()
	d, err := datadir.Open(m, id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// stageLearner stages an empty member, the quickest thing that can be swapped.
func stageLearner(t *testing.T, d *datadir.Dirs) {
	t.Helper()
	task := &agentv1.Stage{RestoreId: id, Learner: true}
	if _, err := d.Stage(t.Context(), datadir.StageSpec{Task: task, UID: os.Geteuid(), GID: os.Getegid()}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestOldDataIsASiblingThatIsADataDirByItself(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	write(t, filepath.Join(dir, "member", "snap", "db"), "old")
	d := open(t, member(dir, ""))
	stageLearner(t, d)
	swapped, err := d.Swap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := dir + ".quarantine-" + id
	if got := swapped.GetQuarantinePaths(); len(got) != 1 || got[0] != want {
		t.Fatalf("quarantine %q, expected %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(want, "member", "snap", "db")); err != nil {
		t.Error(err)
	}
	if patterns, err := datadir.QuarantinePatterns(member(dir, "")); err != nil || patterns[0] != dir+".quarantine-%s" {
		t.Errorf("patterns %q, %v", patterns, err)
	}
	if left, _ := filepath.Glob(dir + ".staging-*"); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestSwapRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  error
		says  string
	}{
		"when nothing was staged": {
			func(t *testing.T, dir string) { removeAll(t, dir+".staging-"+id) }, datadir.ErrNotStaged, "",
		},
		"when staging broke off": {
			func(t *testing.T, dir string) {
				removeAll(t, filepath.Join(dir+".staging-"+id, "requorum-staged.json"))
			}, datadir.ErrNotStaged, "",
		},
		"when staged data has gone": {
			func(t *testing.T, dir string) { removeAll(t, filepath.Join(dir+".staging-"+id, "member")) }, datadir.ErrNotStaged, "",
		},
		"to rename over what is in quarantine": {
			func(t *testing.T, dir string) { write(t, filepath.Join(dir+".quarantine-"+id, "member", "f"), "other") }, nil, "is in the way of",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etcd")
			write(t, filepath.Join(dir, "member", "snap", "db"), "old")
			d := open(t, member(dir, ""))
			stageLearner(t, d)
			test.spoil(t, dir)
			_, err := d.Swap(t.Context())
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("error %v", err)
			}
			if content, err := os.ReadFile(filepath.Join(dir, "member", "snap", "db")); err != nil || string(content) != "old" {
				t.Fatalf("the live database holds %q, %v", content, err)
			}
		})
	}
}

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestSwapBackWithoutSwapChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	write(t, filepath.Join(dir, "member", "snap", "db"), "old")
	d := open(t, member(dir, ""))
	if err := d.SwapBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Fatalf("made %v, %v", entries, err)
	}
	if has, err := d.HasQuarantine(); has || err != nil {
		t.Fatalf("quarantine: %v, %v", has, err)
	}
}

func TestStageIsRefusedOnceSwapped(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	d := open(t, member(dir, ""))
	stageLearner(t, d)
	if _, err := d.Swap(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := d.Stage(t.Context(), datadir.StageSpec{Task: &agentv1.Stage{RestoreId: id, Learner: true}}, nil)
	if !errors.Is(err, datadir.ErrSwapped) {
		t.Fatalf("error %v", err)
	}
}

func TestOpenRefusesWhatCannotBeSwapped(t *testing.T) {
	root := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(root, "dangling")); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]runtime.Member{
		"relative path":       member("etcd", ""),
		"no path":             member("", ""),
		"dangling symlink":    member(filepath.Join(root, "dangling"), ""),
		"data dir in WAL dir": member(filepath.Join(root, "wal", "etcd"), filepath.Join(root, "wal")),
		"WAL dir is data dir": member(filepath.Join(root, "etcd"), filepath.Join(root, "etcd")),
	} {
		var layout *datadir.LayoutError
		if _, err := datadir.Open(m, id); !errors.As(err, &layout) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := datadir.Open(member(root, ""), "../x"); err == nil {
		t.Error("took ../x for a restore's ID")
	}
}

func TestAWALDirInsideOfMemberIsNoSlot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	d := open(t, member(dir, filepath.Join(dir, "member", "wal")))
	if paths := d.QuarantinePaths(); len(paths) != 1 {
		t.Fatalf("slots %q", paths)
	}
}

func TestMountPoints(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etcd")
	mountTmpfs(t, dir)
	write(t, filepath.Join(dir, "member", "snap", "db"), "old")
	d := open(t, member(dir, ""))
	stageLearner(t, d)
	swapped, err := d.Swap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(dir, ".requorum-quarantine-"+id)
	if got := swapped.GetQuarantinePaths()[0]; got != kept {
		t.Fatalf("quarantine %s, expected %s", got, kept)
	}
	if content, err := os.ReadFile(filepath.Join(kept, "member", "snap", "db")); err != nil || string(content) != "old" {
		t.Fatalf("quarantined database holds %q, %v", content, err)
	}
	if err := d.SwapBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(dir, "member", "snap", "db")); err != nil || string(content) != "old" {
		t.Fatalf("live database holds %q, %v", content, err)
	}

	t.Run("a bind mount is one too", func(t *testing.T) {
		bound := filepath.Join(root, "bound")
		if err := os.MkdirAll(bound, 0o700); err != nil {
			t.Fatal(err)
		}
		source := filepath.Join(root, "source")
		write(t, filepath.Join(source, "member", "snap", "db"), "old")
		if err := unix.Mount(source, bound, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unmount(t, bound) })
		d := open(t, member(bound, ""))
		stageLearner(t, d)
		if _, err := d.Swap(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("one inside of the data is refused", func(t *testing.T) {
		for _, below := range []string{"member", "member/wal"} {
			dir := filepath.Join(t.TempDir(), "etcd")
			mountTmpfs(t, filepath.Join(dir, below))
			var layout *datadir.LayoutError
			if _, err := datadir.Open(member(dir, ""), id); !errors.As(err, &layout) {
				t.Errorf("%s: %v", below, err)
			}
		}
	})
	t.Run("a learner's WAL directory is refused", func(t *testing.T) {
		wal := filepath.Join(root, "wal")
		mountTmpfs(t, wal)
		d := open(t, member(filepath.Join(root, "plain"), wal))
		var layout *datadir.LayoutError
		if _, err := d.Stage(t.Context(), datadir.StageSpec{Task: &agentv1.Stage{RestoreId: id, Learner: true}}, nil); !errors.As(err, &layout) {
			t.Errorf("error %v", err)
		}
	})
}

func TestADataDirBesideWhichNothingCanBeWrittenIsNoticed(t *testing.T) {
	root := t.TempDir()
	mountTmpfs(t, root)
	write(t, filepath.Join(root, "etcd", "member", "snap", "db"), "old")
	d := open(t, member(filepath.Join(root, "etcd"), ""))
	if err := d.CheckWritable(); err != nil {
		t.Errorf("it can be written: %v", err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	var layout *datadir.LayoutError
	if err := d.CheckWritable(); !errors.As(err, &layout) || layout.Path != root {
		t.Errorf("it is read-only, and that is %v", err)
	}
}

func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("requorum-test", dir, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() { unmount(t, dir) })
}

func unmount(t *testing.T, dir string) {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

func TestRemoveQuarantineRemovesOnlyQuarantines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	write(t, filepath.Join(dir, "member", "snap", "db"), "old")
	d := open(t, member(dir, ""))
	stageLearner(t, d)
	swapped, err := d.Swap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kept := swapped.GetQuarantinePaths()[0]
	renamed := dir + ".quarantine-other"
	unmarked := dir + ".quarantine-unmarked"
	write(t, filepath.Join(unmarked, "member", "f"), "x")
	for _, path := range []string{dir, unmarked, filepath.Dir(dir), "etcd.quarantine-" + id} {
		if err := datadir.RemoveQuarantine(t.Context(), path); err == nil && path != "etcd.quarantine-"+id {
			t.Errorf("removed %s", path)
		}
	}
	if err := os.Rename(kept, renamed); err != nil {
		t.Fatal(err)
	}
	if err := datadir.RemoveQuarantine(t.Context(), renamed); err == nil {
		t.Error("removed a directory named after another restore")
	}
	if err := os.Rename(renamed, kept); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := datadir.RemoveQuarantine(t.Context(), kept); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", kept, err)
	}
}

func TestRemoveQuarantineRefusesWhatSomebodyUses(t *testing.T) {
	for name, file := range map[string]string{
		"a database":             "member/snap/db",
		"a log in the data":      "member/wal/0.wal",
		"a log of its directory": "0.wal",
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etcd")
			kept := dir + ".quarantine-" + id
			write(t, filepath.Join(kept, file), "old")
			write(t, filepath.Join(kept, "requorum-quarantine.json"), `{"restore_id":"`+id+`","from":"`+dir+`"}`)
			held, err := os.Open(filepath.Join(kept, file))
			if err != nil {
				t.Fatal(err)
			}
			defer held.Close()
			if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			var holder *datadir.HeldError
			if err := datadir.RemoveQuarantine(t.Context(), kept); !errors.As(err, &holder) || !strings.Contains(err.Error(), kept) {
				t.Fatalf("error %v", err)
			}
			if _, err := os.Stat(filepath.Join(kept, file)); err != nil {
				t.Error(err)
			}
			if err := unix.Flock(int(held.Fd()), unix.LOCK_UN); err != nil {
				t.Fatal(err)
			}
			if err := datadir.RemoveQuarantine(t.Context(), kept); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRemoveQuarantineEndsARemovalThatBrokeOff(t *testing.T) {
	root := t.TempDir()
	for name, removed := range map[string]bool{
		"etcd.quarantine-" + id: true, ".requorum-quarantine-" + id: true,
		"etcd": false, ".quarantine-" + id: false, "etcd.quarantine-": false, "etcd.staging-" + id: false,
	} {
		path := filepath.Join(root, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		err := datadir.RemoveQuarantine(t.Context(), path)
		if _, statErr := os.Stat(path); (err == nil) != removed || errors.Is(statErr, os.ErrNotExist) != removed {
			t.Errorf("%s: %v, then %v", name, err, statErr)
		}
	}
}

func TestEmpty(t *testing.T) {
	for name, test := range map[string]struct {
		file  string // below the directory that holds etcd's; none if empty
		empty bool
	}{
		"nothing is there":         {empty: true},
		"only what is not etcd's":  {file: "etcd/lost+found/f", empty: true},
		"another directory's data": {file: "etcd2.quarantine-r1/member/f", empty: true},
		"live data":                {file: "etcd/member/snap/db"},
		"an empty member":          {file: "etcd/member/f"},
		"a log":                    {file: "wal/0.wal"},
		"old data":                 {file: "etcd.quarantine-r1/member/snap/db"},
		"staged data":              {file: "etcd.staging-r1/member/f"},
		"an old log":               {file: "wal.quarantine-r1/0.wal"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if test.file != "" {
				write(t, filepath.Join(root, test.file), "x")
			}
			m := member(filepath.Join(root, "etcd"), filepath.Join(root, "wal"))
			if empty, err := datadir.Empty(m); err != nil || empty != test.empty {
				t.Errorf("%v, %v", empty, err)
			}
		})
	}
	if empty, err := datadir.Empty(member("relative", "")); err == nil || empty {
		t.Errorf("%v, %v", empty, err)
	}
}
