package restore

import (
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// three is a restore's job on the nodes a, b and c.
func three() *journalv1.RestoreJob {
	job := &journalv1.RestoreJob{
		Spec: &requorumv1.RestoreSpec{Nodes: []string{"a", "b", "c"}}, Manifest: &requorumv1.Manifest{HashKv: 42},
		StartedHashKv: 77, StartedCompactRevision: 1100, Revision: 1100,
	}
	for _, node := range []string{"a", "b", "c"} {
		job.Nodes = append(job.Nodes, &journalv1.RestoreNode{Node: node, Member: "m-" + node, PeerUrls: []string{"https://" + node + ":2380"}})
	}
	return job
}

func expectError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestWhatIsStagedMustBeOneCluster(t *testing.T) {
	for name, c := range map[string]struct {
		change func(job *journalv1.RestoreJob, b *agentv1.Staged)
		want   string
	}{
		"it is":                      {func(*journalv1.RestoreJob, *agentv1.Staged) {}, ""},
		"another cluster ID":         {func(_ *journalv1.RestoreJob, b *agentv1.Staged) { b.ClusterId = "beef" }, "b: what it staged has another cluster ID than what a staged"},
		"another revision":           {func(_ *journalv1.RestoreJob, b *agentv1.Staged) { b.Revision = 9 }, "b: what it staged has another revision"},
		"other data":                 {func(_ *journalv1.RestoreJob, b *agentv1.Staged) { b.HashKv = 9 }, "b: what it staged has another HashKV"},
		"other data after the bump":  {func(_ *journalv1.RestoreJob, b *agentv1.Staged) { b.StartedHashKv = 9 }, "b: what it staged has another HashKV"},
		"the same member ID":         {func(_ *journalv1.RestoreJob, b *agentv1.Staged) { b.MemberId = "id-a" }, "b: its member would have the same ID as the one on a"},
		"not what the manifest says": {func(job *journalv1.RestoreJob, _ *agentv1.Staged) { job.Manifest.HashKv = 9 }, "a: the staged data has HashKV 42, the snapshot 9"},
		"the same, on request": {func(job *journalv1.RestoreJob, _ *agentv1.Staged) {
			job.Manifest.HashKv, job.Spec.SkipHashCheck = 9, true
		}, ""},
		"a learner stages an own one": {func(job *journalv1.RestoreJob, b *agentv1.Staged) {
			job.Nodes[1].Learner, b.ClusterId, b.HashKv = true, "", 0
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			job, results := three(), map[string]*agentv1.TaskResult{}
			for _, node := range []string{"a", "b", "c"} {
				s := &agentv1.Staged{MemberId: "id-" + node, ClusterId: "cafe", Revision: 1100, HashKv: 42, StartedHashKv: 77}
				if node == "b" {
					c.change(job, s)
				}
				results[node] = &agentv1.TaskResult{Result: &agentv1.TaskResult_Staged{Staged: s}}
			}
			expectError(t, oneCluster(job, results), c.want)
		})
	}
}

func TestStartedMembersMustServeWhatWasStaged(t *testing.T) {
	for name, c := range map[string]struct {
		change func(all map[string]*agentv1.Verified)
		want   string
	}{
		"they do":              {func(map[string]*agentv1.Verified) {}, ""},
		"one does not":         {func(all map[string]*agentv1.Verified) { all["b"].HashKv.Hash = 9 }, "b: the started member has HashKV 9 at revision 1100, the staged data 77"},
		"one sees no leader":   {func(all map[string]*agentv1.Verified) { all["c"].Member.Leader = "id-c" }, "c: it sees another leader than a"},
		"compacted since, all": {func(all map[string]*agentv1.Verified) { compacted(all, 5, "a", "b", "c") }, ""},
		"compacted since, one": {func(all map[string]*agentv1.Verified) { compacted(all, 5, "b") }, ""},
		"compacted since, and one differs": {func(all map[string]*agentv1.Verified) {
			compacted(all, 5, "a", "b", "c")
			all["c"].HashKv.Hash = 6
		}, "c: its HashKV at revision 1100 differs from that of a"},
	} {
		t.Run(name, func(t *testing.T) {
			all, results := map[string]*agentv1.Verified{}, map[string]*agentv1.TaskResult{}
			for _, node := range []string{"a", "b", "c"} {
				all[node] = &agentv1.Verified{
					Member: &requorumv1.Member{Leader: "id-a"}, HashKv: &agentv1.HashKVResult{Hash: 77, Revision: 1100, CompactRevision: 1100},
				}
				results[node] = &agentv1.TaskResult{Result: &agentv1.TaskResult_Verified{Verified: all[node]}}
			}
			c.change(all)
			err := sameData(three(), results)
			if err == nil {
				err = oneLeader([]string{"a", "b", "c"}, results)
			}
			expectError(t, err, c.want)
		})
	}
}

// compacted makes members answer as after a compaction.
func compacted(all map[string]*agentv1.Verified, hash uint32, nodes ...string) {
	for _, node := range nodes {
		all[node].HashKv.Hash, all[node].HashKv.CompactRevision = hash, 1200
	}
}

func TestMostRecentMemberIsChosenForTheSafetySnapshot(t *testing.T) {
	facts := func(a, b, c uint64) map[string]*agentv1.NodeFacts {
		all := map[string]*agentv1.NodeFacts{}
		for node, index := range map[string]uint64{"a": a, "b": b, "c": c} {
			all[node] = &agentv1.NodeFacts{Member: &requorumv1.Member{Id: "id-" + node, Leader: "id-a", Serving: index > 0, RaftAppliedIndex: index}}
		}
		return all
	}
	for want, f := range map[string]map[string]*agentv1.NodeFacts{
		"b": facts(7, 7, 7), // a follower if there is a choice
		"a": facts(8, 7, 7),
		"c": facts(0, 0, 1),
		"":  facts(0, 0, 0),
	} {
		if got := mostRecent(f); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
