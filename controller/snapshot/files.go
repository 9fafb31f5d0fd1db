package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/remote"
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
			return &failure.Error{
				Node: node, Message: fmt.Sprintf("its agent's configuration has no set of files %q; it has %s", set, has),
				Advice: "add it to files: there, empty if the node has no such files, and restart the agent", Configuration: true,
			}
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
		return &agentv1.Task{Spec: &agentv1.Task_PackFiles{PackFiles: &agentv1.PackFiles{Name: run.Operation().GetSnapshot(), Sets: sets, Sealing: run.Snapshot().GetSealing()}}}
	})
	if err != nil {
		return err
	}
	var bundles []*requorumv1.Bundle
	for _, node := range nodes {
		b := proto.CloneOf(results[node].GetBundle())
		if len(run.Snapshot().GetSealing().GetRecipients()) > 0 && b.GetLocal() == nil {
			return failure.On(node, "its agent has not encrypted its files: it does not know how to", "upgrade the agent: it is older than the controller")
		}
		b.Node = node
		bundles = append(bundles, b)
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Bundles = bundles })
}

// CompareFiles asks a node how its files compare with those that it added to a snapshot. Where it has lost these, they are
// taken from the first of the copies in remotes that has them, and fromRemote names it.
func CompareFiles(ctx context.Context, ask Asker, remotes *remote.Remotes, cluster, snapshot string, b *requorumv1.Bundle, copies []*requorumv1.RemoteCopy, identity string) (found *agentv1.ComparedFiles, fromRemote string, err error) {
	found, err = compareFiles(ctx, ask, cluster, &agentv1.CompareFiles{Name: snapshot, Bundle: b, Identity: identity})
	if err != nil || !found.GetLost() {
		return found, "", err
	}
	for _, c := range copies {
		stored := bundleIn(c, b)
		if stored == nil {
			continue
		}
		there, err := compareIn(ctx, ask, remotes, cluster, c.GetRemote(), &agentv1.CompareFiles{Name: snapshot, Bundle: stored, Identity: identity})
		switch {
		case ctx.Err() != nil:
			return nil, "", context.Cause(ctx)
		case err == nil && !there.GetLost():
			return there, c.GetRemote(), nil
		case err == nil:
			err = &failure.Error{Message: there.GetProblem(), Advice: there.GetAdvice()}
		}
		found = proto.CloneOf(found)
		found.Problem += fmt.Sprintf("; remote %s: %v", c.GetRemote(), err)
		if failed, is := errors.AsType[*failure.Error](err); is && failed.Advice != "" {
			found.Advice = failed.Advice
		}
	}
	return found, "", nil
}

func compareFiles(ctx context.Context, ask Asker, cluster string, spec *agentv1.CompareFiles) (*agentv1.ComparedFiles, error) {
	result, err := ask.AskNode(ctx, cluster, spec.GetBundle().GetNode(), &agentv1.Task{Spec: &agentv1.Task_CompareFiles{CompareFiles: spec}})
	return result.GetCompared(), err
}

func compareIn(ctx context.Context, ask Asker, remotes *remote.Remotes, cluster, name string, spec *agentv1.CompareFiles) (*agentv1.ComparedFiles, error) {
	r, err := remotes.Get(name)
	if err != nil {
		return nil, err
	}
	if spec.Remote, err = r.Access(ctx); err != nil {
		return nil, err
	}
	return compareFiles(ctx, ask, cluster, spec)
}

// FetchFiles has a node fetch its files of a snapshot from the first of the remotes that gives it good ones.
func FetchFiles(ctx context.Context, run *operation.Run, remotes *remote.Remotes, copies []*requorumv1.RemoteCopy, snapshot string, b *requorumv1.Bundle, identity, restoreID string) error {
	var failures []error
	for _, c := range copies {
		stored := bundleIn(c, b)
		if stored == nil {
			continue
		}
		err := fetchFilesFrom(ctx, run, remotes, c.GetRemote(), &agentv1.DownloadFiles{Name: snapshot, Bundle: stored, Identity: identity, RestoreId: restoreID})
		if err == nil || ctx.Err() != nil {
			return err
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// fetchFiles has nodes that have lost the files which they added to the snapshot fetch them from a remote. No other node has
// them: what no remote has is gone, and that is told.
func (j *Jobs) fetchFiles(ctx context.Context, run *operation.Run) error {
	var failures []error
	err := eachBundle(ctx, run, func(b *requorumv1.Bundle, found *agentv1.ComparedFiles) error {
		if found.GetLost() {
			failures = append(failures, j.fetchLost(ctx, run, b, found.GetProblem()))
		}
		return nil
	})
	return errors.Join(append(failures, err)...)
}

func (j *Jobs) fetchLost(ctx context.Context, run *operation.Run, b *requorumv1.Bundle, problem string) error {
	job := run.Snapshot()
	if !slices.ContainsFunc(job.GetRemotes(), func(c *requorumv1.RemoteCopy) bool { return bundleIn(c, b) != nil }) {
		return run.Warn("%s: its files of the snapshot are lost, and no remote has them: %s", b.GetNode(), problem)
	}
	if len(job.GetSealing().GetRecipients()) > 0 && b.GetLocal() == nil {
		return run.Warn("%s: its files of the snapshot stay in the remote, which a restore takes them from: here they would not be encrypted as copies are", b.GetNode())
	}
	return FetchFiles(ctx, run, j.Remotes, job.GetRemotes(), run.Operation().GetSnapshot(), b, j.Identities.Get(run.ID()), "")
}

func fetchFilesFrom(ctx context.Context, run *operation.Run, remotes *remote.Remotes, name string, spec *agentv1.DownloadFiles) error {
	r, err := remotes.Get(name)
	if err != nil {
		return err
	}
	if spec.Remote, err = r.Access(ctx); err != nil {
		return err
	}
	_, err = run.Ask(ctx, spec.GetBundle().GetNode(), &agentv1.Task{Spec: &agentv1.Task_DownloadFiles{DownloadFiles: spec}})
	return err
}

// agreeWithFiles is agree that also looks at the files that nodes have added.
func (j *Jobs) agreeWithFiles(ctx context.Context, run *operation.Run) error {
	if err := j.agree(ctx, run); err != nil {
		return err
	}
	return j.agreeFiles(ctx, run)
}

// agreeFiles makes sure that every node still holds the files that it has added, and could write them back. Those that are
// in a remote alone are told.
func (j *Jobs) agreeFiles(ctx context.Context, run *operation.Run) error {
	return eachBundle(ctx, run, func(b *requorumv1.Bundle, found *agentv1.ComparedFiles) error {
		at := slices.IndexFunc(run.Snapshot().GetRemotes(), func(c *requorumv1.RemoteCopy) bool { return bundleIn(c, b) != nil })
		switch {
		case found.GetLost() && at >= 0:
			name := run.Snapshot().GetRemotes()[at].GetRemote()
			if err := run.Warn("%s: its files of the snapshot are good in remote %s at best, where a restore fetches them: %s", b.GetNode(), name, found.GetProblem()); err != nil {
				return err
			}
		case found.GetProblem() != "":
			return failure.On(b.GetNode(), "its files of the snapshot could not be restored: "+found.GetProblem(), found.GetAdvice())
		}
		return nil
	})
}

// eachBundle compares the files that every node has added with those that it holds, and calls do with what was found. A node
// that is not there any more is left out, for its files went with it.
func eachBundle(ctx context.Context, run *operation.Run, do func(*requorumv1.Bundle, *agentv1.ComparedFiles) error) error {
	for _, b := range run.Snapshot().GetManifest().GetBundles() {
		if !slices.Contains(run.Operation().GetNodes(), b.GetNode()) {
			continue
		}
		found, err := compareFiles(ctx, within{run}, run.Cluster(), &agentv1.CompareFiles{Name: run.Operation().GetSnapshot(), Bundle: b})
		if err == nil {
			err = do(b, found)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lost tells whether a node has said that its files of a snapshot are gone, or damaged.
func lost(err error) bool {
	task, failed := errors.AsType[*dispatch.TaskError](err)
	return failed && task.Code == agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT
}

// storeFiles has every node store its files in a remote, and returns them with what is stored. What is about to be stored
// is journaled first, so that undo knows it.
func (j *Jobs) storeFiles(ctx context.Context, run *operation.Run, r *remote.Remote) ([]*requorumv1.Bundle, error) {
	job := run.Snapshot()
	if len(job.GetManifest().GetBundles()) == 0 {
		return nil, nil
	}
	if len(job.GetStored().GetRecipients()) == 0 {
		if err := run.Warn("remote %s has no recipients: the files of the nodes, and what keys are among them, lie there without encryption", r.Name()); err != nil {
			return nil, err
		}
	}
	planned := job.GetStoredBundles()
	if len(planned) == 0 {
		planned = r.Bundles(job.GetStored(), job.GetManifest())
		if err := run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().StoredBundles = planned }); err != nil {
			return nil, err
		}
	}
	return j.storeBundles(ctx, run, r, planned)
}

// storeBundles has every node store its files as planned, and returns them with what is stored.
func (j *Jobs) storeBundles(ctx context.Context, run *operation.Run, r *remote.Remote, planned []*requorumv1.Bundle) ([]*requorumv1.Bundle, error) {
	var stored []*requorumv1.Bundle
	for _, b := range planned {
		b, err := j.storeBundle(ctx, run, r, b)
		if err != nil {
			return nil, err
		}
		if b != nil {
			stored = append(stored, b)
		}
	}
	return stored, nil
}

// storeBundle has a node store its files. Of a snapshot that is there already, whoever uploads it later has to do without
// those that are gone with their node or its disk: they are told, and etcd's file is stored all the same.
func (j *Jobs) storeBundle(ctx context.Context, run *operation.Run, r *remote.Remote, b *requorumv1.Bundle) (*requorumv1.Bundle, error) {
	access, err := r.Access(ctx)
	if err != nil {
		return nil, err
	}
	later := run.Operation().GetKind() != requorumv1.OperationKind_OPERATION_KIND_SAVE
	if later {
		j.Fleet.Gather(ctx, run.Cluster(), []string{b.GetNode()})
	}
	if later && len(j.connected(run.Cluster(), []string{b.GetNode()})) == 0 {
		return alreadyIn(run, r, b, "its agent is not connected")
	}
	result, err := run.Ask(ctx, b.GetNode(), &agentv1.Task{Spec: &agentv1.Task_UploadFiles{UploadFiles: &agentv1.UploadFiles{
		Remote: access, Name: run.Operation().GetSnapshot(), Bundle: b,
	}}})
	if later && (lost(err) || errors.Is(err, dispatch.ErrRemoved)) {
		return alreadyIn(run, r, b, err.Error())
	}
	if err != nil {
		return nil, err
	}
	b = proto.CloneOf(b)
	b.Stored = result.GetStored()
	return b, nil
}

// alreadyIn returns a node's files as the remote has them from before, nil if it does not, which is told. On a copy that is
// not good any more nobody counts: a manifest does not list what may be gone.
func alreadyIn(run *operation.Run, r *remote.Remote, b *requorumv1.Bundle, why string) (*requorumv1.Bundle, error) {
	before := copyIn(run.Snapshot().GetRemotes(), r.Name())
	if known := bundleIn(before, b); known != nil && before.GetState() == requorumv1.CopyState_COPY_STATE_GOOD {
		return known, nil
	}
	return nil, run.Warn("remote %s does not store the files of %s: %s", r.Name(), b.GetNode(), why)
}

// copyIn returns the copy in a remote, nil if there is none.
func copyIn(copies []*requorumv1.RemoteCopy, name string) *requorumv1.RemoteCopy {
	at := slices.IndexFunc(copies, func(c *requorumv1.RemoteCopy) bool { return c.GetRemote() == name })
	if at < 0 {
		return nil
	}
	return copies[at]
}

// bundleIn returns a node's files as a remote stores them, nil if it does not.
func bundleIn(c *requorumv1.RemoteCopy, b *requorumv1.Bundle) *requorumv1.Bundle {
	at := slices.IndexFunc(c.GetBundles(), func(s *requorumv1.Bundle) bool {
		return s.GetNode() == b.GetNode() && s.GetSha256() == b.GetSha256()
	})
	if at < 0 {
		return nil
	}
	return c.GetBundles()[at]
}

func bundleKeys(c *requorumv1.RemoteCopy) []string {
	var keys []string
	for _, b := range c.GetBundles() {
		keys = append(keys, b.GetStored().GetKey())
	}
	return keys
}

// withBundles is a manifest that lists these bundles.
func withBundles(m *requorumv1.Manifest, bundles []*requorumv1.Bundle) *requorumv1.Manifest {
	m = proto.CloneOf(m)
	m.Bundles = bundles
	return m
}

// asOnNodes is a manifest that was in a remote as it stands beside a copy on a node.
func asOnNodes(m *requorumv1.Manifest) *requorumv1.Manifest {
	m = proto.CloneOf(m)
	m.Stored = nil
	for _, b := range m.GetBundles() {
		b.Stored = nil
	}
	return m
}

// leftInRemotes is a manifest that lists only the bundles which a remote stores.
func leftInRemotes(m *requorumv1.Manifest, copies []*requorumv1.RemoteCopy) *requorumv1.Manifest {
	return withBundles(m, slices.DeleteFunc(slices.Clone(m.GetBundles()), func(b *requorumv1.Bundle) bool {
		return !slices.ContainsFunc(copies, func(c *requorumv1.RemoteCopy) bool { return bundleIn(c, b) != nil })
	}))
}
