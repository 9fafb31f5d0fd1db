package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/remote"
)

// Asker asks nodes questions, within an operation or outside of one.
type Asker interface {
	AskNode(ctx context.Context, cluster, node string, task *agentv1.Task) (*agentv1.TaskResult, error)
}

// Identities keeps what opens encrypted copies, by operation, in memory only: what is not there any more after a restart
// has to be given again.
type Identities struct {
	mu   sync.Mutex
	text map[string]string
}

// Put keeps an operation's identity; an empty one is none.
func (i *Identities) Put(operation, text string) {
	if text == "" {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.text == nil {
		i.text = make(map[string]string)
	}
	i.text[operation] = text
}

// Get returns an operation's identity, empty if there is none.
func (i *Identities) Get(operation string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.text[operation]
}

// Forget forgets an operation's identity.
func (i *Identities) Forget(operation string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.text, operation)
}

// upload stores the file in the operation's remote, if it has one. What is about to be stored is journaled first, so
// that undo knows it.
func (j *Jobs) upload(ctx context.Context, run *operation.Run) error {
	job := run.Snapshot()
	if job.GetRemote() == "" {
		return nil
	}
	err := j.store(ctx, run, job)
	if err == nil || !job.GetRemoteOptional() || ctx.Err() != nil {
		return err
	}
	if err := run.Warn("remote %s has no copy: %v", job.GetRemote(), err); err != nil {
		return err
	}
	return j.dropUpload(ctx, run, job.GetNode())
}

func (j *Jobs) store(ctx context.Context, run *operation.Run, job *journalv1.SnapshotJob) error {
	r, err := j.Remotes.Get(job.GetRemote())
	if err != nil {
		return err
	}
	object := job.GetStored()
	if object == nil {
		if object, err = r.Object(run.Cluster(), job.GetManifest()); err != nil {
			return err
		}
		if err := run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Stored = object }); err != nil {
			return err
		}
	}
	bundles, err := j.storeFiles(ctx, run, r)
	if err != nil {
		return err
	}
	access, err := r.Access(ctx)
	if err != nil {
		return err
	}
	result, err := run.Ask(ctx, job.GetNode(), &agentv1.Task{Spec: &agentv1.Task_UploadCopy{UploadCopy: &agentv1.UploadCopy{
		Remote: access, Manifest: withBundles(job.GetManifest(), bundles), Object: object,
	}}})
	if err != nil {
		return err
	}
	stored := result.GetStored()
	if err := run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Stored = stored }); err != nil {
		return err
	}
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		noteStored(s, job.GetRemote(), stored, bundles)
	})
}

// uploadAgain makes the remotes that have stored the snapshot hold it, in a repair. One that fails does not keep the others from it.
// What a remote holds of another snapshot under that name stays, and is told.
func (j *Jobs) uploadAgain(ctx context.Context, run *operation.Run) error {
	if !run.Snapshot().GetRepair() {
		return nil
	}
	var failures []error
	for _, c := range run.Snapshot().GetRemotes() {
		if err := j.uploadTo(ctx, run, c); err != nil {
			failures = append(failures, fmt.Errorf("remote %s: %w", c.GetRemote(), err))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return errors.Join(failures...)
}

// uploadTo has a node store the file where c is. Of a copy that is whole the node only makes sure.
func (j *Jobs) uploadTo(ctx context.Context, run *operation.Run, c *requorumv1.RemoteCopy) error {
	job := run.Snapshot()
	r, err := j.Remotes.Get(c.GetRemote())
	if err != nil {
		return err
	}
	if !r.Owns(run.Cluster(), c.GetObject().GetKey()) {
		return run.Warn("remote %s: %s is in the folder of another cluster and is left as it is", c.GetRemote(), c.GetObject().GetKey())
	}
	object, err := r.Object(run.Cluster(), job.GetManifest())
	if err != nil {
		return err
	}
	if object.GetKey() != c.GetObject().GetKey() { // the remote's settings have changed
		object = c.GetObject()
	}
	bundles, err := j.storeBundles(ctx, run, r, r.Bundles(object, job.GetManifest()))
	if err != nil {
		return err
	}
	access, err := r.Access(ctx)
	if err != nil {
		return err
	}
	result, err := run.Ask(ctx, held(run)[0], &agentv1.Task{Spec: &agentv1.Task_UploadCopy{UploadCopy: &agentv1.UploadCopy{
		Remote: access, Manifest: withBundles(job.GetManifest(), bundles), Object: object,
	}}})
	if err != nil {
		return err
	}
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		noteStored(s, c.GetRemote(), result.GetStored(), bundles)
	})
}

// noteStored notes that a remote has stored a snapshot, and files of nodes with it.
func noteStored(s *requorumv1.Snapshot, remote string, stored *requorumv1.StoredObject, bundles []*requorumv1.Bundle) {
	s.Remotes = append(withoutRemote(s.GetRemotes(), remote), &requorumv1.RemoteCopy{
		Remote: remote, State: requorumv1.CopyState_COPY_STATE_GOOD, Checked: timestamppb.New(time.Now()), Object: stored, Bundles: bundles,
	})
}

func withoutRemote(copies []*requorumv1.RemoteCopy, name string) []*requorumv1.RemoteCopy {
	return slices.DeleteFunc(slices.Clone(copies), func(c *requorumv1.RemoteCopy) bool { return c.GetRemote() == name })
}

// dropUpload removes what upload has stored, unless the remote held the snapshot before. A remote that is out of reach
// must not keep a cluster from its next operation: what may be left there, without a manifest, is told.
func (j *Jobs) dropUpload(ctx context.Context, run *operation.Run, node string) error {
	job := run.Snapshot()
	if job.GetStored() == nil || node != job.GetNode() || copyIn(job.GetRemotes(), job.GetRemote()) != nil {
		return nil
	}
	err := j.dropFrom(ctx, run, node, &requorumv1.RemoteCopy{Remote: job.GetRemote(), Object: job.GetStored(), Bundles: job.GetStoredBundles()})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil && !remoteFailed(err) {
		return err
	}
	if err != nil {
		if err := run.Warn("%s may be left in remote %s (requorum remote snapshots %s lists it): %v", job.GetStored().GetKey(), job.GetRemote(), job.GetRemote(), err); err != nil {
			return err
		}
	}
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		s.Remotes = withoutRemote(s.GetRemotes(), job.GetRemote())
	})
}

// remoteFailed tells whether it is the remote that fails, or cannot be used, and not the node. A task in a remote that shows
// no progress waits for that: an NFS server that is gone lets its clients hang.
func remoteFailed(err error) bool {
	var (
		task    *dispatch.TaskError
		unknown *remote.UnknownError
		failed  *failure.Error
	)
	switch {
	case errors.As(err, &task):
		return task.Code == agentv1.TaskErrorCode_TASK_ERROR_CODE_REMOTE
	case errors.As(err, &unknown), errors.Is(err, dispatch.ErrRemoved), errors.Is(err, dispatch.ErrStalled):
		return true
	case errors.As(err, &failed):
		return failed.Node == ""
	}
	return false
}

// dropFrom has a node remove a copy from a remote.
func (j *Jobs) dropFrom(ctx context.Context, run *operation.Run, node string, c *requorumv1.RemoteCopy) error {
	access, err := j.access(ctx, c.GetRemote())
	if err != nil {
		return err
	}
	_, err = run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_DropRemote{DropRemote: &agentv1.DropRemote{
		Remote: access, Name: run.Operation().GetSnapshot(), Key: c.GetObject().GetKey(), Bundles: bundleKeys(c),
	}}})
	return err
}

func (j *Jobs) access(ctx context.Context, name string) (*agentv1.Remote, error) {
	r, err := j.Remotes.Get(name)
	if err != nil {
		return nil, err
	}
	return r.Access(ctx)
}

// checkRemote refuses, before anything is saved, a remote that cannot be reached or has the name already.
func (j *Jobs) checkRemote(ctx context.Context, run *operation.Run, node string) error {
	job := run.Snapshot()
	if job.GetRemote() == "" {
		return nil
	}
	err := j.remoteTakes(job)
	if err == nil {
		err = j.remoteFree(ctx, run, node, job.GetRemote())
	}
	if err != nil && job.GetRemoteOptional() && remoteFailed(err) {
		return nil // upload tells, and may have more luck
	}
	return err
}

// remoteTakes refuses a remote that is to have other recipients than copies which nobody here can open.
func (j *Jobs) remoteTakes(job *journalv1.SnapshotJob) error {
	r, err := j.Remotes.Get(job.GetRemote())
	if err != nil {
		return err
	}
	if m := job.GetManifest(); m != nil {
		return r.Takes(m.GetLocal().GetRecipients())
	}
	return r.Takes(job.GetSealing().GetRecipients())
}

func (j *Jobs) remoteFree(ctx context.Context, run *operation.Run, node, name string) error {
	r, err := j.Remotes.Get(name)
	if err != nil {
		return err
	}
	list, err := listRemote(ctx, within{run}, run.Cluster(), node, r, r.Folder(run.Cluster()), run.Operation().GetSnapshot())
	if err != nil {
		return err
	}
	if len(list.GetManifests()) == 0 {
		return nil
	}
	m := list.GetManifests()[0]
	if m.GetSha256() == run.Snapshot().GetManifest().GetSha256() {
		return nil // it is this one: upload makes sure that it is whole
	}
	return &failure.Error{
		Message: fmt.Sprintf("remote %s holds a snapshot %s already, taken %s", name, m.GetName(), m.GetCreated().AsTime().Format(time.RFC3339)),
		Advice:  "choose another name",
	}
}

// within asks nodes as a part of a step.
type within struct{ run *operation.Run }

func (w within) AskNode(ctx context.Context, _, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	return w.run.Ask(ctx, node, task)
}

func listRemote(ctx context.Context, ask Asker, cluster, node string, r *remote.Remote, folder, name string) (*agentv1.RemoteList, error) {
	access, err := r.Access(ctx)
	if err != nil {
		return nil, err
	}
	result, err := ask.AskNode(ctx, cluster, node, &agentv1.Task{Spec: &agentv1.Task_ListRemote{ListRemote: &agentv1.ListRemote{
		Remote: access, Folder: folder, Name: name,
	}}})
	return result.GetRemote(), err
}

// Finder finds snapshots in remotes, with the eyes of a cluster's nodes.
type Finder struct {
	Remotes *remote.Remotes
	Catalog *catalog.Catalog
	Fleet   Fleet
	Ask     Asker
}

// Connected returns a node of the cluster that has a session: the one wanted, or any.
func (f *Finder) Connected(ctx context.Context, cluster, want string) (string, error) {
	if _, err := f.Catalog.Cluster(cluster); err != nil {
		return "", err
	}
	nodes, err := f.Catalog.NodeNames(cluster)
	if err != nil {
		return "", err
	}
	f.Fleet.Gather(ctx, cluster, nodes)
	for _, node := range nodes {
		if (want == "" || node == want) && f.Fleet.Info(dispatch.Key{Cluster: cluster, Node: node}).Connected {
			return node, nil
		}
	}
	if want != "" {
		return "", failure.On(want, "its agent is not connected", "start it, or leave the node out to use any")
	}
	return "", &failure.Error{Message: fmt.Sprintf("no node of cluster %s is connected to look into the remote", cluster), Advice: "start the agents"}
}

// List returns what a remote holds of a cluster, newest first, as a node of cluster sees it.
func (f *Finder) List(ctx context.Context, name, cluster, of string) (*agentv1.RemoteList, error) {
	r, err := f.Remotes.Get(name)
	if err != nil {
		return nil, err
	}
	node, err := f.Connected(ctx, cluster, "")
	if err != nil {
		return nil, err
	}
	list, err := listRemote(ctx, f.Ask, cluster, node, r, r.Folder(of), "")
	slices.SortStableFunc(list.GetManifests(), func(a, b *requorumv1.Manifest) int { return b.GetCreated().AsTime().Compare(a.GetCreated().AsTime()) })
	return list, err
}

// Find returns the snapshot that text names, as REMOTE:NAME and so on, in the way the catalog of cluster would have it,
// and as what it is to be asked for again. node is which one looks; empty for any.
func (f *Finder) Find(ctx context.Context, text, cluster, node string) (*requorumv1.Snapshot, string, error) {
	from, err := f.Remotes.Parse(text, cluster)
	if err != nil {
		return nil, "", invalidUnlessUnknown(err)
	}
	if node, err = f.Connected(ctx, cluster, node); err != nil {
		return nil, "", err
	}
	name := from.Name
	if name == catalog.Latest {
		name = ""
	}
	list, err := listRemote(ctx, f.Ask, cluster, node, from.Remote, from.Remote.Folder(from.Cluster), name)
	if err != nil {
		return nil, "", err
	}
	m := newest(list.GetManifests(), name == "")
	if m == nil {
		return nil, "", &catalog.NotFoundError{Message: fmt.Sprintf("remote %s has no snapshot %s of cluster %s; requorum remote snapshots %s shows what it has", from.Remote.Name(), from.Name, from.Cluster, from.Remote.Name())}
	}
	from.Name = m.GetName()
	snap, err := f.entry(from, cluster, m)
	return snap, from.String(), err
}

func invalidUnlessUnknown(err error) error {
	if _, unknown := errors.AsType[*remote.UnknownError](err); unknown {
		return err
	}
	return &InvalidError{err.Error()}
}

// newest returns the newest manifest, passing over those that are found by name only if that matters.
func newest(all []*requorumv1.Manifest, latest bool) *requorumv1.Manifest {
	var found *requorumv1.Manifest
	for _, m := range all {
		byName := m.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY || m.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED
		if latest && byName || found != nil && !m.GetCreated().AsTime().After(found.GetCreated().AsTime()) {
			continue
		}
		found = m
	}
	return found
}

// entry returns the catalog's entry of what was found in a remote: the one that is there, with this remote copy, or a
// new one.
func (f *Finder) entry(from remote.From, cluster string, m *requorumv1.Manifest) (*requorumv1.Snapshot, error) {
	stored := &requorumv1.RemoteCopy{Remote: from.Remote.Name(), State: requorumv1.CopyState_COPY_STATE_GOOD, Checked: timestamppb.New(time.Now()), Object: m.GetStored(), Bundles: m.GetBundles()}
	plain := asOnNodes(m)
	known, err := f.Catalog.Snapshot(cluster, m.GetName())
	_, unknown := errors.AsType[*catalog.NotFoundError](err)
	switch {
	case err != nil && !unknown:
		return nil, err
	case unknown || known.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED:
		known = &requorumv1.Snapshot{Name: m.GetName(), Cluster: cluster, State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Kind: m.GetKind(), Created: m.GetCreated(), Manifest: plain}
		if m.GetCluster() != cluster {
			known.Kind = requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED
		}
	case known.GetManifest().GetSha256() != m.GetSha256():
		return nil, &failure.Error{
			Message: fmt.Sprintf("cluster %s has another snapshot named %s", cluster, m.GetName()),
			Advice:  "remove that one first (requorum snapshot rm " + m.GetName() + ")",
		}
	}
	known.Remotes = append(withoutRemote(known.GetRemotes(), stored.GetRemote()), stored)
	return known, nil
}

// LookAt reads the manifest of a copy in a remote, through a node, and returns what is stored. It fails unless that is the
// snapshot.
func LookAt(ctx context.Context, ask Asker, remotes *remote.Remotes, cluster, node string, c *requorumv1.RemoteCopy, m *requorumv1.Manifest) (*requorumv1.StoredObject, error) {
	r, err := remotes.Get(c.GetRemote())
	if err != nil {
		return nil, err
	}
	list, err := listRemote(ctx, ask, cluster, node, r, path.Dir(c.GetObject().GetKey()), m.GetName())
	if err != nil {
		return nil, err
	}
	if len(list.GetManifests()) == 0 {
		return nil, errors.New("it is gone from there")
	}
	there := list.GetManifests()[0]
	if there.GetSha256() != m.GetSha256() {
		return nil, fmt.Errorf("it holds another snapshot of that name, with the SHA-256 %s", there.GetSha256())
	}
	return there.GetStored(), nil
}

// Fetch has a node fetch a snapshot from the first of the remotes that gives it a good copy, and keep it sealed as the
// manifest says, or otherwise as given. It returns the facts of a copy that was sealed anew, or is in the clear; Resealed has the manifest of it.
func Fetch(ctx context.Context, run *operation.Run, remotes *remote.Remotes, copies []*requorumv1.RemoteCopy, m *requorumv1.Manifest, node, identity string, otherwise *requorumv1.Sealing) (*agentv1.CopyFacts, error) {
	var failures []error
	for _, c := range copies {
		facts, err := fetchFrom(ctx, run, remotes, c, m, node, identity, SealedAs(m, otherwise))
		if err == nil || ctx.Err() != nil {
			return facts, err
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

func fetchFrom(ctx context.Context, run *operation.Run, remotes *remote.Remotes, c *requorumv1.RemoteCopy, m *requorumv1.Manifest, node, identity string, sealed *requorumv1.Sealing) (*agentv1.CopyFacts, error) {
	r, err := remotes.Get(c.GetRemote())
	if err != nil {
		return nil, err
	}
	access, err := r.Access(ctx)
	if err != nil {
		return nil, err
	}
	wanted := proto.CloneOf(m)
	wanted.Stored = c.GetObject()
	result, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_DownloadCopy{DownloadCopy: &agentv1.DownloadCopy{
		Remote: access, Manifest: wanted, Identity: identity, Sealing: sealed,
	}}})
	if err != nil {
		return nil, err
	}
	facts := result.GetCopy()
	if facts.GetInspected() == nil && proto.Equal(facts.GetLocal(), m.GetLocal()) && (m.GetLocal() != nil || sealed == nil) {
		return nil, nil // the very file that is known
	}
	return facts, KeepSealed(ctx, run, node, m.GetName(), sealed, facts)
}

// fetch has a node fetch the file from a remote, where no node holds a good copy.
func (j *Jobs) fetch(ctx context.Context, run *operation.Run) error {
	job, nodes := run.Snapshot(), held(run)
	if len(job.GetHolders()) > 0 {
		return nil
	}
	facts, err := Fetch(ctx, run, j.Remotes, job.GetRemotes(), job.GetManifest(), nodes[0], j.Identities.Get(run.ID()), job.GetSealing())
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetSnapshot().Holders, rec.GetSnapshot().Manifest = nodes[:1], Resealed(job.GetManifest(), facts)
	})
}

// removeRemote removes the snapshot's copies from the remotes; those that it was only found in, in the folder of
// another cluster, stay.
func (j *Jobs) removeRemote(ctx context.Context, run *operation.Run) error {
	job := run.Snapshot()
	if len(job.GetRemotes()) > 0 { // one that was begun is to be ended, also by a controller that has just started
		j.Fleet.Gather(ctx, run.Cluster(), run.Operation().GetNodes())
	}
	nodes := j.connected(run.Cluster(), run.Operation().GetNodes())
	var failures []error
	for _, c := range job.GetRemotes() {
		if job.GetKeepRemotes() || job.GetOnlyRemote() != "" && job.GetOnlyRemote() != c.GetRemote() {
			continue
		}
		err := j.removeFrom(ctx, run, nodes, c)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && job.GetForce():
			err = run.Warn("remote %s may still keep its copy %s: %v", c.GetRemote(), c.GetObject().GetKey(), err)
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

func (j *Jobs) removeFrom(ctx context.Context, run *operation.Run, nodes []string, c *requorumv1.RemoteCopy) error {
	r, err := j.Remotes.Get(c.GetRemote())
	switch {
	case err != nil:
		return err
	case !r.Owns(run.Cluster(), c.GetObject().GetKey()):
		return nil
	case len(nodes) == 0:
		return &failure.Error{Message: "no node is connected to remove the copy in remote " + c.GetRemote(), Advice: "start an agent"}
	}
	if err := j.noteRemoval(run, c.GetRemote()); err != nil {
		return err
	}
	return j.dropFrom(ctx, run, nodes[0], c)
}

// noteRemoval notes, before anything is removed, that nobody may count on a copy any more: a removal that breaks off may
// have taken its manifest. The next look into the remote tells what is left.
func (j *Jobs) noteRemoval(run *operation.Run, name string) error {
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		if c := copyIn(s.GetRemotes(), name); c != nil {
			c.State, c.Detail, c.Checked = requorumv1.CopyState_COPY_STATE_MISSING, "its removal has begun", timestamppb.New(time.Now())
		}
	})
}
