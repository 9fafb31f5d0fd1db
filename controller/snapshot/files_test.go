package snapshot

import (
	"fmt"
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
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
			return &agentv1.TaskResult{Result: &agentv1.TaskResult_Compared{Compared: &agentv1.ComparedFiles{Problem: problem[node], Advice: "mend it"}}}, nil
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

// A remote says of itself only what it stores, and whoever saves is told.
func TestARemoteStoresNoFiles(t *testing.T) {
	withShop(t, func(d *desk, s *shop) {
		stores := d.fleet.answer
		keepsFiles(d.fleet, nil)
		keeps := d.fleet.answer
		d.fleet.answer = func(node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
			if result, err := keeps(node, task); result != nil || err != nil {
				return result, err
			}
			return stores(node, task)
		}
		op := d.saved(&requorumv1.SaveSnapshotRequest{Files: []string{"pki"}, Remote: "off-site"})
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "; "); !strings.Contains(w, "remote off-site stores etcd's file alone") {
			t.Errorf("warnings %q", w)
		}
		if len(s.manifests) != 1 || len(d.entry("s").GetManifest().GetBundles()) != 3 {
			t.Errorf("stored %v", s.manifests)
		}
		for key, m := range s.manifests {
			if len(m.GetBundles()) != 0 {
				t.Errorf("%s: %v", key, m)
			}
		}
	})
}
