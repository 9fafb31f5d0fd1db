package datadir

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/requorum/requorum/agent/runtime"
)

// These tests let a swap or a swap back crash before every single step that changes the disk, run it
// again or the other way, and compare every file.

var errCrash = errors.New("crash")

// layout is a member's directories with plain files in place of a database.
type layout struct {
	name  string
	build func(t *testing.T, root string) runtime.Member
	mount bool // treat the directories as mount points
}

var layouts = []layout{
	{name: "data dir", build: func(t *testing.T, root string) runtime.Member {
		plant(t, filepath.Join(root, "etcd"), map[string]string{"member/snap/db": "old db", "member/wal/0.wal": "old wal", "fixtures/client/cert.pem": "kept", "name": "kept"})
		return member(filepath.Join(root, "etcd"), "")
	}},
	{name: "separate WAL", build: func(t *testing.T, root string) runtime.Member {
		plant(t, filepath.Join(root, "etcd"), map[string]string{"member/snap/db": "old db"})
		plant(t, filepath.Join(root, "wal"), map[string]string{"0.wal": "old wal", "1.wal": "old wal 1", "0.tmp": "old tmp"})
		return member(filepath.Join(root, "etcd"), filepath.Join(root, "wal"))
	}},
	{name: "WAL beside member", build: func(t *testing.T, root string) runtime.Member {
		plant(t, filepath.Join(root, "etcd"), map[string]string{"member/snap/db": "old db", "wal/0.wal": "old wal"})
		return member(filepath.Join(root, "etcd"), filepath.Join(root, "etcd", "wal"))
	}},
	{name: "mount points", mount: true, build: func(t *testing.T, root string) runtime.Member {
		plant(t, filepath.Join(root, "etcd"), map[string]string{"member/snap/db": "old db", "lost+found/x": "kept"})
		plant(t, filepath.Join(root, "wal"), map[string]string{"0.wal": "old wal", "lost+found/x": "kept", ".requorum-quarantine-earlier/0.wal": "kept"})
		return member(filepath.Join(root, "etcd"), filepath.Join(root, "wal"))
	}},
	{name: "symlink", build: func(t *testing.T, root string) runtime.Member {
		plant(t, filepath.Join(root, "disk", "data"), map[string]string{"member/snap/db": "old db"})
		if err := os.Symlink("disk/data", filepath.Join(root, "etcd")); err != nil {
			t.Fatal(err)
		}
		return member(filepath.Join(root, "etcd"), "")
	}},
	{name: "data lost", build: func(t *testing.T, root string) runtime.Member {
		return member(filepath.Join(root, "var", "etcd"), filepath.Join(root, "var", "wal"))
	}},
	{name: "data empty", build: func(t *testing.T, root string) runtime.Member {
		plant(t, filepath.Join(root, "wal"), nil)
		plant(t, filepath.Join(root, "etcd"), nil)
		return member(filepath.Join(root, "etcd"), filepath.Join(root, "wal"))
	}},
}

const restoreID = "01J0RESTORE"

func member(dataDir, walDir string) runtime.Member {
	return runtime.Member{Name: "m1", DataDir: dataDir, WALDir: walDir, UID: os.Geteuid(), GID: os.Getegid()}
}

// bench is one layout on disk with staged data, and what is to be seen before and after a swap.
type bench struct {
	t       *testing.T
	root    string
	d       *Dirs
	old     map[string]string // every file before the swap
	swapped map[string]string // every file after it
}

func newBench(t *testing.T, l layout) *bench {
	root := tempDir(t)
	m := l.build(t, root)
	b := &bench{t: t, root: root, d: open(t, m, l.mount)}
	for i, s := range b.d.slots {
		staged := map[string]string{"member/snap/db": "new db", "member/wal/0.wal": "new wal"}
		if i == 1 {
			staged = map[string]string{"0.wal": "new wal", "2.wal": "new wal 2"}
		}
		plant(t, s.staging, staged)
	}
	if err := b.d.complete(); err != nil {
		t.Fatal(err)
	}
	b.old = read(t, root)
	b.swap()
	b.swapped = read(t, root)
	if err := b.d.SwapBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.expect("after a swap and a swap back", b.old)
	return b
}

// open is Open, with slots as if their directories were mount points if mount is set.
func open(t *testing.T, m runtime.Member, mount bool) *Dirs {
	t.Helper()
	d, err := Open(m, restoreID)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range d.slots {
		if mount {
			s.mount = true
			s.staging = filepath.Join(s.dir, hiddenStaging+restoreID)
			s.quarantine = filepath.Join(s.dir, hiddenQuarantine+restoreID)
		}
	}
	return d
}

func (b *bench) swap() {
	b.t.Helper()
	if _, err := b.d.Swap(b.t.Context()); err != nil {
		b.t.Fatalf("swap: %v", err)
	}
}

type operation struct {
	name string
	run  func(*Dirs, context.Context) error
}

var (
	forward  = operation{"swap", func(d *Dirs, ctx context.Context) error { _, err := d.Swap(ctx); return err }}
	backward = operation{"swap back", (*Dirs).SwapBack}
)

// crashAt runs an operation that crashes before its n-th step, counted from 0. It returns the step's
// name, or "" if the operation has no such step and is done.
func (b *bench) crashAt(op operation, n int) string {
	b.t.Helper()
	step := ""
	b.d.fault = func(name string) error {
		if n--; n < 0 {
			step = name
			return errCrash
		}
		return nil
	}
	err := op.run(b.d, b.t.Context())
	b.d.fault = func(string) error { return nil }
	if step == "" && err != nil || step != "" && !errors.Is(err, errCrash) {
		b.t.Fatalf("%s to crash before %q: %v", op.name, step, err)
	}
	return step
}

// settle runs an operation to its end and compares every file.
func (b *bench) settle(op operation, told string) {
	b.t.Helper()
	if err := op.run(b.d, b.t.Context()); err != nil {
		b.t.Fatalf("%s, then %s: %v", told, op.name, err)
	}
	want := b.old
	if op.name == forward.name {
		want = b.swapped
	}
	b.expect(told+", then "+op.name, want)
}

func (b *bench) expect(when string, want map[string]string) {
	b.t.Helper()
	if diff := cmp.Diff(want, read(b.t, b.root)); diff != "" {
		b.t.Fatalf("%s:\n%s", when, diff)
	}
}

// begin brings the bench to where op is yet to be done.
func (b *bench) begin(op operation) {
	b.t.Helper()
	before := backward
	if op.name == backward.name {
		before = forward
	}
	b.settle(before, "from anywhere")
}

func TestACrashAnywhereCanBeCarriedOnOrTakenBack(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			b := newBench(t, l)
			for _, crashing := range []operation{forward, backward} {
				for _, then := range []operation{forward, backward} {
					for n, step := 0, "first"; step != ""; n++ {
						b.begin(crashing)
						step = b.crashAt(crashing, n)
						b.checkNothingLost(step)
						told := crashing.name + " crashed before " + step
						b.settle(then, told)
						b.settle(then, told+", then twice")
					}
				}
			}
		})
	}
}

func TestTwoCrashesAnywhereCanBeCarriedOnOrTakenBack(t *testing.T) {
	b := newBench(t, layouts[1])
	for _, ops := range [][3]operation{
		{forward, forward, forward},
		{forward, forward, backward},
		{forward, backward, forward},
		{forward, backward, backward},
		{backward, forward, forward},
		{backward, forward, backward},
		{backward, backward, forward},
		{backward, backward, backward},
	} {
		for n, first := 0, "first"; first != ""; n++ {
			for k, second := 0, "first"; second != ""; k++ {
				b.begin(ops[0])
				first = b.crashAt(ops[0], n)
				second = b.crashAt(ops[1], k)
				b.checkNothingLost(second)
				b.settle(ops[2], ops[0].name+" crashed before "+first+", "+ops[1].name+" before "+second)
			}
		}
	}
}

// checkNothingLost fails unless every old and every restored file is somewhere, once.
func (b *bench) checkNothingLost(step string) {
	b.t.Helper()
	count := func(files map[string]string) map[string]int {
		seen := map[string]int{}
		for path, content := range files {
			if !isMarker(filepath.Base(path)) && content != "directory" {
				seen[content]++
			}
		}
		return seen
	}
	if want, got := count(b.old), count(read(b.t, b.root)); !maps.Equal(want, got) {
		b.t.Fatalf("crashed before %q: files %v, expected %v", step, got, want)
	}
}

// read returns every file below root with its content, every directory as one. Of a marker only its
// being there counts, for it tells a time.
func read(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		switch {
		case e.IsDir():
			files[name] = "directory"
		case e.Type()&fs.ModeSymlink != 0:
			files[name] = "symlink"
		case isMarker(e.Name()):
			files[name] = "marker"
		default:
			content, err := os.ReadFile(path)
			files[name] = string(content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func plant(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tempDir is in memory where possible, for the thousands of fsyncs.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "requorum-test-") //nolint:usetesting // TempDir is not in memory
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
