package restore

import (
	"context"
	"fmt"
	"slices"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
)

// The plan that a program's restore is refused by does not read every copy: the restore does. Only what is known to
// be amiss is looked at, for it may have been mended.
func TestPlanWithCopiesAsKnown(t *testing.T) {
	const good, missing = requorumv1.CopyState_COPY_STATE_GOOD, requorumv1.CopyState_COPY_STATE_MISSING
	for name, tc := range map[string]struct {
		asKnown bool
		known   map[string]requorumv1.CopyState
		gone    string // the node that has lost its copy since
		reads   int32
	}{
		"all good":                {true, map[string]requorumv1.CopyState{"a": good, "b": good, "c": good}, "", 0},
		"one is missing":          {true, map[string]requorumv1.CopyState{"a": good, "b": missing, "c": good}, "", 3},
		"one has gone":            {true, map[string]requorumv1.CopyState{"a": good, "b": good, "c": good}, "b", 3},
		"of one nothing is known": {true, map[string]requorumv1.CopyState{"a": good, "b": good}, "", 3},
		"a plan for a person":     {false, map[string]requorumv1.CopyState{"a": good, "b": good, "c": good}, "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			r.entry.Copies, r.gone = nil, tc.gone
			for node, state := range tc.known {
				r.entry.Copies = append(r.entry.Copies, &requorumv1.Copy{Node: node, State: state})
			}
			r.open()
			plan, err := r.Plan(context.Background(), &requorumv1.PlanRestoreRequest{
				Spec: &requorumv1.RestoreSpec{Cluster: "prod", Snapshot: "s"}, CopiesAsKnown: tc.asKnown,
			})
			if err != nil || plan.GetRefused() {
				t.Fatalf("%v, %v", plan, err)
			}
			if r.hashed.Load() != tc.reads {
				t.Errorf("%d copies were read, want %d", r.hashed.Load(), tc.reads)
			}
		})
	}
}

// Agree reads what was distributed, and everything that stage does not check.
func TestAgreeReadsWhatStageCannotCheck(t *testing.T) {
	all := []string{"a", "b", "c"}
	for name, tc := range map[string]struct {
		change func(*journalv1.RestoreJob)
		want   []string
	}{
		"two held it":              {func(*journalv1.RestoreJob) {}, []string{"c"}},
		"hash checks are skipped":  {func(j *journalv1.RestoreJob) { j.Spec.SkipHashCheck = true }, all},
		"stage can't check a file": {func(j *journalv1.RestoreJob) { j.Manifest.HasTrailer = false }, all},
	} {
		t.Run(name, func(t *testing.T) {
			job := &journalv1.RestoreJob{
				Spec: &requorumv1.RestoreSpec{Nodes: all}, Manifest: &requorumv1.Manifest{HasTrailer: true}, Holders: []string{"a", "b"},
			}
			tc.change(job)
			if got := unreadNodes(job); !slices.Equal(got, tc.want) {
				t.Errorf("reads %s, want %s", fmt.Sprint(got), fmt.Sprint(tc.want))
			}
		})
	}
}
