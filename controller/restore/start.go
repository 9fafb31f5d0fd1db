package restore

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

// Start starts a restore.
func (j *Jobs) Start(ctx context.Context, req *requorumv1.StartRestoreRequest, by string) (*requorumv1.Operation, error) {
	return j.begin(ctx, requorumv1.OperationKind_OPERATION_KIND_RESTORE, req.GetSpec(), req.GetRequestId(), by, req.GetIdentity())
}

// Rehearse starts a rehearsal of a restore.
func (j *Jobs) Rehearse(ctx context.Context, req *requorumv1.RehearseRestoreRequest, by string) (*requorumv1.Operation, error) {
	return j.begin(ctx, requorumv1.OperationKind_OPERATION_KIND_REHEARSE, req.GetSpec(), req.GetRequestId(), by, req.GetIdentity())
}

func (j *Jobs) begin(ctx context.Context, kind requorumv1.OperationKind, req *requorumv1.RestoreSpec, requestID, by, identity string) (*requorumv1.Operation, error) {
	digest, err := operation.Digest(req)
	if err != nil {
		return nil, err
	}
	if known, err := j.Engine.Repeated(requestID, kind, req.GetCluster(), digest); known != nil || err != nil {
		return known, err
	}
	spec, snap, err := j.Resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	sealed, err := j.LocalStorage.Local()
	if err != nil {
		return nil, err
	}
	return j.Engine.Start(&journalv1.OperationRecord{
		Operation: &requorumv1.Operation{
			Kind: kind, Cluster: spec.GetCluster(), Snapshot: spec.GetSnapshot(), Nodes: spec.GetNodes(), RequestId: requestID, RequestedBy: by,
		},
		RequestDigest: digest,
		State:         &journalv1.OperationRecord_Restore{Restore: &journalv1.RestoreJob{Spec: spec, Sealing: sealed}},
	}, func(tx store.Tx, rec *journalv1.OperationRecord) error {
		j.Identities.Put(rec.GetOperation().GetId(), identity)
		if spec.GetFrom() == "" {
			return nil
		}
		return catalog.Put(tx, snap) // from now on it is known
	})
}

// ended forgets what opens encrypted copies.
func (j *Jobs) ended(_ store.Tx, rec *journalv1.OperationRecord) error {
	j.Identities.Forget(rec.GetOperation().GetId())
	return nil
}

// Plan runs every check and says what a restore would do.
func (j *Jobs) Plan(ctx context.Context, req *requorumv1.PlanRestoreRequest) (*requorumv1.RestorePlan, error) {
	spec, snap, err := j.Resolve(ctx, req.GetSpec())
	if err != nil {
		return nil, err
	}
	sealed, err := j.LocalStorage.Local()
	if err != nil {
		return nil, err
	}
	p, err := j.prepare(ctx, j.Fleet, spec, snap, req.GetCopiesAsKnown(), req.GetIdentity(), sealed)
	if err != nil {
		return nil, err
	}
	if running := j.Engine.Running(spec.GetCluster()); running != "" {
		p.fail("operation", "", "operation "+running+" is changing the cluster", "wait for it (requorum operation watch "+running+") or cancel it")
	}
	m := p.snapshot.GetManifest()
	plan := &requorumv1.RestorePlan{
		Spec: p.spec, Snapshot: p.snapshot, Checks: p.checks, Refused: p.failed(),
		EstimatedDowntime: durationpb.New(estimate(m.GetSize())), Revision: m.GetRevision() + int64(p.spec.GetBumpRevision()),
	}
	for _, n := range p.nodes {
		plan.Nodes = append(plan.Nodes, p.nodePlan(n))
	}
	return plan, nil
}

func (p *prepared) nodePlan(n *journalv1.RestoreNode) *requorumv1.NodePlan {
	f := p.facts[n.GetNode()]
	var quarantine []string
	for _, path := range f.GetQuarantinePaths() {
		quarantine = append(quarantine, strings.Replace(path, "%s", "<operation>", 1))
	}
	return &requorumv1.NodePlan{
		Node: n.GetNode(), Member: n.GetMember(), PeerUrls: n.GetPeerUrls(), Stops: f.GetStops(),
		DataDir: f.GetMember().GetDataDir(), QuarantinePaths: quarantine,
		NeededBytes: f.GetDataNeededBytes(), FreeBytes: int64(f.GetDataFreeBytes()), Files: p.files[n.GetNode()],
	}
}

// estimate returns the downtime to expect for a snapshot of that size: etcd's own stop, election and
// start, about 2.5 s, and 1 s per GiB for opening the database and computing HashKV.
func estimate(size int64) time.Duration {
	return 2500*time.Millisecond + time.Duration(float64(size)/(1<<30)*float64(time.Second))
}
