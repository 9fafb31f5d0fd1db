package restore

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
)

const (
	listFiles    = requorumv1.FilesMode_FILES_MODE_LIST
	restoreFiles = requorumv1.FilesMode_FILES_MODE_RESTORE
)

// bundleOf returns what a node has added to a snapshot, nil if it has nothing.
func bundleOf(m *requorumv1.Manifest, node string) *requorumv1.Bundle {
	at := slices.IndexFunc(m.GetBundles(), func(b *requorumv1.Bundle) bool { return b.GetNode() == node })
	if at < 0 {
		return nil
	}
	return m.GetBundles()[at]
}

// checkFiles compares the files of the snapshot with those on the nodes, where that is asked for. What a node has lost
// comes from a remote.
func (j *Jobs) checkFiles(ctx context.Context, ask Asker, p *prepared, identity string) error {
	mode, m := p.spec.GetFiles(), p.snapshot.GetManifest()
	if mode != listFiles && mode != restoreFiles {
		return nil
	}
	if len(m.GetBundles()) == 0 {
		p.fail("files", "", "the snapshot holds no files of the nodes", "restore without files (--files=none), or choose a snapshot that was saved with --files")
		return nil
	}
	for _, node := range p.spec.GetNodes() {
		b := bundleOf(m, node)
		if b == nil {
			p.warn("files", node, "the snapshot holds no files of this node", "what lies there stays as it is")
			continue
		}
		found, remote, err := snapshot.CompareFiles(ctx, ask, j.Remotes, p.spec.GetCluster(), m.GetName(), b, p.snapshot.GetRemotes(), identity)
		if err != nil {
			return err
		}
		if remote != "" {
			p.lostFiles = append(p.lostFiles, node)
		}
		p.judgeFiles(node, found, remote)
	}
	return nil
}

func (p *prepared) judgeFiles(node string, found *agentv1.ComparedFiles, remote string) {
	p.files[node] = found.GetFiles()
	count := map[requorumv1.FileState]int{}
	for _, f := range found.GetFiles() {
		count[f.GetState()]++
	}
	text := fmt.Sprintf("files and directories of the snapshot on %s: %d as they are there, %d different, %d missing", node,
		count[requorumv1.FileState_FILE_STATE_SAME], count[requorumv1.FileState_FILE_STATE_DIFFERENT], count[requorumv1.FileState_FILE_STATE_MISSING])
	if remote != "" {
		text += ", as remote " + remote + " has them: the node has lost its own"
	}
	switch {
	case found.GetProblem() != "" && p.spec.GetFiles() == restoreFiles:
		p.fail("files", node, found.GetProblem(), found.GetAdvice())
	case found.GetProblem() != "":
		p.warn("files", node, found.GetProblem(), found.GetAdvice())
	case p.spec.GetFiles() == restoreFiles:
		p.pass("files", "%s; they are written back, and the old ones kept beside them", text)
	default:
		p.pass("files", "%s; none is written", text)
	}
}

// findLostFiles tells whether nodes have lost the files that they are to get back, as by damage that came after preflight.
// Then fetchFiles takes them from a remote. Those that no remote has refuse the restore.
func (j *Jobs) findLostFiles(ctx context.Context, run *operation.Run) (bool, error) {
	snap, err := j.Catalog.Snapshot(run.Cluster(), run.Operation().GetSnapshot())
	if err != nil {
		return false, err
	}
	p := &prepared{spec: run.Restore().GetSpec(), snapshot: snap, files: make(map[string][]*requorumv1.PlannedFile)}
	if p.spec.GetFiles() != restoreFiles {
		return false, nil
	}
	if err := j.checkFiles(ctx, within{run}, p, j.Identities.Get(run.ID())); err != nil {
		return false, err
	}
	if err := p.refusal(); err != nil || len(p.lostFiles) == 0 {
		return false, err
	}
	err = run.Journal(func(rec *journalv1.OperationRecord) {
		job := rec.GetRestore()
		job.LostFiles, job.FileRemotes, job.CopiesRead = p.lostFiles, snap.GetRemotes(), timestamppb.Now()
	})
	return err == nil, err
}

// fetchFiles has nodes that have lost the files which they are to get back fetch them from a remote. They stay beside the
// node's copy, also where the restore is taken back.
func (j *Jobs) fetchFiles(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	if job.GetSpec().GetFiles() != restoreFiles {
		return nil
	}
	for _, node := range job.GetLostFiles() {
		b := bundleOf(job.GetManifest(), node)
		opened := ""
		if len(job.GetSealing().GetRecipients()) > 0 { // they are not to lie beside the copy in the clear
			opened = run.ID()
		}
		if err := snapshot.FetchFiles(ctx, run, j.Remotes, job.GetFileRemotes(), job.GetManifest().GetName(), b, j.Identities.Get(run.ID()), opened); err != nil {
			return err
		}
	}
	return nil
}

// writeFiles writes the files of the snapshot back on every node that has added some, if that is asked for.
func (j *Jobs) writeFiles(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	if job.GetSpec().GetFiles() != restoreFiles {
		return nil
	}
	nodes := slices.DeleteFunc(slices.Clone(run.Operation().GetNodes()), func(n string) bool { return bundleOf(job.GetManifest(), n) == nil })
	_, err := run.AskAll(ctx, nodes, func(node string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_RestoreFiles{RestoreFiles: &agentv1.RestoreFiles{
			RestoreId: run.ID(), Name: job.GetManifest().GetName(), Bundle: bundleOf(job.GetManifest(), node),
		}}}
	})
	return err
}

// putFilesBack puts back on a node what writeFiles has replaced there.
func (j *Jobs) putFilesBack(ctx context.Context, run *operation.Run, node string) error {
	if run.Restore().GetSpec().GetFiles() != restoreFiles {
		return nil
	}
	return unlessRemoved(ctx, run, node, &agentv1.Task{Spec: &agentv1.Task_RestoreFiles{RestoreFiles: &agentv1.RestoreFiles{RestoreId: run.ID(), Undo: true}}})
}
