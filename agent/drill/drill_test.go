package drill_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/drill"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/etcdtest"
)

// makes is set, to the path of the file, in the process that makes a snapshot.
const makes = "REQUORUM_TEST_MAKES_SNAPSHOT"

// TestMain is also the etcd that a drill starts, and the process that makes a snapshot to drill: a member in this one would
// leave goroutines.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "etcd":
		etcdmain.Main(os.Args)
	case os.Getenv(makes) != "":
		os.Exit(m.Run())
	default:
		goleak.VerifyTestMain(m)
	}
}

// snapshot is a file of a real member, and its manifest.
func snapshot(t *testing.T) (string, *requorumv1.Manifest) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "snapshot.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMakesTheSnapshot$")
	cmd.Env = append(os.Environ(), makes+"="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m, err := etcdfile.Inspect(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Name = "pre-1.31"
	return path, m
}

// TestMakesTheSnapshot makes sure that the snapshot which the others drill is worth it. In a process of its own it makes
// that snapshot.
func TestMakesTheSnapshot(t *testing.T) {
	if path := os.Getenv(makes); path != "" {
		makeSnapshot(t, path)
		return
	}
	_, m := snapshot(t)
	if m.GetKeys() != 299 || m.GetCompactRevision() == 0 || m.GetCompactRevision() >= m.GetRevision() || !m.GetAuthEnabled() {
		t.Errorf("the snapshot has other things in it: %v", m)
	}
}

// makeSnapshot makes one in which keys were deleted and compacted, and authentication is on.
func makeSnapshot(t *testing.T, path string) {
	t.Helper()
	c := etcdtest.Start(t, etcdtest.Options{Auth: true})
	client := c.Client(t)
	value := strings.Repeat("v", 500)
	for i := range 300 {
		if _, err := client.Put(t.Context(), fmt.Sprintf("k%03d", i), value+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := client.Delete(t.Context(), "k100")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), resp.Header.Revision-50); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.SaveSnapshot(t, 0), path); err != nil {
		t.Fatal(err)
	}
}

// noted is a Progress that may act on what it is told.
type noted struct {
	details []string
	at      func(detail string)
}

func (n *noted) Bytes(int64, int64) {}
func (n *noted) Tick()              {}
func (n *noted) Detail(text string) {
	n.details = append(n.details, text)
	if n.at != nil {
		n.at(text)
	}
}

// driller drills in a directory whose path is longer than that of a socket may be.
func driller(t *testing.T) *drill.Driller {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30), "drill")
	d := &drill.Driller{Dir: dir, Log: hclog.NewNullLogger()}
	t.Cleanup(func() { nothingLeft(t, dir) })
	return d
}

// nothingLeft looks for files and processes.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch directory is left: %v", err)
	}
	if left := processes(t, dir); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
}

// processes returns those with the directory in their command line.
func processes(t *testing.T, dir string) (found []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), dir) {
			continue // it has ended, or is another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, pid)
	}
	return found
}

func TestDrillOfAGoodSnapshot(t *testing.T) {
	path, m := snapshot(t)
	for name, c := range map[string]struct {
		bump uint64
		make func() string // what is there before
	}{
		"bumped":     {bump: 1_000_000_000},
		"not bumped": {},
	} {
		t.Run(name, func(t *testing.T) {
			d := driller(t)
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(d.Dir, "left", "behind"), 0o700); err != nil {
				t.Fatal(err)
			}
			p := &noted{}
			found, err := d.Run(t.Context(), path, &agentv1.DrillCopy{Manifest: m, BumpRevision: c.bump}, p)
			if err != nil {
				t.Fatal(err)
			}
			if found.GetKeys() != m.GetKeys() || m.GetKeys() != 299 || found.GetBytes() < 299*500 || found.GetRevision() < m.GetRevision()+int64(c.bump) ||
				found.GetEtcdVersion() == "" || found.GetStagedIn() == nil || found.GetServedIn() == nil || found.GetReadIn() == nil {
				t.Errorf("found %v; manifest %v", found, m)
			}
			if !slices.Contains(p.details, "reading every key") {
				t.Errorf("told %q", p.details)
			}
			after, err := os.Stat(path)
			if err != nil || after.ModTime() != before.ModTime() || after.Size() != before.Size() {
				t.Errorf("the file has changed: %v, %v", after, err)
			}
		})
	}
}

func TestDrillOfASnapshotThatIsNotWhatItShouldBe(t *testing.T) {
	path, good := snapshot(t)
	for name, change := range map[string]func(t *testing.T, file string, m *requorumv1.Manifest){
		"a bit in the middle":       func(t *testing.T, file string, _ *requorumv1.Manifest) { flip(t, file, good.GetSize()/2) },
		"the SHA-256 at the end":    func(t *testing.T, file string, _ *requorumv1.Manifest) { flip(t, file, good.GetSize()-1) },
		"cut off":                   func(t *testing.T, file string, _ *requorumv1.Manifest) { cut(t, file, good.GetSize()/2) },
		"fewer keys than promised":  func(_ *testing.T, _ string, m *requorumv1.Manifest) { m.Keys++ },
		"other data than promised":  func(_ *testing.T, _ string, m *requorumv1.Manifest) { m.HashKv++ },
		"damaged, without its hash": func(t *testing.T, file string, m *requorumv1.Manifest) { spoil(t, file, m) },
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			file, m := filepath.Join(t.TempDir(), "copy.db"), proto.CloneOf(good)
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			change(t, file, m)
			_, err = driller(t).Run(t.Context(), file, &agentv1.DrillCopy{Manifest: m, BumpRevision: 1000}, &noted{})
			var broken *datadir.CorruptError
			var damaged *etcdfile.CorruptError
			if !errors.As(err, &broken) && !errors.As(err, &damaged) {
				t.Errorf("the drill says %v", err)
			}
		})
	}
}

func flip(t *testing.T, file string, at int64) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, file string, size int64) {
	t.Helper()
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
}

// spoil changes a value where only the keys' hash tells.
func spoil(t *testing.T, file string, m *requorumv1.Manifest) {
	t.Helper()
	cut(t, file, m.GetSize()-32)
	m.Size, m.HasTrailer = m.GetSize()-32, false
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(string(data), "vvvv299", "vvvw299")
	if changed == string(data) {
		t.Fatal("nothing to change")
	}
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The live etcd's disk must not be filled.
func TestDrillRefusesWhereSpaceIsShort(t *testing.T) {
	d := driller(t)
	_, err := d.Run(t.Context(), "/nowhere", &agentv1.DrillCopy{Manifest: &requorumv1.Manifest{Size: 1 << 50}}, &noted{})
	var short *datadir.NoSpaceError
	if !errors.As(err, &short) || short.Path != d.Dir || short.Needed < 2<<50 {
		t.Errorf("%v", err)
	}
	needed, free, err := d.Space(1000)
	if err != nil || free == 0 || needed < 256<<20 {
		t.Errorf("needed %d, free %d, %v", needed, free, err)
	}
}

func TestDrillThatIsStopped(t *testing.T) {
	path, m := snapshot(t)
	enough := errors.New("enough")
	for _, at := range []string{"restoring", "comparing", "starting etcd", "reading every key"} {
		t.Run(at, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			p := &noted{at: func(detail string) {
				if detail == at {
					cancel(enough)
				}
			}}
			if _, err := driller(t).Run(ctx, path, &agentv1.DrillCopy{Manifest: m}, p); err == nil {
				t.Error("it went on")
			}
		})
	}
}

func TestDrillWhoseEtcdDies(t *testing.T) {
	path, m := snapshot(t)
	d := driller(t)
	p := &noted{at: func(detail string) {
		if detail != "reading every key" {
			return
		}
		running := processes(t, d.Dir)
		if len(running) != 1 {
			t.Errorf("processes %v run", running)
		}
		for _, pid := range running {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}}
	_, err := d.Run(t.Context(), path, &agentv1.DrillCopy{Manifest: m}, p)
	if err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("the drill says %v", err)
	}
}
