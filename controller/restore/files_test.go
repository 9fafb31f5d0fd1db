package restore

import (
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/failure"
)

const (
	passed  = requorumv1.CheckState_CHECK_STATE_PASSED
	warning = requorumv1.CheckState_CHECK_STATE_WARNING
	failing = requorumv1.CheckState_CHECK_STATE_FAILED
)

func (r *room) compareFiles(node string, spec *agentv1.CompareFiles) (*agentv1.TaskResult, error) {
	found := r.compared[node]
	switch {
	case spec.GetRemote() == nil:
	case spec.GetIdentity() == "" && r.inRemote[node] == nil:
		return nil, &failure.Error{Node: node, Message: "it is encrypted", Advice: "give --identity"}
	default:
		found = r.inRemote[node]
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Compared{Compared: found}}, nil
}

// What a node has lost is compared with what a remote has, and the restore fetches it from there.
func TestFilesThatARemoteHasInAPlan(t *testing.T) {
	gone := &agentv1.ComparedFiles{Lost: true, Problem: "gone", Advice: "restore without"}
	for name, c := range map[string]struct {
		remote  *agentv1.ComparedFiles
		bundles []*requorumv1.Bundle
		mode    requorumv1.FilesMode
		state   requorumv1.CheckState
		says    string
		refused bool
		listed  int
	}{
		"it is good there": {
			remote: &agentv1.ComparedFiles{Files: []*requorumv1.PlannedFile{{Path: "/etc/x", State: requorumv1.FileState_FILE_STATE_MISSING}}}, bundles: []*requorumv1.Bundle{{Node: "b", Sha256: "sum"}},
			mode: restoreFiles, state: passed, says: "on b: 0 as they are there, 0 different, 1 missing, as remote nfs has them: the node has lost its own; they are written back", listed: 1,
		},
		"nobody has the key": {
			bundles: []*requorumv1.Bundle{{Node: "b", Sha256: "sum"}}, mode: restoreFiles, state: failing, says: "files b: gone; remote nfs: b: it is encrypted; give --identity", refused: true,
		},
		"they are listed without the key": {
			bundles: []*requorumv1.Bundle{{Node: "b", Sha256: "sum"}}, mode: listFiles, state: warning, says: "remote nfs: b: it is encrypted; give --identity",
		},
		"it is damaged there": {
			remote: &agentv1.ComparedFiles{Lost: true, Problem: "it was changed", Advice: "choose another"}, bundles: []*requorumv1.Bundle{{Node: "b", Sha256: "sum"}},
			mode: restoreFiles, state: failing, says: "files b: gone; remote nfs: it was changed; choose another", refused: true,
		},
		"the remote has another one": {
			remote: &agentv1.ComparedFiles{}, bundles: []*requorumv1.Bundle{{Node: "b", Sha256: "other"}, {Node: "a", Sha256: "sum"}},
			mode: restoreFiles, state: failing, says: "files b: gone; restore without", refused: true,
		},
	} {
		r := newRoom(t)
		r.manifest.Bundles = []*requorumv1.Bundle{{Node: "b", Sha256: "sum"}}
		r.entry.Remotes = []*requorumv1.RemoteCopy{{Remote: "nfs", Bundles: c.bundles}}
		r.compared, r.inRemote = map[string]*agentv1.ComparedFiles{"b": gone}, map[string]*agentv1.ComparedFiles{"b": c.remote}
		plan := r.plan(&requorumv1.RestoreSpec{Files: c.mode})
		if found := strings.Join(rows(plan, c.state), "\n"); !strings.Contains(found, c.says) || plan.GetRefused() != c.refused || len(plan.GetNodes()[1].GetFiles()) != c.listed {
			t.Errorf("%s: refused %v, %d files:\n%s", name, plan.GetRefused(), len(plan.GetNodes()[1].GetFiles()), found)
		}
	}
}

func TestFilesInAPlan(t *testing.T) {
	for name, c := range map[string]struct {
		mode    requorumv1.FilesMode
		change  func(*room)
		state   requorumv1.CheckState
		says    string
		refused bool
		listed  int
	}{
		"they are left out": {mode: requorumv1.FilesMode_FILES_MODE_NONE},
		"they are listed":   {mode: listFiles, state: passed, says: "on b: 0 as they are there, 1 different, 1 missing; none is written", listed: 2},
		"they are restored": {mode: restoreFiles, state: passed, says: "on b: 0 as they are there, 1 different, 1 missing; they are written back", listed: 2},
		"a node has none":   {mode: restoreFiles, state: warning, says: "files c: the snapshot holds no files of this node", listed: 2},
		"the snapshot has none": {
			mode: restoreFiles, change: func(r *room) { r.manifest.Bundles = nil }, state: failing, says: "the snapshot holds no files of the nodes", refused: true,
		},
		"a node cannot restore them": {
			mode: restoreFiles, change: func(r *room) { r.compared["b"] = &agentv1.ComparedFiles{Problem: "not allowed", Advice: "allow it"} },
			state: failing, says: "files b: not allowed; allow it", refused: true,
		},
		"a node cannot list them": {
			mode: listFiles, change: func(r *room) { r.compared["b"] = &agentv1.ComparedFiles{Problem: "not allowed", Advice: "allow it"} },
			state: warning, says: "files b: not allowed; allow it",
		},
	} {
		r := newRoom(t)
		r.manifest.Bundles = []*requorumv1.Bundle{{Node: "a"}, {Node: "b"}}
		r.compared = map[string]*agentv1.ComparedFiles{"a": {}, "b": {Files: []*requorumv1.PlannedFile{
			{Path: "/etc/x", State: requorumv1.FileState_FILE_STATE_DIFFERENT}, {Path: "/etc/y", State: requorumv1.FileState_FILE_STATE_MISSING},
		}}}
		if c.change != nil {
			c.change(r)
		}
		plan := r.plan(&requorumv1.RestoreSpec{Files: c.mode})
		if found := strings.Join(rows(plan, c.state), "\n"); !strings.Contains(found, c.says) || plan.GetRefused() != c.refused {
			t.Errorf("%s: refused %v:\n%s", name, plan.GetRefused(), found)
		}
		if len(plan.GetNodes()) == 3 && len(plan.GetNodes()[1].GetFiles()) != c.listed {
			t.Errorf("%s: %v", name, plan.GetNodes()[1].GetFiles())
		}
	}
}
