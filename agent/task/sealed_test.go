package task

import (
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// A sealed save tells all that a plain one and a look into it do, and only a key of its recipients stages the copy. The
// journal has no identity.
func TestSealedCopyOnANode(t *testing.T) {
	n := nodeOf(t, "a", serving(t))
	key, err := age.GenerateX25519Identity()
	must(t, err)
	plain := n.saved("plain")
	task := save("s")
	task.GetSaveCopy().Sealing = &requorumv1.Sealing{ZstdLevel: 3, Recipients: []string{key.Recipient().String()}}
	facts := n.do(task).GetCopy()
	m := proto.CloneOf(facts.GetInspected())
	if m.GetRevision() != plain.GetRevision() || m.GetHashKv() != plain.GetHashKv() || !facts.GetHasTrailer() || facts.GetEtcdVersion() == "" || facts.GetLocal().GetSize() >= facts.GetSize() {
		t.Errorf("%v", facts)
	}
	m.FormatVersion, m.Name, m.Cluster, m.Node, m.Local = 1, "s", "prod", "a", facts.GetLocal()
	m.Size, m.Md5, m.Sha256, m.HasTrailer = facts.GetSize(), facts.GetMd5(), facts.GetSha256(), true
	n.do(&agentv1.Task{Spec: &agentv1.Task_WriteManifest{WriteManifest: &agentv1.WriteManifest{Manifest: m}}})
	n.expectCopy(m, requorumv1.CopyState_COPY_STATE_GOOD)
	inspect := func() *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_InspectCopy{InspectCopy: &agentv1.InspectCopy{Name: "s"}}}
	}
	n.refuses(inspect(), agentv1.TaskErrorCode_TASK_ERROR_CODE_SEALED, "none of the identities")
	stage := func(identity string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Stage{Stage: &agentv1.Stage{
			RestoreId: "r", Manifest: m, MemberName: "m1", PeerUrls: []string{"http://127.0.0.1:2"}, InitialCluster: "m1=http://127.0.0.1:2",
			ClusterToken: "token", Identity: identity,
		}}}
	}
	n.refuses(stage(""), agentv1.TaskErrorCode_TASK_ERROR_CODE_SEALED, "none of the identities")
	given := newTask("stage", stage(key.String()))
	if staged := n.do(given).GetStaged(); staged.GetHashKv() != plain.GetHashKv() {
		t.Errorf("%v", staged)
	}
	n.do(&agentv1.Task{Spec: &agentv1.Task_Unstage{Unstage: &agentv1.Unstage{RestoreId: "r"}}})

	path, err := n.Vault.Path("s")
	must(t, err)
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)-20] ^= 1
	must(t, os.WriteFile(path, data, 0o600))
	n.expectCopy(m, requorumv1.CopyState_COPY_STATE_DIFFERENT)
	n.refuses(stage(key.String()), agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT, "cannot be opened")
	for _, file := range n.vaultFiles() {
		if strings.HasSuffix(file, ".plain") || strings.HasSuffix(file, ".part") {
			t.Errorf("left behind: %s", file)
		}
	}
}
