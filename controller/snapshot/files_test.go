package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
)

// keepsFiles makes the nodes keep files; problem is what a node finds when it reads its own back.
func keepsFiles(f *fleet, problem map[string]string) {
	for _, facts := range f.facts {
		facts.FileSets, facts.KubernetesVersion = []string{"pki", "token"}, "v1.31.2"
	}
	f.answer = func(node string, t *agentv1.Task) (*agentv1.TaskResult, error) {
		switch spec := t.GetSpec().(type) {
		case *agentv1.Task_PackFiles:
			return &agentv1.TaskResult{Result: &agentv1.TaskResult_Bundle{Bundle: &requorumv1.Bundle{Sets: spec.PackFiles.GetSets(), Sha256: "of " + node}}}, nil
		case *agentv1.Task_CompareFiles:
			if sum := spec.CompareFiles.GetBundle().GetSha256(); sum != "of "+node {
				return nil, fmt.Errorf("%s was asked for the bundle %s", node, sum)
			}
			compared := &agentv1.ComparedFiles{Problem: problem[node], Advice: "mend it", Lost: problem[node] == "gone"}
			return &agentv1.TaskResult{Result: &agentv1.TaskResult_Compared{Compared: compared}}, nil
		}
		return nil, nil
	}
}

func TestEveryNodeAddsItsFiles(t *testing.T) {
	atDesk(t, func(d *desk) {
		problem := map[string]string{}
		keepsFiles(d.fleet, problem)
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}}), succeeded, "")
		var found []string
		m := d.entry("s").GetManifest()
		for _, b := range m.GetBundles() {
			found = append(found, b.GetNode()+" "+strings.Join(b.GetSets(), ",")+" "+b.GetSha256())
		}
		if strings.Join(found, "; ") != "a pki of a; b pki of b; c pki of c" || m.GetKubernetesVersion() != "v1.31.2" {
			t.Errorf("%q, Kubernetes %s", found, m.GetKubernetesVersion())
		}
		if written := d.fleet.vaults["c"]["s"]; len(written.GetBundles()) != 3 {
			t.Errorf("beside the copy: %v", written)
		}
	})
}

func TestFilesThatCannotBeReadBackRevertASave(t *testing.T) {
	atDesk(t, func(d *desk) {
		keepsFiles(d.fleet, map[string]string{"b": "it is damaged"})
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}}), reverted, "b|its files of the snapshot could not be restored: it is damaged|mend it")
		if d.fleet.holding("s") != "" {
			t.Errorf("held by %s", d.fleet.holding("s"))
		}
	})
}

func TestASetThatANodeDoesNotHaveRefusesASave(t *testing.T) {
	atDesk(t, func(d *desk) {
		keepsFiles(d.fleet, nil)
		d.fleet.facts["c"].FileSets = nil
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}}), refused, `c|its agent's configuration has no set of files "pki"; it has none|add it to files:`)
		if d.fleet.count("PackFiles")+d.fleet.count("SaveCopy") > 0 {
			t.Error(d.fleet.asked)
		}
		if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Name: "t", Files: []string{"../etc"}}, "test"); err == nil {
			t.Error("a path is taken for a set's name")
		}
	})
}

func TestWithoutFilesNoNodeIsAskedForAny(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{}), succeeded, "")
		if d.fleet.count("PackFiles")+d.fleet.count("CompareFiles") > 0 {
			t.Error(d.fleet.asked)
		}
	})
}

// filesInShop makes nodes keep files, and a shop that stores them; gone are the nodes whose files are not there any more.
func filesInShop(d *desk, s *shop, problem map[string]string) {
	stores := d.fleet.answer
	keepsFiles(d.fleet, problem)
	keeps := d.fleet.answer
	d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
		if result, err := keeps(node, task); result != nil || err != nil {
			return result, err
		}
		if task.GetUploadFiles() != nil && problem[node] == "gone" {
			return nil, &failure.Error{Node: node, Message: "its files are gone", Cause: &dispatch.TaskError{Code: agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT}}
		}
		return stores(node, task)
	}
}

func (s *shop) bundles(name string) string {
	var found []string
	for _, b := range s.manifests["etcd/prod/"+name].GetBundles() {
		found = append(found, b.GetNode()+" "+b.GetStored().GetKey())
	}
	return strings.Join(found, "; ")
}

const everyBundle = "a etcd/prod/s-sha.a.files.zst; b etcd/prod/s-sha.b.files.zst; c etcd/prod/s-sha.c.files.zst"

// Each node stores its files, before the manifest that lists them, and they go with the remote copy.
func TestARemoteStoresFilesOfNodes(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		filesInShop(d, s, nil)
		d.ready("other", "a")
		op := d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}, Remote: "off-site"})
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "; "); !strings.Contains(w, "lie there without encryption") {
			t.Errorf("warnings %q", w)
		}
		e := d.entry("s")
		if s.bundles("s") != everyBundle || len(e.GetRemotes()[0].GetBundles()) != 3 || e.GetManifest().GetBundles()[0].GetStored() != nil {
			t.Errorf("stored %s, known %v", s.bundles("s"), e)
		}
		if last := slices.Index(d.fleet.asked, "UploadCopy b"); last < slices.Index(d.fleet.asked, "UploadFiles c") || d.fleet.count("UploadFiles") != 3 {
			t.Error(d.fleet.asked)
		}
		d.expect(d.ended(d.remove("s", "", false)), succeeded, "")
		if strings.Join(s.dropped, "; ") != "etcd/prod/s-sha.a.files.zst; etcd/prod/s-sha.b.files.zst; etcd/prod/s-sha.c.files.zst" {
			t.Error(s.dropped)
		}
	})
}

// Files that cannot be stored revert a save, and take those with them that could.
func TestASaveWhoseFilesCannotBeStored(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		filesInShop(d, s, nil)
		s.broken["UploadFiles"] = 1
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}, Remote: "off-site"}), reverted, "the bucket is on fire")
		if len(s.dropped) != 3 || d.fleet.holding("s") != "" || d.fleet.count("UploadCopy") != 0 {
			t.Errorf("dropped %v, held by %s, asked %v", s.dropped, d.fleet.holding("s"), d.fleet.asked)
		}
	})
}

// A snapshot is stored later without the files that are gone, unless the remote has them, and never loses what is there.
func TestFilesThatAreGoneWhenTheyAreToBeStored(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		problem := map[string]string{}
		filesInShop(d, s, problem)
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}}), succeeded, "")
		problem["a"] = "gone"
		upload := &requorumv1.UploadSnapshotRequest{Cluster: "prod", Name: "s", Remote: "off-site"}
		op := d.ended(d.Upload(upload, "alice"))
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "; "); !strings.Contains(w, "remote off-site does not store the files of a: a: its files are gone") || s.bundles("s") == everyBundle {
			t.Errorf("%q, stored %s", w, s.bundles("s"))
		}
		delete(problem, "a")
		d.expect(d.ended(d.Upload(upload, "alice")), succeeded, "")
		problem["b"] = "gone"
		d.expect(d.ended(d.Upload(upload, "alice")), succeeded, "")
		s.broken["UploadCopy"] = 1
		d.expect(d.ended(d.Upload(upload, "alice")), reverted, "the bucket is on fire")
		if s.bundles("s") != everyBundle || len(s.dropped) != 0 || len(d.entry("s").GetRemotes()) != 1 {
			t.Errorf("stored %s, dropped %v", s.bundles("s"), s.dropped)
		}
		op = d.ended(d.Check("prod", "s", "", "alice"))
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "; "); !strings.Contains(w, "b: its files of the snapshot are good in remote off-site at best") {
			t.Error(w)
		}
		d.expect(d.ended(d.Delete(&requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "s", KeepRemotes: true}, "alice")), succeeded, "")
		if len(d.entry("s").GetManifest().GetBundles()) != 3 {
			t.Errorf("%v", d.entry("s"))
		}
	})
}

// A repair and a rebuilt catalog keep what a remote has of the nodes' files.
func TestRepairAndRebuildKnowFilesInRemotes(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		problem := map[string]string{}
		filesInShop(d, s, problem)
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}, Remote: "off-site"}), succeeded, "")
		problem["b"] = "gone"
		delete(s.manifests, "etcd/prod/s")
		d.expect(d.ended(d.Repair("prod", "s", "", "alice", "")), succeeded, "")
		if s.bundles("s") != everyBundle || len(d.entry("s").GetRemotes()[0].GetBundles()) != 3 {
			t.Errorf("repaired: %s, %v", s.bundles("s"), d.entry("s").GetRemotes())
		}
		if fetched := slices.Index(d.fleet.asked, "DownloadFiles b"); fetched < 0 || d.fleet.count("DownloadFiles") != 1 || !slices.Contains(d.fleet.asked[fetched:], "UploadFiles b") {
			t.Errorf("b has lost its files: %v", d.fleet.asked)
		}
		d.forgets("s")
		d.expect(d.ended(d.Rebuild("prod", []string{"off-site"}, "", "alice")), succeeded, "")
		if c := d.entry("s").GetRemotes(); len(c) != 1 || len(c[0].GetBundles()) != 3 || c[0].GetBundles()[0].GetStored().GetKey() == "" {
			t.Errorf("rebuilt: %v", c)
		}
	})
}

// A distribution gives a node its files back, as a repair does. What nobody has any more is told.
func TestLostFilesAreFetched(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		problem := map[string]string{}
		filesInShop(d, s, problem)
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Name: "here", Files: []string{"pki"}}), succeeded, "")
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}, Remote: "off-site"}), succeeded, "")
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), succeeded, "")
		if d.fleet.count("DownloadFiles") != 0 {
			t.Errorf("nothing was lost: %v", d.fleet.asked)
		}
		problem["a"], problem["c"] = "gone", "gone"
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), succeeded, "")
		if !slices.Contains(d.fleet.asked, "DownloadFiles a") || !slices.Contains(d.fleet.asked, "DownloadFiles c") || d.fleet.count("DownloadFiles") != 2 {
			t.Error(d.fleet.asked)
		}
		s.broken["DownloadFiles"] = 1
		d.expect(d.ended(d.Distribute("prod", "s", "", "alice", "")), reverted, "the bucket is on fire")
		op := d.ended(d.Distribute("prod", "here", "", "alice", ""))
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "; "); w != "a: its files of the snapshot are lost, and no remote has them: gone; c: its files of the snapshot are lost, and no remote has them: gone" {
			t.Error(w)
		}
	})
}
