package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/snapshot"
)

const (
	defaultBump       = 1_000_000_000
	bumpMargin        = 100_000_000 // room for what is written between the checks and the stop
	defaultQuarantine = 72 * time.Hour
	oldSnapshot       = 72 * time.Hour // older ones get a warning
	clockError        = time.Minute    // by which clocks of nodes may differ before it is told
)

// Asker asks nodes questions, within an operation or outside of one.
type Asker = snapshot.Asker

// prepared is what a restore would work with, and how its checks came out.
type prepared struct {
	spec           *requorumv1.RestoreSpec
	cluster        *journalv1.ClusterRecord
	enrolled       []string
	snapshot       *requorumv1.Snapshot
	facts          map[string]*agentv1.NodeFacts
	copies         []*requorumv1.Copy
	copiesAsKnown  bool
	remotes        []*requorumv1.RemoteCopy             // that hold a copy, where no node holds a good one
	sealing        *requorumv1.Sealing                  // of copies that the restore makes
	files          map[string][]*requorumv1.PlannedFile // of the snapshot, by node
	lostFiles      []string                             // nodes that have lost their files, which a remote has
	leftOutServing string                               // a node that is left out although its member serves
	highest        int64                                // revision that clients may have seen
	newest         uint64                               // generation that any node has
	members        []*requorumv1.ListedMember           // of the cluster as it is, or as the snapshot knew it
	nodes          []*journalv1.RestoreNode
	checks         []*requorumv1.Check
}

// Resolve fills in names and defaults, and finds the snapshot. It fails where the request cannot be meant.
func (j *Jobs) Resolve(ctx context.Context, req *requorumv1.RestoreSpec) (*requorumv1.RestoreSpec, *requorumv1.Snapshot, error) {
	spec := proto.CloneOf(req)
	if _, err := j.Catalog.Cluster(spec.GetCluster()); err != nil {
		return nil, nil, err
	}
	snap, err := j.find(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	spec.Snapshot = snap.GetName()
	spec, err = j.complete(spec)
	return spec, snap, err
}

// find returns the snapshot that is to be restored: the catalog's, or one that only a remote knows.
func (j *Jobs) find(ctx context.Context, spec *requorumv1.RestoreSpec) (*requorumv1.Snapshot, error) {
	switch {
	case spec.GetFrom() == "":
		return j.Catalog.Snapshot(spec.GetCluster(), spec.GetSnapshot())
	case spec.GetSnapshot() != "":
		return nil, &snapshot.InvalidError{Message: "snapshot and from exclude each other"}
	}
	finder := &snapshot.Finder{Remotes: j.Remotes, Catalog: j.Catalog, Fleet: j.Fleet, Ask: j.Fleet}
	snap, from, err := finder.Find(ctx, spec.GetFrom(), spec.GetCluster(), "")
	spec.From = from
	return snap, err
}

// complete fills in the rest of a spec.
func (j *Jobs) complete(spec *requorumv1.RestoreSpec) (*requorumv1.RestoreSpec, error) {
	enrolled, err := j.Catalog.NodeNames(spec.GetCluster())
	if err != nil {
		return nil, err
	}
	if len(spec.GetNodes()) == 0 {
		spec.Nodes = enrolled
	}
	slices.Sort(spec.Nodes)
	spec.Nodes = slices.Compact(spec.GetNodes())
	for _, node := range spec.GetNodes() {
		if !slices.Contains(enrolled, node) {
			return nil, &catalog.NotFoundError{Message: fmt.Sprintf("cluster %s has no node %q; it has %s", spec.GetCluster(), node, strings.Join(enrolled, ", "))}
		}
	}
	switch {
	case spec.GetNoBump() && spec.GetBumpRevision() != 0:
		return nil, &snapshot.InvalidError{Message: "no_bump and bump_revision exclude each other"}
	case spec.GetBumpRevision() > 1<<62:
		return nil, &snapshot.InvalidError{Message: "bump_revision is too large: revisions are 63-bit numbers"}
	}
	if spec.GetQuarantine() == nil {
		spec.Quarantine = durationpb.New(defaultQuarantine)
	}
	if spec.GetQuarantine().AsDuration() < 0 {
		return nil, &snapshot.InvalidError{Message: "quarantine is negative"}
	}
	return spec, nil
}

// prepare asks every node and runs every check. It changes nothing. copiesAsKnown spares the nodes from reading
// their copies, as long as all were good when they were last read and are still there. identity opens what is encrypted, and
// sealed is how the restore seals copies that it makes.
func (j *Jobs) prepare(ctx context.Context, ask Asker, spec *requorumv1.RestoreSpec, snap *requorumv1.Snapshot, copiesAsKnown bool, identity string, sealed *requorumv1.Sealing) (*prepared, error) {
	p := &prepared{spec: spec, snapshot: snap, sealing: sealed, copiesAsKnown: copiesAsKnown, facts: make(map[string]*agentv1.NodeFacts), files: make(map[string][]*requorumv1.PlannedFile)}
	var err error
	if p.cluster, err = j.Catalog.Cluster(spec.GetCluster()); err != nil {
		return nil, err
	}
	if p.enrolled, err = j.Catalog.NodeNames(spec.GetCluster()); err != nil {
		return nil, err
	}
	if !p.checkSnapshot() {
		return p, nil
	}
	if err := p.ask(ctx, j.Fleet, ask); err != nil {
		return nil, err
	}
	if p.failed() { // a node is away: what follows would only repeat it
		return p, nil
	}
	p.findMembers()
	if err := j.findHighest(p); err != nil {
		return nil, err
	}
	p.checkRevision()
	p.checkNodes()
	if err := j.checkRemotes(ctx, ask, p); err != nil {
		return nil, err
	}
	p.checkCopies()
	p.checkSealed(identity)
	if err := j.checkFiles(ctx, ask, p, identity); err != nil {
		return nil, err
	}
	p.checkVersions()
	p.checkLeftOut()
	p.checkLoss()
	return p, nil
}

// ask gets the facts of every node that is connected, and what the nodes find in their copies.
func (p *prepared) ask(ctx context.Context, fleet snapshot.Fleet, ask Asker) error {
	var connected []string
	fleet.Gather(ctx, p.spec.GetCluster(), p.spec.GetNodes())
	for _, node := range p.spec.GetNodes() {
		if info := fleet.Info(dispatch.Key{Cluster: p.spec.GetCluster(), Node: node}); !info.Connected {
			message, advice := info.Away("start the agent; if the node is gone for good leave it out: --nodes " + strings.Join(without(p.spec.GetNodes(), node), ","))
			p.fail("connected", node, message, advice)
			continue
		}
		connected = append(connected, node)
	}
	if len(connected) == len(p.spec.GetNodes()) {
		p.pass("connected", "%d of %d nodes connected", len(connected), len(connected))
	}
	m := p.snapshot.GetManifest()
	inspect := &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{SnapshotSize: m.GetSize()}}}
	facts, err := askAll(ctx, ask, p.spec.GetCluster(), connected, inspect)
	if err != nil {
		return err
	}
	for i, node := range connected {
		p.facts[node] = facts[i].GetNode()
	}
	if p.copiesAsKnown { // what is bad may have been mended, and what is good may be gone
		p.copies = knownCopies(p.snapshot, connected)
		there, err := stillListed(ctx, ask, p.spec.GetCluster(), connected, m)
		if err != nil {
			return err
		}
		p.copiesAsKnown = there && len(snapshot.GoodOn(p.copies)) == len(connected)
	}
	if !p.copiesAsKnown {
		p.copies, err = readCopies(ctx, ask, p.spec.GetCluster(), connected, m)
	}
	return err
}

// stillListed tells whether every node still lists its copy, which it does without reading it.
func stillListed(ctx context.Context, ask Asker, cluster string, nodes []string, m *requorumv1.Manifest) (bool, error) {
	lists, err := askAll(ctx, ask, cluster, nodes, &agentv1.Task{Spec: &agentv1.Task_ListCopies{ListCopies: &agentv1.ListCopies{}}})
	if _, answered := errors.AsType[*dispatch.TaskError](err); answered {
		return false, nil // a manifest that cannot be read, say
	}
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(lists, func(list *agentv1.TaskResult) bool {
		return !slices.ContainsFunc(list.GetCopies().GetManifests(), func(have *requorumv1.Manifest) bool {
			return have.GetName() == m.GetName() && catalog.SameFile(have, m)
		})
	}), nil
}

// readCopies has every node read its copy in full.
func readCopies(ctx context.Context, ask Asker, cluster string, nodes []string, m *requorumv1.Manifest) ([]*requorumv1.Copy, error) {
	hashed, err := askAll(ctx, ask, cluster, nodes, &agentv1.Task{Spec: &agentv1.Task_HashCopy{HashCopy: &agentv1.HashCopy{Manifest: m}}})
	copies := make([]*requorumv1.Copy, len(hashed))
	for i, result := range hashed {
		copies[i] = proto.CloneOf(result.GetHashed())
		copies[i].Node = nodes[i]
	}
	return copies, err
}

// knownCopies is what the catalog says of the nodes' copies.
func knownCopies(s *requorumv1.Snapshot, nodes []string) []*requorumv1.Copy {
	var copies []*requorumv1.Copy
	for _, node := range nodes {
		at := slices.IndexFunc(s.GetCopies(), func(c *requorumv1.Copy) bool { return c.GetNode() == node })
		if at < 0 {
			copies = append(copies, &requorumv1.Copy{Node: node, State: requorumv1.CopyState_COPY_STATE_MISSING, Detail: "it never had one"})
			continue
		}
		copies = append(copies, proto.CloneOf(s.GetCopies()[at]))
	}
	return copies
}

func without(nodes []string, node string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == node })
}

// findMembers works out who the members are: as the cluster lists them today if it still answers,
// otherwise as the nodes are configured. Membership never comes from the snapshot.
func (p *prepared) findMembers() {
	for _, node := range p.spec.GetNodes() {
		if m := p.facts[node].GetMember(); m.GetServing() && len(m.GetMembers()) > 0 {
			p.members = m.GetMembers()
			break
		}
	}
	for _, node := range p.spec.GetNodes() {
		f := p.facts[node]
		n := &journalv1.RestoreNode{Node: node, Member: f.GetMember().GetName(), PeerUrls: f.GetMember().GetPeerUrls(), WasRunning: f.GetRunning(), Fenced: f.GetFenced(), Served: serves(f)}
		if listed := find(p.members, f.GetMember()); listed != nil {
			n.PeerUrls, n.Learner = listed.GetPeerUrls(), listed.GetLearner()
		}
		p.nodes = append(p.nodes, n)
	}
}

// find returns the row of the member list that is about m: the one with its ID, otherwise the one with
// its name and a peer URL of its own, as for a member that lost its disk and began anew.
func find(list []*requorumv1.ListedMember, m *requorumv1.Member) *requorumv1.ListedMember {
	for _, l := range list {
		if m.GetId() != "" && l.GetId() == m.GetId() {
			return l
		}
	}
	for _, l := range list {
		shared := slices.ContainsFunc(l.GetPeerUrls(), func(u string) bool { return slices.Contains(m.GetPeerUrls(), u) })
		if l.GetName() != "" && l.GetName() == m.GetName() && shared {
			return l
		}
	}
	return nil
}

// leader returns the node whose member leads, empty if none does.
func (p *prepared) leader() string {
	for _, node := range p.spec.GetNodes() {
		if m := p.facts[node].GetMember(); m.GetServing() && m.GetId() == m.GetLeader() {
			return node
		}
	}
	return ""
}

// hadLeader tells whether any member sees a leader.
func (p *prepared) hadLeader() bool {
	for _, f := range p.facts {
		if serves(f) {
			return true
		}
	}
	return false
}

// serves tells whether a node's member answers and sees a leader.
func serves(f *agentv1.NodeFacts) bool {
	return f.GetMember().GetServing() && f.GetMember().GetLeader() != ""
}

// etcdVersion returns the version that the members run, or would; empty if no node knows.
func (p *prepared) etcdVersion() string {
	for _, node := range p.spec.GetNodes() {
		if v := versionOn(p.facts[node]); v != "" {
			return v
		}
	}
	return ""
}

// versionOn returns the version of a node's etcd: that of the binary which would be started, else of what runs.
func versionOn(f *agentv1.NodeFacts) string {
	if v := f.GetEtcdVersion(); v != "" {
		return v
	}
	return f.GetMember().GetVersion()
}

// liveRevision returns the highest revision that a member tells, 0 if none answers.
func (p *prepared) liveRevision() int64 {
	var highest int64
	for _, f := range p.facts {
		if f.GetMember().GetServing() {
			highest = max(highest, f.GetMember().GetRevision())
		}
	}
	return highest
}

// findHighest finds the highest revision that clients may have seen: as a member tells, as one was last
// seen, or as a snapshot has it; and the newest generation, which a controller that came back from an
// old backup learns from the nodes.
func (j *Jobs) findHighest(p *prepared) error {
	p.highest, p.newest = p.liveRevision(), p.cluster.GetGeneration()
	for _, node := range p.enrolled {
		info := j.Fleet.Info(dispatch.Key{Cluster: p.spec.GetCluster(), Node: node})
		p.highest, p.newest = max(p.highest, info.Member.GetRevision()), max(p.newest, info.Generation, p.facts[node].GetGeneration())
		if info.Connected && info.Member.GetServing() && !slices.Contains(p.spec.GetNodes(), node) {
			p.leftOutServing = node
		}
	}
	all, err := j.Catalog.Snapshots(p.spec.GetCluster())
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.GetKind() != requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED { // that may be another cluster's
			p.highest = max(p.highest, s.GetManifest().GetRevision())
		}
	}
	return nil
}

func (p *prepared) leftOut() []string {
	return slices.DeleteFunc(slices.Clone(p.enrolled), func(n string) bool { return slices.Contains(p.spec.GetNodes(), n) })
}

func askAll(ctx context.Context, ask Asker, cluster string, nodes []string, task *agentv1.Task) ([]*agentv1.TaskResult, error) {
	results, errs := make([]*agentv1.TaskResult, len(nodes)), make([]error, len(nodes))
	done := make(chan struct{}, len(nodes))
	for i, node := range nodes {
		go func() {
			results[i], errs[i] = ask.AskNode(ctx, cluster, node, task)
			done <- struct{}{}
		}()
	}
	for range nodes {
		<-done
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}
