package reconcile

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/remote"
)

func (d *desk) listRemote(node string, spec *agentv1.ListRemote) (*agentv1.TaskResult, error) {
	list := d.remotes[node+" "+spec.GetRemote().GetName()]
	if list == nil || spec.GetFolder() != "etcd/prod" {
		return nil, errors.New("no route to the store")
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Remote{Remote: list}}, nil
}

// stored is what lies in the remotes of a desk.
func stored(sha, key string) *requorumv1.Manifest {
	return &requorumv1.Manifest{Name: "s", Cluster: "prod", Sha256: sha, Stored: &requorumv1.StoredObject{Key: key, Size: 10}}
}

func listOf(m ...*requorumv1.Manifest) *agentv1.RemoteList { return &agentv1.RemoteList{Manifests: m} }

// atDeskWithRemotes is a desk whose snapshot s is in a bucket and in a directory, too.
func atDeskWithRemotes(t *testing.T) *desk {
	t.Helper()
	d := atDesk(t)
	var err error
	d.Remotes, err = remote.New([]remote.Config{
		{Name: "bucket", Kind: "s3", Folder: "etcd", S3: remote.S3{Bucket: "b", Endpoint: "https://s3.example.org", Credentials: "node"}},
		{Name: "nfs", Kind: "dir", Folder: "etcd", Dir: remote.Dir{Path: filepath.Join(t.TempDir(), "nfs")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	there := stored("sha", "etcd/prod/s-1.db")
	d.remotes = map[string]*agentv1.RemoteList{"a bucket": listOf(there), "a nfs": listOf(there), "b bucket": listOf(there), "b nfs": listOf(there)}
	err = d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) {
		for _, name := range []string{"bucket", "nfs"} {
			s.Remotes = append(s.Remotes, &requorumv1.RemoteCopy{Remote: name, State: requorumv1.CopyState_COPY_STATE_GOOD, Object: there.GetStored()})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// expectThere looks into the remotes and compares the states of the copies in bucket and directory.
func (d *desk) expectThere(want string) {
	d.Helper()
	if err := d.LookAtRemotes(d.Context(), "prod"); err != nil {
		d.Fatal(err)
	}
	s, err := d.Catalog.Snapshot("prod", "s")
	if err != nil {
		d.Fatal(err)
	}
	var got []string
	for _, c := range s.GetRemotes() {
		got = append(got, strings.ToLower(strings.TrimPrefix(c.GetState().String(), "COPY_STATE_")))
	}
	if strings.Join(got, " ") != want {
		d.Errorf("copies in bucket and directory are %v, want %s", got, want)
	}
}

func TestARemoteCopyThatDisappearedIsNoticedAndOneThatIsBackToo(t *testing.T) {
	d := atDeskWithRemotes(t)
	d.expectThere("good good")
	d.remotes["a bucket"] = listOf()
	d.expectThere("missing good")
	snapshots, err := d.Catalog.Snapshots("prod")
	if got := Lacking(snapshots); err != nil || got != "copies are missing or bad of s: requorum snapshot repair s" {
		t.Errorf("%q, %v", got, err)
	}
	d.remotes["a bucket"] = d.remotes["b bucket"]
	d.expectThere("good good")
	if len(d.Unreachable("prod")) != 0 {
		t.Error(d.Unreachable("prod"))
	}
}

func TestARemoteCopyThatIsAnotherOneIsNoticed(t *testing.T) {
	for name, list := range map[string]*agentv1.RemoteList{
		"different":  listOf(stored("other", "etcd/prod/s-2.db")),
		"unreadable": {Faults: []*agentv1.RemoteFault{{Name: "s", State: requorumv1.CopyState_COPY_STATE_UNREADABLE, Detail: "cut off"}}},
		"missing":    {Faults: []*agentv1.RemoteFault{{Name: "s", State: requorumv1.CopyState_COPY_STATE_MISSING, Detail: "its object is gone"}}},
	} {
		d := atDeskWithRemotes(t)
		d.remotes["a bucket"] = list
		d.expectThere(name + " good")
	}
	d := atDeskWithRemotes(t) // what is stored differs, the file is the same
	d.remotes["a bucket"] = listOf(stored("sha", "etcd/prod/s-1.db.zst"))
	d.expectThere("different good")
}

// An outage is told, and is not taken for a loss.
func TestARemoteThatIsAwayHasLostNothing(t *testing.T) {
	d := atDeskWithRemotes(t)
	delete(d.remotes, "a bucket")
	d.expectThere("good good") // b can reach it
	if len(d.Unreachable("prod")) != 0 {
		t.Error(d.Unreachable("prod"))
	}
	delete(d.remotes, "b bucket")
	d.expectThere("good good")
	if got := strings.Join(d.Unreachable("prod"), ", "); !strings.Contains(got, "remote bucket could not be looked into") || !strings.Contains(got, "no route") {
		t.Error(got)
	}
	d.offline["a"], d.offline["b"] = true, true
	d.expectThere("good good")
	d.offline["a"], d.remotes["a bucket"] = false, listOf()
	d.expectThere("missing good")
	if len(d.Unreachable("prod")) != 0 {
		t.Errorf("it is back: %v", d.Unreachable("prod"))
	}
}

// A directory that is not mounted on one node looks empty from there.
func TestADirectoryIsLookedAtFromEveryNode(t *testing.T) {
	d := atDeskWithRemotes(t)
	d.remotes["a nfs"] = listOf()
	d.expectThere("good good")
	d.remotes["b nfs"] = listOf()
	d.expectThere("good missing")
}

func TestRemotesAreNotJudgedDuringAnOperation(t *testing.T) {
	d := atDeskWithRemotes(t)
	d.remotes["a bucket"] = listOf()
	d.running = "01J"
	d.expectThere("good good")
	d.running, d.asked = "", func() { d.running = "01J" }
	d.expectThere("good good")
	d.running, d.asked = "", func() {
		if err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.Copies[0].Size = 7 }); err != nil {
			t.Error(err)
		}
	}
	d.expectThere("good good")
}

func TestOrphansInRemotesAreListed(t *testing.T) {
	d := atDeskWithRemotes(t)
	stray := &requorumv1.Manifest{Name: "stray", Cluster: "prod", Sha256: "x", Stored: &requorumv1.StoredObject{Key: "etcd/prod/stray-1.db"}}
	d.remotes["a bucket"] = &agentv1.RemoteList{Manifests: []*requorumv1.Manifest{stored("sha", "etcd/prod/s-1.db"), stray}, Orphans: []string{"etcd/prod/half.db"}, Problems: []string{"cut: its manifest is cut off"}}
	delete(d.remotes, "a nfs")
	delete(d.remotes, "b nfs")
	resp, err := d.Orphans(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range resp.GetOrphans() {
		got = append(got, fmt.Sprintf("%s %s %q", o.GetRemote(), o.GetKey(), o.GetManifest().GetName()))
	}
	if want := `bucket etcd/prod/stray-1.db "stray", bucket etcd/prod/half.db ""`; strings.Join(got, ", ") != want {
		t.Errorf("orphans %v, want %s", got, want)
	}
	if p := strings.Join(resp.GetProblems(), "; "); !strings.Contains(p, "remote bucket: cut") || !strings.Contains(p, "remote nfs: no route") {
		t.Error(p)
	}
	// Known by its name, but not that a remote has it.
	if err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.Remotes = nil }); err != nil {
		t.Fatal(err)
	}
	if resp, err = d.Orphans(t.Context(), "prod"); err != nil || len(resp.GetOrphans()) != 3 {
		t.Errorf("%v, %v", resp, err)
	}
	if s, err := d.Catalog.Snapshot("prod", "s"); err != nil || !catalog.Good(s) {
		t.Errorf("%v, %v", s, err)
	}
}
