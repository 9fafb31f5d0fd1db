package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/internal/names"
)

// checkSetNames returns an *InvalidError for what cannot be the name of a set of files.
func checkSetNames(sets []string) error {
	for _, set := range sets {
		if err := names.Check("set", set); err != nil {
			return &InvalidError{err.Error()}
		}
	}
	return nil
}

// knowSets refuses, before anything is saved, a set of files that a node's configuration does not have.
func knowSets(facts map[string]*agentv1.NodeFacts, nodes, sets []string) error {
	for _, node := range nodes {
		known := facts[node].GetFileSets()
		for _, set := range sets {
			if slices.Contains(known, set) {
				continue
			}
			has := "none"
			if len(known) > 0 {
				has = strings.Join(known, ", ")
			}
			return failure.On(node, fmt.Sprintf("its agent's configuration has no set of files %q; it has %s", set, has),
				"add it to files: there, empty if the node has no such files, and restart the agent")
		}
	}
	return nil
}

// packFiles has every node put its files beside its copy.
func (j *Jobs) packFiles(ctx context.Context, run *operation.Run) error {
	sets := run.Snapshot().GetSave().GetFiles()
	if len(sets) == 0 {
		return nil
	}
	nodes := run.Operation().GetNodes()
	results, err := run.AskAll(ctx, nodes, func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_PackFiles{PackFiles: &agentv1.PackFiles{Name: run.Operation().GetSnapshot(), Sets: sets}}}
	})
	if err != nil {
		return err
	}
	var bundles []*requorumv1.Bundle
	for _, node := range nodes {
		b := proto.CloneOf(results[node].GetBundle())
		b.Node = node
		bundles = append(bundles, b)
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Bundles = bundles })
}

// CompareFiles asks a node how its files compare with those that it added to a snapshot.
func CompareFiles(ctx context.Context, ask Asker, cluster, snapshot string, b *requorumv1.Bundle) (*agentv1.ComparedFiles, error) {
	result, err := ask.AskNode(ctx, cluster, b.GetNode(), &agentv1.Task{Spec: &agentv1.Task_CompareFiles{CompareFiles: &agentv1.CompareFiles{Name: snapshot, Bundle: b}}})
	return result.GetCompared(), err
}

// agreeWithFiles is agree that also looks at the files that nodes have added.
func (j *Jobs) agreeWithFiles(ctx context.Context, run *operation.Run) error {
	if err := j.agree(ctx, run); err != nil {
		return err
	}
	return j.agreeFiles(ctx, run)
}

// agreeFiles makes sure that every node still holds the files that it has added, and could write them back.
func (j *Jobs) agreeFiles(ctx context.Context, run *operation.Run) error {
	for _, b := range run.Snapshot().GetManifest().GetBundles() {
		if !slices.Contains(run.Operation().GetNodes(), b.GetNode()) {
			continue // the node is not there any more, and its files went with it
		}
		found, err := CompareFiles(ctx, within{run}, run.Cluster(), run.Operation().GetSnapshot(), b)
		if err != nil {
			return err
		}
		if found.GetProblem() != "" {
			return failure.On(b.GetNode(), "its files of the snapshot could not be restored: "+found.GetProblem(), found.GetAdvice())
		}
	}
	return nil
}

// withoutBundles is a manifest as a remote has it, which stores etcd's file alone.
func withoutBundles(m *requorumv1.Manifest) *requorumv1.Manifest {
	if len(m.GetBundles()) == 0 {
		return m
	}
	m = proto.CloneOf(m)
	m.Bundles = nil
	return m
}
