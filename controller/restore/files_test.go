package restore

import (
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

const (
	passed  = requorumv1.CheckState_CHECK_STATE_PASSED
	warning = requorumv1.CheckState_CHECK_STATE_WARNING
	failing = requorumv1.CheckState_CHECK_STATE_FAILED
)

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
