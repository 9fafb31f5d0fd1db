package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/store"
)

// shop is what nodes find in the remote off-site: manifests by the folder and name.
type shop struct {
	manifests map[string]*requorumv1.Manifest
	identity  string         // that a download came with
	broken    map[string]int // kinds of tasks that fail so many times
	dropped   []string       // keys of bundles that were removed
	newAgents bool           // that tell how what they have fetched is sealed
}

// withShop gives a desk a remote.
func withShop(t *testing.T, test func(*desk, *shop)) {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("[default]\naws_access_key_id = a\naws_secret_access_key = very-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	remotes, err := remote.New([]remote.Config{{Name: "off-site", Kind: "s3", Folder: "etcd", S3: remote.S3{Bucket: "b", Endpoint: "x", CredentialsFile: keys}}})
	if err != nil {
		t.Fatal(err)
	}
	atDesk(t, func(d *desk) {
		s := &shop{manifests: map[string]*requorumv1.Manifest{}, broken: map[string]int{}}
		d.Remotes = remotes
		d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
			return s.answer(d.fleet, node, task)
		}
		test(d, s)
	})
}

func (s *shop) answer(f *fleet, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	kind, _, _ := strings.Cut(f.asked[len(f.asked)-1], " ")
	if s.broken[kind] > 0 {
		s.broken[kind]--
		return nil, &failure.Error{Node: node, Message: "the bucket is on fire", Cause: &dispatch.TaskError{Code: agentv1.TaskErrorCode_TASK_ERROR_CODE_REMOTE}}
	}
	switch spec := task.GetSpec().(type) {
	case *agentv1.Task_UploadCopy:
		stored := proto.CloneOf(spec.UploadCopy.GetObject())
		stored.Size, stored.Sha256 = 50, "stored"
		m := proto.CloneOf(spec.UploadCopy.GetManifest())
		m.Stored = stored
		s.manifests["etcd/prod/"+m.GetName()] = m
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Stored{Stored: stored}}, nil
	case *agentv1.Task_DropRemote:
		delete(s.manifests, filepath.Dir(spec.DropRemote.GetKey())+"/"+spec.DropRemote.GetName())
		s.dropped = append(s.dropped, spec.DropRemote.GetBundles()...)
	case *agentv1.Task_UploadFiles:
		stored := proto.CloneOf(spec.UploadFiles.GetBundle().GetStored())
		stored.Size, stored.Sha256 = 10, "stored"
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Stored{Stored: stored}}, nil
	case *agentv1.Task_DownloadCopy:
		s.identity = spec.DownloadCopy.GetIdentity()
		m := proto.CloneOf(spec.DownloadCopy.GetManifest())
		m.Stored = nil
		f.vaults[node][m.GetName()] = m
		if s.newAgents {
			return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: &agentv1.CopyFacts{Local: m.GetLocal()}}}, nil
		}
	case *agentv1.Task_ListRemote:
		list := &agentv1.RemoteList{}
		for key, m := range s.manifests {
			if filepath.Dir(key) == spec.ListRemote.GetFolder() && (spec.ListRemote.GetName() == "" || spec.ListRemote.GetName() == m.GetName()) {
				list.Manifests = append(list.Manifests, m)
			}
		}
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Remote{Remote: list}}, nil
	default:
		return nil, nil
	}
	return &agentv1.TaskResult{}, nil
}

func saveTo(name string) *requorumv1.SaveSnapshotRequest {
	return &requorumv1.SaveSnapshotRequest{Remote: name}
}

func TestSaveToARemote(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		e := d.entry("s")
		if len(e.GetRemotes()) != 1 || e.GetRemotes()[0].GetObject().GetKey() != "etcd/prod/s-sha.db.zst" || e.GetRemotes()[0].GetObject().GetSize() != 50 {
			t.Errorf("%v", e.GetRemotes())
		}
		if n := d.fleet.count("UploadCopy"); n != 1 || !slices.Contains(d.fleet.asked, "UploadCopy b") {
			t.Errorf("%d uploads, not by the node that saved", n)
		}
		if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Remote: "nosuch"}, "alice"); err == nil || !strings.Contains(err.Error(), "it has off-site") {
			t.Error(err)
		}
		// Without the catalog the name is still taken, in the remote.
		d.forgets("s")
		for _, vault := range d.fleet.vaults {
			delete(vault, "s")
		}
		d.expect(d.saved(saveTo("off-site")), refused, "remote off-site holds a snapshot s already")
	})
}

func (d *desk) forgets(name string) {
	d.Helper()
	if err := d.Catalog.Write(func(tx store.Tx) error { return catalog.Remove(tx, "prod", name) }); err != nil {
		d.Fatal(err)
	}
}

func TestARemoteThatFails(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		s.broken["ListRemote"] = 1
		d.expect(d.saved(saveTo("off-site")), refused, "the bucket is on fire")

		s.broken["UploadCopy"] = 1
		d.expect(d.saved(saveTo("off-site")), reverted, "the bucket is on fire")
		if d.fleet.holding("s") != "" || len(s.manifests) != 0 || d.fleet.count("DropRemote") != 1 {
			t.Errorf("left: %q, %v, %d drops", d.fleet.holding("s"), s.manifests, d.fleet.count("DropRemote"))
		}

		// A remote that stays away keeps nothing from ending.
		s.broken["UploadCopy"], s.broken["DropRemote"] = 1, 1000
		op := d.saved(saveTo("off-site"))
		d.expect(op, reverted, "the bucket is on fire")
		if w := strings.Join(op.GetWarnings(), " "); !strings.Contains(w, "etcd/prod/s-sha.db.zst may be left in remote off-site") {
			t.Error(w)
		}

		s.broken["ListRemote"], s.broken["UploadCopy"], s.broken["DropRemote"] = 1, 1, 0
		req := saveTo("off-site")
		req.AllowRemoteFailure = true
		op = d.saved(req)
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), " "); !strings.Contains(w, "remote off-site has no copy") || len(d.entry("s").GetRemotes()) != 0 {
			t.Errorf("%s, %v", w, d.entry("s"))
		}
	})
}

func TestUploadOfASnapshotThatIsThere(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.ready("old", "c")
		for range 2 {
			op := d.ended(d.Upload(&requorumv1.UploadSnapshotRequest{Cluster: "prod", Name: "old", Remote: "off-site"}, "alice"))
			d.expect(op, succeeded, "")
		}
		if !slices.Contains(d.fleet.asked, "UploadCopy c") || len(d.entry("old").GetRemotes()) != 1 {
			t.Errorf("%v, %v", d.fleet.asked, d.entry("old"))
		}
		d.ready("nowhere")
		op := d.ended(d.Upload(&requorumv1.UploadSnapshotRequest{Cluster: "prod", Name: "nowhere", Remote: "off-site"}, "alice"))
		d.expect(op, refused, "no node that is connected holds a good copy")
	})
}

// spoil makes the catalog say that a remote's copy is bad.
func (d *desk) spoil(name string) {
	d.Helper()
	err := d.Catalog.Update("prod", name, func(s *requorumv1.Snapshot) {
		s.Remotes[0].State, s.Remotes[0].Detail = requorumv1.CopyState_COPY_STATE_MISSING, "gone"
	})
	if err != nil {
		d.Fatal(err)
	}
}

func TestRepairStoresAgainWhatARemoteHasLost(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		clear(s.manifests)
		d.spoil("s")
		s.broken["UploadCopy"] = 1
		d.expect(d.ended(d.Repair("prod", "s", "", "alice", "")), reverted, "the bucket is on fire")
		if r := d.entry("s").GetRemotes(); len(r) != 1 || r[0].GetState() == requorumv1.CopyState_COPY_STATE_GOOD || d.fleet.holding("s") != "a b c" {
			t.Errorf("after a repair that failed: %v, held by %s", r, d.fleet.holding("s"))
		}
		d.expect(d.ended(d.Repair("prod", "s", "", "alice", "")), succeeded, "")
		r := d.entry("s").GetRemotes()
		if len(r) != 1 || r[0].GetState() != requorumv1.CopyState_COPY_STATE_GOOD || r[0].GetDetail() != "" || len(s.manifests) != 1 {
			t.Errorf("%v, %v", r, s.manifests)
		}
	})
}

func TestRepairFetchesWhatNoNodeHas(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		for _, vault := range d.fleet.vaults {
			delete(vault, "s")
		}
		d.expect(d.ended(d.Repair("prod", "s", "", "alice", "the key")), succeeded, "")
		if d.fleet.holding("s") != "a b c" || s.identity != "the key" {
			t.Errorf("held by %q, opened with %q", d.fleet.holding("s"), s.identity)
		}
	})
}

func TestRepairLeavesWhatIsAnotherClusters(t *testing.T) {
	withShop(t, func(d *desk, _ *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		uploads := d.fleet.count("UploadCopy")
		err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.Remotes[0].Object.Key = "etcd/other/s-sha.db.zst" })
		if err != nil {
			t.Fatal(err)
		}
		op := d.ended(d.Repair("prod", "s", "", "alice", ""))
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), " "); !strings.Contains(w, "another cluster") || d.fleet.count("UploadCopy") != uploads {
			t.Error(w)
		}
	})
}

func TestRepairOfWhatOnlyARemoteIsToHold(t *testing.T) {
	withShop(t, func(d *desk, _ *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		if err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.Copies = nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Repair("prod", "s", "", "alice", ""); err == nil || !strings.Contains(err.Error(), "snapshot distribute s") {
			t.Error(err)
		}
	})
}

func TestDeleteRemovesTheRemoteCopyFirst(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.ready("other", "a")
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		s.broken["DropRemote"] = 1
		d.expect(d.ended(d.remove("s", "", false)), reverted, "the bucket is on fire")
		if d.fleet.holding("s") != "a b c" || !catalog.Good(d.entry("s")) {
			t.Error("it is gone although the remote failed")
		}
		d.expect(d.ended(d.remove("s", "", false)), succeeded, "")
		if len(s.manifests) != 0 || d.fleet.holding("s") != "" {
			t.Errorf("left: %v", s.manifests)
		}
	})
}

// What was found in the folder of another cluster is that one's, and not removed.
func TestDeleteLeavesWhatIsAnotherClusters(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.ready("other", "a")
		s.manifests["etcd/live/s"] = &requorumv1.Manifest{Name: "s", Cluster: "live", Sha256: "sha", Created: timestamppb.Now(), Stored: &requorumv1.StoredObject{Key: "etcd/live/s-sha.db.zst"}}
		d.fleet.answerInspect(t, s.manifests["etcd/live/s"])
		op := d.ended(d.Import(context.Background(), &requorumv1.ImportSnapshotRequest{Cluster: "prod", From: "off-site:live/s", Identity: "the-key"}, "alice"))
		d.expect(op, succeeded, "")
		if s.identity != "the-key" || d.Identities.Get(op.GetId()) != "" {
			t.Errorf("the node got %q; %q is still kept", s.identity, d.Identities.Get(op.GetId()))
		}
		e := d.entry("s")
		if e.GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED || d.fleet.holding("s") != "a b c" || e.GetManifest().GetStored() != nil || len(e.GetRemotes()) != 1 {
			t.Errorf("%v held by %s", e, d.fleet.holding("s"))
		}
		d.expect(d.ended(d.remove("s", "", false)), succeeded, "")
		if len(s.manifests) != 1 {
			t.Error("another cluster's backup was removed")
		}
	})
}

// answerInspect makes a manifest tell what nodes read from the file.
func (f *fleet) answerInspect(t *testing.T, m *requorumv1.Manifest) {
	t.Helper()
	read := f.do("a", &agentv1.Task{Spec: &agentv1.Task_InspectCopy{InspectCopy: &agentv1.InspectCopy{}}}).GetManifest()
	m.Revision, m.HashKv, m.Keys = read.GetRevision(), read.GetHashKv(), read.GetKeys()
}

func TestDistributeFetchesWhatNoNodeHas(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		for _, vault := range d.fleet.vaults {
			delete(vault, "s")
		}
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "the-key")), succeeded, "")
		if d.fleet.holding("s") != "a b c" || d.fleet.count("DownloadCopy") != 1 || s.identity != "the-key" {
			t.Errorf("held by %s, %d downloads, identity %q", d.fleet.holding("s"), d.fleet.count("DownloadCopy"), s.identity)
		}
	})
}

// An agent that knows nothing of seals opens what it fetches and keeps it in the clear, also where the very file was to be kept.
func TestAnOldAgentKeepsNothingThatItFetches(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) {
			s.Manifest.Local = &requorumv1.StoredObject{Size: 50, Sha256: "stored", Recipients: []string{"age1abc"}}
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, vault := range d.fleet.vaults {
			delete(vault, "s")
		}
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "the-key")), reverted, "its agent has not sealed the copy: it does not know how to|upgrade the agent")
		if held := d.fleet.holding("s"); held != "" {
			t.Errorf("%s still hold it, in the clear", held)
		}
		s.newAgents = true
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "the-key")), succeeded, "")
	})
}

// Neither keys nor identities are in what the controller stores.
func TestRemoteSecretsAreNotStored(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		s.broken["DownloadCopy"] = 1
		for _, vault := range d.fleet.vaults {
			delete(vault, "s")
		}
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "the-identity")), reverted, "the bucket is on fire")
		d.forgets("s")
		d.ended(d.Import(context.Background(), &requorumv1.ImportSnapshotRequest{Cluster: "prod", From: "off-site:s", Identity: "the-identity"}, "alice"))
		err := d.Catalog.Write(func(tx store.Tx) error {
			var errs []error
			for _, b := range store.Buckets {
				errs = append(errs, tx.Each(b, "", func(key string, value []byte) error {
					for _, secret := range []string{"very-secret", "the-identity"} {
						if strings.Contains(string(value), secret) {
							t.Errorf("%s is in %s/%s", secret, b, key)
						}
					}
					return nil
				}))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A snapshot can be removed from one place and stay in another, but not from the last one.
func TestDeleteFromOnePlace(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.ready("s", "a", "b", "c")
		d.expect(d.ended(d.Delete(&requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "s", KeepRemotes: true}, "alice")), refused, "no good copy of s would be left")
		d.expect(d.ended(d.Delete(&requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "s", OnlyRemote: "off-site"}, "alice")), refused, "remote off-site has no copy of s")
		upload := &requorumv1.UploadSnapshotRequest{Cluster: "prod", Name: "s", Remote: "off-site"}
		d.expect(d.ended(d.Upload(upload, "alice")), succeeded, "")
		d.expect(d.ended(d.Delete(&requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "s", OnlyRemote: "off-site"}, "alice")), succeeded, "")
		if e := d.entry("s"); len(e.GetRemotes()) != 0 || len(e.GetCopies()) != 3 || !catalog.Good(e) || len(s.manifests) != 0 {
			t.Errorf("%v, in the remote %v", e, s.manifests)
		}
		d.expect(d.ended(d.Upload(upload, "alice")), succeeded, "")
		d.expect(d.ended(d.Delete(&requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "s", KeepRemotes: true}, "alice")), succeeded, "")
		if e := d.entry("s"); len(e.GetRemotes()) != 1 || len(e.GetCopies()) != 0 || !catalog.Good(e) || d.fleet.holding("s") != "" || len(s.manifests) != 1 {
			t.Errorf("%v, on the nodes %s, in the remote %v", e, d.fleet.holding("s"), s.manifests)
		}
		d.expect(d.ended(d.Delete(&requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "s", OnlyRemote: "off-site"}, "alice")), refused, "no good copy of s would be left")
		for _, req := range []*requorumv1.DeleteSnapshotRequest{{KeepRemotes: true, OnlyRemote: "off-site"}, {Force: true, KeepRemotes: true}} {
			req.Cluster, req.Name = "prod", "s"
			if _, err := d.Delete(req, "alice"); !errors.As(err, new(*InvalidError)) {
				t.Errorf("%v: %v", req, err)
			}
		}
	})
}

func (s *shop) put(name, cluster, sha string) {
	s.manifests["etcd/prod/"+name] = &requorumv1.Manifest{
		Name: name, Cluster: cluster, Sha256: sha, Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED, Schedule: "nightly",
		Stored: &requorumv1.StoredObject{Key: "etcd/prod/" + name + "-" + sha + ".db.zst", Size: 50},
	}
}

// withStrays is a shop whose remote holds what the catalog does not know: alone; both, which nodes hold as well; foreign, of
// another cluster; s, of which the catalog knows only the nodes' copies; and another file by the name of clash.
func withStrays(t *testing.T, test func(*desk)) {
	t.Helper()
	withShop(t, func(d *desk, s *shop) {
		d.expect(d.saved(saveTo("off-site")), succeeded, "")
		d.ready("clash", "a") // with the SHA-256 sha
		d.ready("both", "a", "b")
		d.lose("both")
		if err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.Remotes = nil }); err != nil {
			t.Fatal(err)
		}
		s.put("clash", "prod", "other")
		s.put("both", "prod", "sha")
		s.put("alone", "prod", "x")
		s.put("foreign", "test", "y")
		test(d)
	})
}

func TestARebuildSaysWhatItWouldEnter(t *testing.T) {
	withStrays(t, func(d *desk) {
		plan, err := d.PlanRebuild(context.Background(), "prod", []string{"off-site"})
		if err != nil {
			t.Fatal(err)
		}
		var entries []string
		for _, e := range plan.GetEntries() {
			entries = append(entries, fmt.Sprintf("%s %v %v %v", e.GetManifest().GetName(), e.GetNodes(), e.GetRemotes(), e.GetKnown()))
		}
		if got := strings.Join(entries, "; "); got != "alone [] [off-site] false; both [a b] [off-site] false; s [] [off-site] true" {
			t.Errorf("planned: %s", got)
		}
		if _, err := d.Catalog.Snapshot("prod", "alone"); err == nil {
			t.Error("a plan has entered something")
		}
		if op := d.ended(d.Rebuild("prod", []string{"off-site"}, "", "alice")); !slices.Equal(op.GetWarnings(), plan.GetNotes()) {
			t.Errorf("the plan notes %q, the rebuild warns of %q", plan.GetNotes(), op.GetWarnings())
		}
	})
}

func TestRebuildFromARemote(t *testing.T) {
	withStrays(t, func(d *desk) {
		op := d.ended(d.Rebuild("prod", []string{"off-site"}, "", "alice"))
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "\n"); len(op.GetWarnings()) != 2 || !strings.Contains(w, "clash: the catalog has another snapshot") || !strings.Contains(w, "foreign in remote off-site is left out") {
			t.Errorf("warnings %s", w)
		}
		alone := d.entry("alone")
		if !catalog.Good(alone) || len(alone.GetCopies()) != 0 || alone.GetSchedule() != "nightly" || alone.GetManifest().GetStored() != nil || alone.GetRemotes()[0].GetObject().GetKey() != "etcd/prod/alone-x.db.zst" {
			t.Errorf("%v", alone)
		}
		for name, nodes := range map[string]int{"both": 2, "s": 3} {
			if e := d.entry(name); len(GoodOn(e.GetCopies())) != nodes || len(e.GetRemotes()) != 1 {
				t.Errorf("%v", e)
			}
		}
		if got := d.entry("clash"); got.GetManifest().GetSha256() != "sha" || len(got.GetRemotes()) != 0 {
			t.Errorf("overwritten: %v", got)
		}
		d.expect(d.ended(d.Distribute("prod", "alone", "", "alice", "key")), succeeded, "")
	})
}

func TestARebuildThatIsDoneAgainEntersNothingTwice(t *testing.T) {
	withStrays(t, func(d *desk) {
		d.expect(d.ended(d.Rebuild("prod", []string{"off-site"}, "", "alice")), succeeded, "")
		before, err := d.Catalog.Snapshots("prod")
		if err != nil {
			t.Fatal(err)
		}
		again := d.ended(d.Rebuild("prod", []string{"off-site"}, "", "alice"))
		d.expect(again, succeeded, "")
		if w := strings.Join(again.GetWarnings(), "\n"); !strings.Contains(w, "the nodes and off-site hold nothing that the catalog does not know") || !strings.Contains(w, "clash:") {
			t.Errorf("again: %s", w)
		}
		after, err := d.Catalog.Snapshots("prod")
		if err != nil || !slices.EqualFunc(before, after, func(a, b *requorumv1.Snapshot) bool { return proto.Equal(a, b) }) {
			t.Errorf("%v, then %v, %v", before, after, err)
		}
	})
}

func TestRebuildFromARemoteThatIsAway(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		if _, err := d.Rebuild("prod", []string{"nosuch"}, "", "alice"); err == nil || !strings.Contains(err.Error(), "it has off-site") {
			t.Error(err)
		}
		s.broken["ListRemote"] = 2
		d.expect(d.ended(d.Rebuild("prod", []string{"off-site"}, "", "alice")), refused, "the bucket is on fire")
		if _, err := d.PlanRebuild(context.Background(), "prod", []string{"off-site"}); err == nil || !strings.Contains(err.Error(), "the bucket is on fire") {
			t.Error(err)
		}
		if _, err := d.PlanRebuild(context.Background(), "nowhere", nil); err == nil {
			t.Error("a cluster that is not known was planned for")
		}
	})
}

// A name that nodes and a remote have for different files: the nodes' is entered, and the other told of.
func TestRebuildOfANameThatIsTwoFiles(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		d.ready("two", "a")
		d.lose("two")
		s.put("two", "prod", "other")
		op := d.ended(d.Rebuild("prod", []string{"off-site"}, "", "alice"))
		d.expect(op, succeeded, "")
		if e := d.entry("two"); e.GetManifest().GetSha256() != "sha" || len(e.GetRemotes()) != 0 {
			t.Errorf("%v", e)
		}
		if w := strings.Join(op.GetWarnings(), "\n"); !strings.Contains(w, "two: remote off-site holds another snapshot") {
			t.Error(w)
		}
	})
}
