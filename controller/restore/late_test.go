package restore

import (
	"context"
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

func TestTheFurthestLogIsTheOneThatWouldLead(t *testing.T) {
	data := func(cluster string, term, last, applied uint64) *agentv1.OldData {
		return &agentv1.OldData{Readable: true, ClusterId: cluster, LastTerm: term, LastIndex: last, AppliedIndex: applied}
	}
	unreadable := &agentv1.OldData{Problem: "it is gone"}
	for name, tc := range map[string]struct {
		found map[string]*agentv1.OldData
		want  string
	}{
		"the longer log":                        {map[string]*agentv1.OldData{"a": data("c", 2, 10, 10), "b": data("c", 2, 12, 8)}, "b"},
		"a later term before a longer log":      {map[string]*agentv1.OldData{"a": data("c", 2, 90, 80), "b": data("c", 3, 12, 8)}, "b"},
		"of equal ones the complete database":   {map[string]*agentv1.OldData{"a": data("c", 2, 12, 7), "b": data("c", 2, 12, 12)}, "b"},
		"what can be read":                      {map[string]*agentv1.OldData{"a": unreadable, "b": data("c", 1, 1, 1)}, "b"},
		"the cluster of most, whatever it says": {map[string]*agentv1.OldData{"a": data("other", 9, 99, 99), "b": data("c", 2, 5, 5), "d": data("c", 2, 6, 6)}, "d"},
		"nothing":                               {map[string]*agentv1.OldData{"a": unreadable}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			node, _, err := furthestOf(tc.found)
			if node != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("chose %q, %v; want %q", node, err, tc.want)
			}
			if err != nil && !strings.Contains(err.Error(), "a: it is gone") {
				t.Errorf("the error does not say why: %v", err)
			}
		})
	}
}

func TestItIsToldIfTheLogsOfAMajorityCouldNotBeCompared(t *testing.T) {
	job := &journalv1.RestoreJob{Nodes: []*journalv1.RestoreNode{{Node: "a"}, {Node: "b"}, {Node: "d"}, {Node: "l", Learner: true}}}
	good, other, gone := &agentv1.OldData{Readable: true, ClusterId: "c"}, &agentv1.OldData{Readable: true, ClusterId: "o"}, &agentv1.OldData{Problem: "it is gone"}
	for name, tc := range map[string]struct {
		found map[string]*agentv1.OldData
		says  string
	}{
		"all":                      {map[string]*agentv1.OldData{"a": good, "b": good, "d": good}, ""},
		"one is gone":              {map[string]*agentv1.OldData{"a": good, "b": gone, "d": good}, ""},
		"two are gone":             {map[string]*agentv1.OldData{"a": good, "b": gone, "d": gone}, "b, d"},
		"two nodes were removed":   {map[string]*agentv1.OldData{"a": good}, "b, d"},
		"of another cluster":       {map[string]*agentv1.OldData{"a": good, "b": gone, "d": other}, "b, d"},
		"a learner does not count": {map[string]*agentv1.OldData{"a": good, "b": gone, "d": gone, "l": good}, "b, d"},
	} {
		t.Run(name, func(t *testing.T) {
			if doubt := missing(job, tc.found, "c"); (doubt == "") != (tc.says == "") || !strings.Contains(doubt, "old data of "+tc.says) && tc.says != "" {
				t.Errorf("it says %q, want %q in it", doubt, tc.says)
			}
		})
	}
	job.Nodes[1].Fenced, job.Nodes[2].Fenced = true, true // they were not of the cluster that is replaced
	if doubt := missing(job, map[string]*agentv1.OldData{"a": good}, "c"); doubt != "" {
		t.Errorf("with fenced nodes: %q", doubt)
	}
}

func TestOldDataThatEndsBeforeTheSafetySnapshotDoesNotReplaceIt(t *testing.T) {
	before := &requorumv1.Manifest{Revision: 10}
	for revision, ok := range map[int64]bool{9: false, 10: true, 11: true} {
		if err := reaches(&requorumv1.Manifest{Node: "a", Revision: revision}, before); (err == nil) != ok {
			t.Errorf("revision %d: %v", revision, err)
		}
	}
	if err := reaches(&requorumv1.Manifest{Node: "a", Revision: 1}, nil); err != nil {
		t.Errorf("without a safety snapshot: %v", err)
	}
}

// unreadable is a node whose old data somebody uses now.
type unreadable struct{}

func (unreadable) Do(context.Context, string, string, *agentv1.Task, func(*agentv1.TaskReport)) (*agentv1.TaskResult, error) {
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Old{Old: &agentv1.OldData{Problem: "somebody has it open"}}}, nil
}

// After a crash the old data that was chosen before it may be out of reach: that does not mean that nothing is missing.
func TestOldDataThatCannotBeReadAgainIsNotDoneWith(t *testing.T) {
	job := &journalv1.RestoreJob{
		Safety: &requorumv1.Manifest{Name: "safety", AppliedIndex: 5},
		Late:   &requorumv1.Manifest{Name: "late", Node: "a"},
	}
	err := asStep(t, unreadable{}, job, new(Jobs).replaceSafety)
	if err == nil || !strings.Contains(err.Error(), "somebody has it open") {
		t.Errorf("got %v", err)
	}
}
