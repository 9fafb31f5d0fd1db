package restore

import (
	"context"
	"errors"
	"slices"
	"strings"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/snapshot"
)

// within asks nodes as a part of a step.
type within struct{ run *operation.Run }

func (w within) AskNode(ctx context.Context, _, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	return w.run.Ask(ctx, node, task)
}

// preflight runs every check and journals what the restore works with.
func (j *Jobs) preflight(ctx context.Context, run *operation.Run) error {
	spec := run.Restore().GetSpec()
	snap, err := j.Catalog.Snapshot(spec.GetCluster(), spec.GetSnapshot())
	if err != nil {
		return err
	}
	p, err := j.prepare(ctx, within{run}, spec, snap, stageChecks(spec, snap.GetManifest()), j.Identities.Get(run.ID()), run.Restore().GetSealing())
	if err != nil {
		return err
	}
	if err := j.conclude(run, p); err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		job := rec.GetRestore()
		job.Manifest, job.Nodes, job.LeaderNode = p.snapshot.GetManifest(), p.nodes, p.leader()
		job.HadLeader, job.EtcdVersion = p.hadLeader(), p.etcdVersion()
		job.Spec, job.Generation, job.Holders = p.spec, p.newest+1, snapshot.GoodOn(p.copies)
		job.Remotes, job.LostFiles = p.remotes, p.lostFiles
		if len(p.lostFiles) > 0 {
			job.FileRemotes = snap.GetRemotes()
		}
		job.ClusterToken = "requorum-" + run.ID() // fresh, so that no member with old data can join
	})
}

// conclude notes what was found: the copies in the catalog, the first failed check as an error, the others as warnings.
func (j *Jobs) conclude(run *operation.Run, p *prepared) error {
	if err := j.noteCopies(run, p.copies); err != nil {
		return err
	}
	if err := p.refusal(); err != nil {
		return err
	}
	for _, c := range p.checks {
		if c.GetState() == requorumv1.CheckState_CHECK_STATE_WARNING {
			if err := run.Warn("%s", strings.TrimPrefix(c.GetNode()+": "+c.GetMessage()+" ("+c.GetAdvice()+")", ": ")); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch has a node fetch the file from a remote, where no node holds a good copy, and nodes the files that they have lost.
func (j *Jobs) fetch(ctx context.Context, run *operation.Run) error {
	if err := j.fetchFile(ctx, run); err != nil {
		return err
	}
	return j.fetchFiles(ctx, run)
}

func (j *Jobs) fetchFile(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	if len(job.GetHolders()) > 0 || len(job.GetRemotes()) == 0 {
		return nil
	}
	node := job.GetSpec().GetNodes()[0]
	facts, err := snapshot.Fetch(ctx, run, j.Remotes, job.GetRemotes(), job.GetManifest(), node, j.Identities.Get(run.ID()), job.GetSealing())
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetRestore().Fetched, rec.GetRestore().Manifest = node, snapshot.Resealed(job.GetManifest(), facts)
	})
}

// distribute gives every node that lacks a good copy one.
func (j *Jobs) distribute(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	holders := job.GetHolders()
	if fetched := job.GetFetched(); fetched != "" {
		holders = []string{fetched}
	}
	if len(holders) == 0 {
		return nil // hash checks are skipped: agree tells whether the copies are at least one file
	}
	return snapshot.Distribute(ctx, run, j.Fleet, job.GetManifest(), holders, job.GetSpec().GetNodes())
}

func (j *Jobs) dropPartial(ctx context.Context, run *operation.Run, node string) error {
	return snapshot.Drop(ctx, run, node, &agentv1.DropCopy{Name: run.Operation().GetSnapshot(), PartialOnly: true})
}

// dropFetched also removes files of the node that were opened for this restore.
func (j *Jobs) dropFetched(ctx context.Context, run *operation.Run, node string) error {
	return errors.Join(j.dropPartial(ctx, run, node), j.unstage(ctx, run, node))
}

// noteCopies notes in the catalog what the nodes found. What is known of other nodes stays.
func (j *Jobs) noteCopies(run *operation.Run, copies []*requorumv1.Copy) error {
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		for _, c := range copies {
			s.Copies = append(slices.DeleteFunc(s.GetCopies(), func(old *requorumv1.Copy) bool { return old.GetNode() == c.GetNode() }), c)
		}
		if m := run.Restore().GetManifest(); m != nil { // what was fetched may be sealed in another way
			s.Manifest = m
		}
		slices.SortFunc(s.Copies, func(a, b *requorumv1.Copy) int { return strings.Compare(a.GetNode(), b.GetNode()) })
	})
}

// agree makes sure that every node's copy is the same file: those that were distributed, by reading them back from
// disk. The others were good when they were last read; stage reads them once more, up to the SHA-256 of the manifest.
func (j *Jobs) agree(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	copies, err := snapshot.HashAll(ctx, run, unreadNodes(job), job.GetManifest())
	if err != nil {
		return err
	}
	if err := j.noteCopies(run, copies); err != nil {
		return err
	}
	disagreement := snapshot.Agree(job.GetManifest(), copies)
	if disagreement == nil || !job.GetSpec().GetSkipHashCheck() {
		return disagreement
	}
	for _, c := range copies {
		if !usable(c) || c.GetSha256() != copies[0].GetSha256() {
			return disagreement // not even with hash checks skipped are different files restored
		}
	}
	return run.Warn("the copies agree with each other and not with the manifest; restored on request all the same")
}

// unreadNodes returns the nodes whose copies are to be read before they are staged.
func unreadNodes(job *journalv1.RestoreJob) []string {
	nodes := slices.Clone(job.GetSpec().GetNodes())
	if !stageChecks(job.GetSpec(), job.GetManifest()) {
		return nodes
	}
	return slices.DeleteFunc(nodes, func(n string) bool { return slices.Contains(job.GetHolders(), n) })
}
