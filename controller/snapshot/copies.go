package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/version"
)

// saveOnNode streams a snapshot of the chosen member into its node's vault. The other nodes take it over meanwhile, as
// far as they can keep up; distribute brings the rest.
func (j *Jobs) saveOnNode(ctx context.Context, run *operation.Run) error {
	op, node := run.Operation(), run.Snapshot().GetNode()
	others := slices.DeleteFunc(slices.Clone(held(run)), func(n string) bool { return n == node })
	following, stop := context.WithCancel(ctx)
	defer stop()
	j.follow(following, run, node, others)
	facts, err := SaveOn(ctx, run, node, op.GetSnapshot(), run.Snapshot().GetSealing(), others[:min(1, len(others))]...)
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Facts = facts })
}

// follow makes the other nodes take over what the saver writes, for as long as ctx lasts: down the chain that
// distribute makes, so that the saver sends it once. One that cannot is of no concern before distribute.
func (j *Jobs) follow(ctx context.Context, run *operation.Run, saver string, others []string) {
	source := saver
	for i, node := range others {
		spec := &agentv1.FollowCopy{
			Name: run.Operation().GetSnapshot(), Source: sourceOn(j.Fleet, run.Cluster(), source), Readers: others[i+1 : min(i+2, len(others))],
		}
		run.Background(ctx, node, &agentv1.Task{Spec: &agentv1.Task_FollowCopy{FollowCopy: spec}}, func(error) {})
		source = node
	}
}

// SaveOn saves a snapshot of the member on a node, which readers may follow, and returns what was computed as it passed.
func SaveOn(ctx context.Context, run *operation.Run, node, name string, sealed *requorumv1.Sealing, readers ...string) (*agentv1.CopyFacts, error) {
	result, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_SaveCopy{SaveCopy: &agentv1.SaveCopy{Name: name, Readers: readers, Sealing: sealed}}})
	if err != nil {
		return nil, err
	}
	return result.GetCopy(), KeepSealed(ctx, run, node, name, sealed, result.GetCopy())
}

func (j *Jobs) importOnNode(ctx context.Context, run *operation.Run) error {
	req := run.Snapshot().GetImport()
	if req.GetFrom() != "" {
		job := run.Snapshot()
		facts, err := Fetch(ctx, run, j.Remotes, job.GetRemotes(), job.GetManifest(), job.GetNode(), j.Identities.Get(run.ID()), job.GetSealing())
		if err != nil {
			return err
		}
		return run.Journal(func(rec *journalv1.OperationRecord) {
			rec.GetSnapshot().Facts, rec.GetSnapshot().Manifest = facts, Resealed(job.GetManifest(), facts)
		})
	}
	result, err := run.Ask(ctx, req.GetNode(), &agentv1.Task{Spec: &agentv1.Task_ImportCopy{ImportCopy: &agentv1.ImportCopy{
		Name: run.Operation().GetSnapshot(), Path: req.GetPath(), SkipHashCheck: req.GetSkipHashCheck(),
		Sealing: run.Snapshot().GetSealing(),
	}}})
	if err == nil {
		err = sealedHere(req.GetNode(), run.Snapshot().GetSealing(), result.GetCopy())
	}
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Facts = result.GetCopy() })
}

// inspect reads the facts from the file, makes the manifest of them and writes it beside the file.
func (j *Jobs) inspect(ctx context.Context, run *operation.Run) error {
	job := run.Snapshot()
	if job.GetImport().GetFrom() != "" {
		return compareFetched(ctx, run, job)
	}
	labels := job.GetSave().GetLabels()
	if job.GetImport() != nil {
		labels = job.GetImport().GetLabels()
	}
	m, err := Describe(ctx, run, job.GetNode(), run.Operation().GetSnapshot(), job.GetFacts(), job.GetKind(), labels, func(m *requorumv1.Manifest) {
		m.Schedule, m.Expires, m.WantedCopies = job.GetSchedule(), job.GetExpires(), job.GetWantedCopies()
		m.Bundles, m.KubernetesVersion = job.GetBundles(), job.GetKubernetesVersion()
	})
	if err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Manifest = m })
}

// Describe makes the manifest of a copy from what was computed while it was written and what its node
// reads from the file, and writes it beside the copy. also sets what else the manifest is to say.
func Describe(ctx context.Context, run *operation.Run, node, name string, facts *agentv1.CopyFacts, kind requorumv1.SnapshotKind, labels map[string]string, also ...func(*requorumv1.Manifest)) (*requorumv1.Manifest, error) {
	found := facts.GetInspected()
	if facts.GetLocal() == nil {
		result, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_InspectCopy{InspectCopy: &agentv1.InspectCopy{Name: name}}})
		if err != nil {
			return nil, err
		}
		found = result.GetManifest()
	}
	m := proto.CloneOf(found)
	m.Local = facts.GetLocal()
	m.FormatVersion, m.Name, m.Cluster, m.Node, m.Kind, m.Labels = 1, name, run.Cluster(), node, kind, labels
	m.Created, m.Size, m.Md5, m.Sha256 = facts.GetCreated(), facts.GetSize(), facts.GetMd5(), facts.GetSha256()
	m.HasTrailer, m.EtcdVersion, m.RequorumVersion = facts.GetHasTrailer(), facts.GetEtcdVersion(), version.String()
	for _, set := range also {
		set(m)
	}
	_, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_WriteManifest{WriteManifest: &agentv1.WriteManifest{Manifest: m}}})
	return m, err
}

// compareWithFile makes sure that a manifest which came with its file tells what is in it.
func compareWithFile(ctx context.Context, run *operation.Run, node string, m *requorumv1.Manifest) error {
	result, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_InspectCopy{InspectCopy: &agentv1.InspectCopy{Name: m.GetName()}}})
	if err != nil {
		return err
	}
	return compareFacts(node, result.GetManifest(), m)
}

func compareFacts(node string, found, m *requorumv1.Manifest) error {
	if found.GetRevision() != m.GetRevision() || found.GetHashKv() != m.GetHashKv() || found.GetKeys() != m.GetKeys() {
		return failure.On(node, fmt.Sprintf("the file of %s has revision %d, HashKV %d and %d keys, its manifest says %d, %d and %d",
			m.GetName(), found.GetRevision(), found.GetHashKv(), found.GetKeys(), m.GetRevision(), m.GetHashKv(), m.GetKeys()), "choose another snapshot")
	}
	return nil
}

// locateForUpload finds the node that stores the file, and makes sure that the remote can take it.
func (j *Jobs) locateForUpload(ctx context.Context, run *operation.Run) error {
	present := j.connected(run.Cluster(), run.Operation().GetNodes())
	copies, err := HashAll(ctx, run, present, run.Snapshot().GetManifest())
	if err != nil {
		return err
	}
	holders := GoodOn(copies)
	if len(holders) == 0 {
		return &failure.Error{Message: "no node that is connected holds a good copy: " + describeBad(copies), Advice: "start the agents, or look at the copies (requorum snapshot check)"}
	}
	if err := j.checkRemote(ctx, run, holders[0]); err != nil {
		return err
	}
	return run.Journal(func(rec *journalv1.OperationRecord) { rec.GetSnapshot().Node = holders[0] })
}

// locate finds the nodes that hold a good copy.
func (j *Jobs) locate(ctx context.Context, run *operation.Run) error {
	op := run.Operation()
	if err := j.allConnected(ctx, run.Cluster(), op.GetNodes()); err != nil {
		return err
	}
	copies, err := HashAll(ctx, run, op.GetNodes(), run.Snapshot().GetManifest())
	if err != nil {
		return err
	}
	known, err := j.Catalog.Snapshot(run.Cluster(), run.Operation().GetSnapshot())
	if err != nil {
		return err
	}
	if err := j.noteCopies(run, wanted(run, known, copies)); err != nil {
		return err
	}
	holders := GoodOn(copies)
	if len(holders) == 0 && len(run.Snapshot().GetRemotes()) == 0 {
		return &failure.Error{Message: "no node holds a good copy: " + describeBad(copies), Advice: "import the file from elsewhere (requorum snapshot import)"}
	}
	targets := j.targets(run, holders)
	return run.Journal(func(rec *journalv1.OperationRecord) {
		rec.GetSnapshot().Holders, rec.GetSnapshot().Targets = holders, targets
	})
}

// wanted leaves out, of a snapshot that not every node is to hold, the nodes that do not and need not.
func wanted(run *operation.Run, known *requorumv1.Snapshot, copies []*requorumv1.Copy) []*requorumv1.Copy {
	if run.Snapshot().GetWantedCopies() == 0 || len(GoodOn(copies)) == 0 {
		return copies
	}
	return slices.DeleteFunc(slices.Clone(copies), func(c *requorumv1.Copy) bool {
		listed := slices.ContainsFunc(known.GetCopies(), func(k *requorumv1.Copy) bool { return k.GetNode() == c.GetNode() })
		return c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD && !listed
	})
}

// targets chooses the nodes that are to hold a snapshot of which there is to be a number of copies: those that do, and
// as many more as are lacking, the ones with the most space first. None stands for every node.
func (j *Jobs) targets(run *operation.Run, holders []string) []string {
	wanted := int(run.Snapshot().GetWantedCopies())
	if wanted == 0 {
		return nil
	}
	free := make(map[string]uint64)
	for _, node := range run.Operation().GetNodes() {
		free[node] = j.Fleet.Info(dispatch.Key{Cluster: run.Cluster(), Node: node}).VaultFreeBytes
	}
	return roomiest(free, holders, wanted)
}

// roomiest returns first and, up to wanted nodes in all, those of the others that have the most free space.
func roomiest(free map[string]uint64, first []string, wanted int) []string {
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(free)), func(n string) bool { return slices.Contains(first, n) })
	slices.SortStableFunc(others, func(a, b string) int { return cmp.Compare(free[b], free[a]) })
	lacking := min(max(0, wanted-len(first)), len(others))
	chosen := append(slices.Clone(first), others[:lacking]...)
	slices.Sort(chosen)
	return chosen
}

// held returns the nodes that are to hold the operation's snapshot.
func held(run *operation.Run) []string {
	if targets := run.Snapshot().GetTargets(); len(targets) > 0 {
		return targets
	}
	return run.Operation().GetNodes()
}

// distribute makes every node that is to hold the file hold it.
func (j *Jobs) distribute(ctx context.Context, run *operation.Run) error {
	job := run.Snapshot()
	holders := job.GetHolders()
	if len(holders) == 0 {
		holders = []string{job.GetNode()}
	}
	return Distribute(ctx, run, j.Fleet, job.GetManifest(), holders, held(run))
}

// Distribute makes every node hold the file that the manifest describes. Nodes that lack it form a
// chain behind the first holder, each serving what it has already received, so the holder sends the
// file once whatever the number of nodes. A node whose predecessor dies goes on with the next one back.
// It fails if no holder serves.
func Distribute(ctx context.Context, run *operation.Run, fleet Fleet, m *requorumv1.Manifest, holders, nodes []string) error {
	targets := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return slices.Contains(holders, n) })
	if len(targets) == 0 {
		return nil
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	holders, err := serve(serving, run, holders, &agentv1.ServeCopy{Name: m.GetName(), Readers: targets})
	if err != nil {
		return err
	}
	_, err = run.AskAll(ctx, targets, func(node string) *agentv1.Task {
		at := slices.Index(targets, node)
		return &agentv1.Task{Spec: &agentv1.Task_FetchCopy{FetchCopy: &agentv1.FetchCopy{
			Manifest: m, Sources: sources(fleet, run.Cluster(), targets[:at], holders), Readers: targets[at+1:],
		}}}
	})
	return err
}

// serve makes the holders serve their copies for as long as ctx lasts. It returns as soon as one of them does, with
// that one first and without those that have failed by then: a target that asked them would lose time.
func serve(ctx context.Context, run *operation.Run, holders []string, spec *agentv1.ServeCopy) ([]string, error) {
	type answer struct {
		holder string
		err    error
	}
	answers := make(chan answer, len(holders))
	for _, holder := range holders {
		task := &agentv1.Task{Spec: &agentv1.Task_ServeCopy{ServeCopy: spec}}
		run.Background(ctx, holder, task, func(err error) { answers <- answer{holder, err} })
	}
	others, failures := slices.Clone(holders), make([]error, 0, len(holders))
	for range holders {
		a := <-answers // at the latest when ctx ends
		others = slices.DeleteFunc(others, func(h string) bool { return h == a.holder })
		if a.err == nil {
			return append([]string{a.holder}, others...), nil
		}
		failures = append(failures, a.err)
	}
	return nil, errors.Join(failures...)
}

// sources lists where a target may fetch from: the targets before it, the nearest first, then the holders.
func sources(fleet Fleet, cluster string, before, holders []string) []*agentv1.Source {
	order := slices.Clone(before)
	slices.Reverse(order)
	order = append(order, holders...)
	all := make([]*agentv1.Source, len(order))
	for i, node := range order {
		all[i] = sourceOn(fleet, cluster, node)
	}
	return all
}

func sourceOn(fleet Fleet, cluster, node string) *agentv1.Source {
	return &agentv1.Source{Node: node, Address: fleet.Info(dispatch.Key{Cluster: cluster, Node: node}).TransferAddress}
}

// HashAll makes every node read its copy back from disk.
func HashAll(ctx context.Context, run *operation.Run, nodes []string, m *requorumv1.Manifest) ([]*requorumv1.Copy, error) {
	results, err := run.AskAll(ctx, nodes, func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_HashCopy{HashCopy: &agentv1.HashCopy{Manifest: m}}}
	})
	if err != nil {
		return nil, err
	}
	copies := make([]*requorumv1.Copy, 0, len(nodes))
	for _, node := range nodes {
		c := proto.CloneOf(results[node].GetHashed())
		c.Node = node
		copies = append(copies, c)
	}
	return copies, nil
}

// GoodOn returns the nodes whose copies are good.
func GoodOn(copies []*requorumv1.Copy) []string {
	var nodes []string
	for _, c := range copies {
		if c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD {
			nodes = append(nodes, c.GetNode())
		}
	}
	return nodes
}

// DisagreementError says which nodes do not hold the file that the manifest describes, and how:
// missing, unreadable and different are three answers.
type DisagreementError struct {
	Snapshot string
	Copies   []*requorumv1.Copy // those that are not good
}

func (e *DisagreementError) Error() string {
	return fmt.Sprintf("the copies of %s do not agree: %s", e.Snapshot, describeBad(e.Copies))
}

func describeBad(copies []*requorumv1.Copy) string {
	var parts []string
	for _, c := range copies {
		if c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD {
			continue
		}
		text := c.GetNode() + " " + CopyStateName(c.GetState())
		if c.GetDetail() != "" {
			text += " (" + c.GetDetail() + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// CopyStateName returns a state as people read it: good, missing, unreadable, different, unknown.
func CopyStateName(s requorumv1.CopyState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "COPY_STATE_"))
}

// Agree returns a *failure.Error that wraps a *DisagreementError unless every copy is good.
func Agree(m *requorumv1.Manifest, copies []*requorumv1.Copy) error {
	bad := slices.DeleteFunc(slices.Clone(copies), func(c *requorumv1.Copy) bool { return c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD })
	if len(bad) == 0 {
		return nil
	}
	cause := &DisagreementError{Snapshot: m.GetName(), Copies: bad}
	return &failure.Error{
		Message: cause.Error(), Cause: cause,
		Advice: fmt.Sprintf("requorum snapshot distribute %s gives those nodes a good copy", m.GetName()),
	}
}

// agree makes sure that every node's copy is the same file, by reading it back from disk, and notes in
// the catalog what was found.
func (j *Jobs) agree(ctx context.Context, run *operation.Run) error {
	job := run.Snapshot()
	copies, err := HashAll(ctx, run, held(run), job.GetManifest())
	if err != nil {
		return err
	}
	err = j.noteCopies(run, copies)
	return errors.Join(err, Agree(job.GetManifest(), copies))
}

// noteCopies notes in the catalog what the nodes found.
func (j *Jobs) noteCopies(run *operation.Run, copies []*requorumv1.Copy) error {
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		s.Copies, s.Manifest = copies, run.Snapshot().GetManifest()
		if run.Snapshot().GetImport().GetFrom() != "" {
			s.Remotes = run.Snapshot().GetRemotes()
		}
	})
}

// record makes the snapshot READY: it is verified, and the nodes agree.
func (j *Jobs) record(_ context.Context, run *operation.Run) error {
	return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
		s.State, s.Error = requorumv1.SnapshotState_SNAPSHOT_STATE_READY, ""
	})
}

// drop removes what a snapshot that could not be made has left on a node.
func (j *Jobs) drop(ctx context.Context, run *operation.Run, node string) error {
	return Drop(ctx, run, node, &agentv1.DropCopy{Name: run.Operation().GetSnapshot()})
}

func (j *Jobs) dropPartial(ctx context.Context, run *operation.Run, node string) error {
	return Drop(ctx, run, node, &agentv1.DropCopy{Name: run.Operation().GetSnapshot(), PartialOnly: true})
}

// Drop removes a copy from a node. A node that was removed from the cluster has nothing to drop.
func Drop(ctx context.Context, run *operation.Run, node string, spec *agentv1.DropCopy) error {
	_, err := run.Ask(ctx, node, &agentv1.Task{Spec: &agentv1.Task_DropCopy{DropCopy: spec}})
	if errors.Is(err, dispatch.ErrRemoved) {
		return nil
	}
	return err
}

// removeCopies removes the snapshot's file from every node that is there.
func (j *Jobs) removeCopies(ctx context.Context, run *operation.Run) error {
	op := run.Operation()
	switch job := run.Snapshot(); {
	case job.GetOnlyRemote() != "":
		return nil
	case !partial(job):
		err := j.Catalog.Update(run.Cluster(), op.GetSnapshot(), func(s *requorumv1.Snapshot) { s.State = requorumv1.SnapshotState_SNAPSHOT_STATE_DELETING })
		if err != nil {
			return err
		}
	}
	if job := run.Snapshot(); job.GetForce() {
		return dropWhere(ctx, run, job.GetHolders(), func(node string, err error) error {
			return run.Warn("%s may still keep its copy: %v", node, err)
		})
	}
	return dropWhere(ctx, run, op.GetNodes(), func(_ string, err error) error { return err })
}

// dropWhere removes the snapshot's copies, each whatever becomes of the others. failed is called for each
// that could not be removed.
func dropWhere(ctx context.Context, run *operation.Run, nodes []string, failed func(node string, err error) error) error {
	name := run.Operation().GetSnapshot()
	var wg sync.WaitGroup
	errs := make([]error, len(nodes))
	for i, node := range nodes {
		wg.Go(func() { errs[i] = Drop(ctx, run, node, &agentv1.DropCopy{Name: name}) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, err := range errs {
		if err != nil {
			errs[i] = failed(nodes[i], err)
		}
	}
	return errors.Join(errs...)
}

// forget removes the catalog's entry, or what it says of the copies that are gone.
func (j *Jobs) forget(_ context.Context, run *operation.Run) error {
	if job := run.Snapshot(); partial(job) {
		return j.Catalog.Update(run.Cluster(), run.Operation().GetSnapshot(), func(s *requorumv1.Snapshot) {
			if job.GetKeepRemotes() {
				s.Copies, s.Manifest = nil, leftInRemotes(s.GetManifest(), s.GetRemotes())
			}
			s.Remotes = withoutRemote(s.GetRemotes(), job.GetOnlyRemote())
		})
	}
	return j.Catalog.Write(func(tx store.Tx) error { return catalog.Remove(tx, run.Cluster(), run.Operation().GetSnapshot()) })
}
