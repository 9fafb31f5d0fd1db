package snapshot

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/redact"
	"github.com/requorum/requorum/internal/timetable"
)

// InvalidError refuses a request that cannot be meant.
type InvalidError struct{ Message string }

func (e *InvalidError) Error() string { return e.Message }

// NewName makes a unique name: prefix, cluster, UTC time, short ID.
func NewName(prefix, cluster string) string {
	id := strings.ToLower(ulid.Make().String()[20:])
	at := time.Now().UTC().Format("20060102T150405Z") // without colons, which some stores and file systems do not take
	name := fmt.Sprintf("%s-%s-%s-%s", prefix, cluster, at, id)
	if len(name) > names.MaxLength {
		name = fmt.Sprintf("%s-%s-%s", prefix, at, id)
	}
	return name
}

// Purpose says what a snapshot is taken for.
type Purpose struct {
	Kind     requorumv1.SnapshotKind
	Prefix   string // of its name, where the request gives none
	Schedule string // that it is taken for; empty if none
	// Begin runs in the transaction that accepts the operation, and can refuse it; may be nil.
	Begin func(store.Tx, *requorumv1.Operation) error
}

// Save starts the operation that saves a snapshot which somebody asks for.
func (j *Jobs) Save(req *requorumv1.SaveSnapshotRequest, by string) (*requorumv1.Operation, error) {
	kind, prefix, err := askedKind(req.GetKind())
	if err != nil {
		return nil, err
	}
	return j.SaveFor(req, by, Purpose{Kind: kind, Prefix: prefix})
}

// SaveFor starts the operation that saves a snapshot for a purpose.
func (j *Jobs) SaveFor(req *requorumv1.SaveSnapshotRequest, by string, purpose Purpose) (*requorumv1.Operation, error) {
	if err := timetable.CheckTTL(req.GetTtl()); err != nil {
		return nil, &InvalidError{err.Error()}
	}
	if err := checkSetNames(req.GetFiles()); err != nil {
		return nil, err
	}
	digest, err := operation.Digest(req)
	if err != nil {
		return nil, err
	}
	if known, err := j.Engine.Repeated(req.GetRequestId(), requorumv1.OperationKind_OPERATION_KIND_SAVE, req.GetCluster(), digest); known != nil || err != nil {
		return known, err
	}
	if req.GetRemote() != "" && purpose.Schedule == "" { // what a schedule takes is not lost for it
		if _, err := j.Remotes.Get(req.GetRemote()); err != nil {
			return nil, err
		}
	}
	name, err := chosenName(req.GetName(), purpose.Prefix, req.GetCluster())
	if err != nil {
		return nil, err
	}
	rec, err := j.newRecord(requorumv1.OperationKind_OPERATION_KIND_SAVE, req.GetCluster(), name, req.GetRequestId(), by)
	if err != nil {
		return nil, err
	}
	if req.GetAllowDegraded() {
		rec.GetOperation().Nodes = j.connected(req.GetCluster(), rec.GetOperation().GetNodes())
	}
	rec.RequestDigest = digest
	sealed, err := j.sealingFor(req)
	if err != nil {
		return nil, err
	}
	job := &journalv1.SnapshotJob{
		Sealing: sealed, Save: req, Kind: purpose.Kind, Schedule: purpose.Schedule, WantedCopies: req.GetCopies(),
		Remote: req.GetRemote(), RemoteOptional: req.GetAllowRemoteFailure(),
	}
	if req.GetTtl() != nil {
		job.Expires = timestamppb.New(time.Now().Add(req.GetTtl().AsDuration()))
	}
	rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: job}
	return j.Engine.Start(rec, func(tx store.Tx, rec *journalv1.OperationRecord) error {
		if err := addEntry(purpose.Kind)(tx, rec); err != nil || purpose.Begin == nil {
			return err
		}
		return purpose.Begin(tx, rec.GetOperation())
	})
}

// askedKind returns the kind of a snapshot that somebody asks for, and how a name begins that it is given.
func askedKind(kind requorumv1.SnapshotKind) (requorumv1.SnapshotKind, string, error) {
	switch kind {
	case requorumv1.SnapshotKind_SNAPSHOT_KIND_UNSPECIFIED, requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND:
		return requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND, "on-demand", nil
	case requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE:
		return kind, "pre-upgrade", nil
	}
	return kind, "", &InvalidError{fmt.Sprintf("a snapshot of the kind %s cannot be asked for; use ON_DEMAND or PRE_UPGRADE", strings.TrimPrefix(kind.String(), "SNAPSHOT_KIND_"))}
}

// Upload starts the operation that stores a snapshot in a remote.
func (j *Jobs) Upload(req *requorumv1.UploadSnapshotRequest, by string) (*requorumv1.Operation, error) {
	kind := requorumv1.OperationKind_OPERATION_KIND_UPLOAD
	digest, err := operation.Digest(req)
	if err != nil {
		return nil, err
	}
	if known, err := j.Engine.Repeated(req.GetRequestId(), kind, req.GetCluster(), digest); known != nil || err != nil {
		return known, err
	}
	if _, err := j.Remotes.Get(req.GetRemote()); err != nil {
		return nil, err
	}
	return j.startOnExisting(kind, req.GetCluster(), req.GetName(), digest, &requorumv1.Operation{RequestId: req.GetRequestId(), RequestedBy: by}, &journalv1.SnapshotJob{Remote: req.GetRemote()}, nil)
}

// importFrom starts the operation that imports a snapshot from a remote.
func (j *Jobs) importFrom(ctx context.Context, req *requorumv1.ImportSnapshotRequest, by string) (*requorumv1.Operation, error) {
	kind := requorumv1.OperationKind_OPERATION_KIND_IMPORT
	identity := req.GetIdentity()
	req = redact.Message(req)
	digest, err := operation.Digest(req)
	if err != nil {
		return nil, err
	}
	if known, err := j.Engine.Repeated(req.GetRequestId(), kind, req.GetCluster(), digest); known != nil || err != nil {
		return known, err
	}
	finder := &Finder{Remotes: j.Remotes, Catalog: j.Catalog, Fleet: j.Fleet, Ask: j.Fleet}
	node, err := finder.Connected(ctx, req.GetCluster(), req.GetNode())
	if err != nil {
		return nil, err
	}
	snap, _, err := finder.Find(ctx, req.GetFrom(), req.GetCluster(), node)
	if err != nil {
		return nil, err
	}
	if req.GetName() != "" && req.GetName() != snap.GetName() {
		return nil, &InvalidError{fmt.Sprintf("a snapshot from a remote keeps its name, %s", snap.GetName())}
	}
	rec, err := j.newRecord(kind, req.GetCluster(), snap.GetName(), req.GetRequestId(), by)
	if err != nil {
		return nil, err
	}
	rec.RequestDigest = digest
	sealed, err := j.LocalStorage.Local()
	if err != nil {
		return nil, err
	}
	rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: &journalv1.SnapshotJob{
		Sealing: sealed,
		Import:  req, Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED, Node: node, Manifest: snap.GetManifest(), Remotes: snap.GetRemotes(),
	}}
	return j.Engine.Start(rec, func(tx store.Tx, rec *journalv1.OperationRecord) error {
		j.Identities.Put(rec.GetOperation().GetId(), identity)
		return addEntry(requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED)(tx, rec)
	})
}

// Import starts the operation that imports a file from a node, or from a remote.
func (j *Jobs) Import(ctx context.Context, req *requorumv1.ImportSnapshotRequest, by string) (*requorumv1.Operation, error) {
	if req.GetFrom() != "" {
		if req.GetPath() != "" {
			return nil, &InvalidError{"path and from exclude each other"}
		}
		return j.importFrom(ctx, req, by)
	}
	if !filepath.IsAbs(req.GetPath()) || filepath.Clean(req.GetPath()) != req.GetPath() {
		return nil, &InvalidError{fmt.Sprintf("path %q is not a clean absolute path on the node", req.GetPath())}
	}
	digest, err := operation.Digest(req)
	if err != nil {
		return nil, err
	}
	if known, err := j.Engine.Repeated(req.GetRequestId(), requorumv1.OperationKind_OPERATION_KIND_IMPORT, req.GetCluster(), digest); known != nil || err != nil {
		return known, err
	}
	name, err := chosenName(req.GetName(), "imported", req.GetCluster())
	if err != nil {
		return nil, err
	}
	rec, err := j.newRecord(requorumv1.OperationKind_OPERATION_KIND_IMPORT, req.GetCluster(), name, req.GetRequestId(), by)
	if err != nil {
		return nil, err
	}
	if err := j.knownNode(req.GetCluster(), req.GetNode(), rec.GetOperation().GetNodes()); err != nil {
		return nil, err
	}
	sealed, err := j.LocalStorage.Local()
	if err != nil {
		return nil, err
	}
	kind := requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED
	rec.RequestDigest = digest
	rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: &journalv1.SnapshotJob{Sealing: sealed, Import: req, Kind: kind, Node: req.GetNode()}}
	return j.Engine.Start(rec, addEntry(kind))
}

// Check starts the operation that compares the copies of a snapshot.
func (j *Jobs) Check(cluster, name, requestID, by string) (*requorumv1.Operation, error) {
	return j.onExisting(requorumv1.OperationKind_OPERATION_KIND_CHECK, cluster, name, requestID, by, &journalv1.SnapshotJob{}, "")
}

// Distribute starts the operation that gives every node a good copy.
func (j *Jobs) Distribute(cluster, name, requestID, by, identity string) (*requorumv1.Operation, error) {
	return j.onExisting(requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE, cluster, name, requestID, by, &journalv1.SnapshotJob{}, identity)
}

// Repair starts the operation that gives a snapshot as many good copies as it is to have, in remotes too.
func (j *Jobs) Repair(cluster, name, requestID, by, identity string) (*requorumv1.Operation, error) {
	return j.onExisting(requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE, cluster, name, requestID, by, &journalv1.SnapshotJob{Repair: true}, identity)
}

// Delete starts the operation that removes a snapshot.
func (j *Jobs) Delete(req *requorumv1.DeleteSnapshotRequest, by string) (*requorumv1.Operation, error) {
	switch {
	case req.GetName() == catalog.Latest:
		return nil, &InvalidError{"a snapshot is removed by its own name, not as \"latest\""}
	case req.GetKeepRemotes() && req.GetOnlyRemote() != "":
		return nil, &InvalidError{"keep_remotes and only_remote exclude each other"}
	case req.GetForce() && (req.GetKeepRemotes() || req.GetOnlyRemote() != ""):
		return nil, &InvalidError{"force is for a snapshot that goes from everywhere"}
	}
	job := &journalv1.SnapshotJob{Force: req.GetForce(), KeepRemotes: req.GetKeepRemotes(), OnlyRemote: req.GetOnlyRemote()}
	return j.onExisting(requorumv1.OperationKind_OPERATION_KIND_DELETE, req.GetCluster(), req.GetName(), req.GetRequestId(), by, job, "")
}

func (j *Jobs) onExisting(kind requorumv1.OperationKind, cluster, name, requestID, by string, job *journalv1.SnapshotJob, identity string) (*requorumv1.Operation, error) {
	digest, err := operation.Digest(&requorumv1.DeleteSnapshotRequest{
		Name: name, Force: job.GetForce(), KeepRemotes: job.GetKeepRemotes(), OnlyRemote: job.GetOnlyRemote(),
	})
	if err != nil {
		return nil, err
	}
	if job.GetRepair() {
		digest = "repair/" + digest
	}
	if known, err := j.Engine.Repeated(requestID, kind, cluster, digest); known != nil || err != nil {
		return known, err
	}
	return j.startOnExisting(kind, cluster, name, digest, &requorumv1.Operation{RequestId: requestID, RequestedBy: by}, job, func(_ store.Tx, rec *journalv1.OperationRecord) error {
		j.Identities.Put(rec.GetOperation().GetId(), identity)
		return nil
	})
}

// startOnExisting starts an operation on a snapshot of the catalog. asked has the request's ID and who asked.
func (j *Jobs) startOnExisting(kind requorumv1.OperationKind, cluster, name, digest string, asked *requorumv1.Operation, job *journalv1.SnapshotJob, begin func(store.Tx, *journalv1.OperationRecord) error) (*requorumv1.Operation, error) {
	snap, err := j.Catalog.Snapshot(cluster, name)
	if err != nil {
		return nil, err
	}
	if kind != requorumv1.OperationKind_OPERATION_KIND_DELETE && !catalog.Good(snap) {
		return nil, &InvalidError{fmt.Sprintf("snapshot %s is %s, not READY", snap.GetName(), StateName(snap.GetState()))}
	}
	if kind == requorumv1.OperationKind_OPERATION_KIND_CHECK && len(snap.GetCopies()) == 0 && len(snap.GetRemotes()) > 0 {
		return nil, &InvalidError{fmt.Sprintf("no node holds snapshot %s any more, remote %s does; requorum snapshot distribute %s brings it back to the nodes",
			snap.GetName(), snap.GetRemotes()[0].GetRemote(), snap.GetName())}
	}
	if job.GetRepair() && len(snap.GetCopies()) == 0 && len(snap.GetRemotes()) > 0 {
		return nil, &InvalidError{fmt.Sprintf("no node is to hold snapshot %s any more, so there is nothing to repair it from but remote %s; requorum snapshot distribute %s brings it back to the nodes first",
			snap.GetName(), snap.GetRemotes()[0].GetRemote(), snap.GetName())}
	}
	rec, err := j.newRecord(kind, cluster, snap.GetName(), asked.GetRequestId(), asked.GetRequestedBy())
	if err != nil {
		return nil, err
	}
	rec.RequestDigest = digest
	job.Kind, job.Manifest, job.Remotes = snap.GetKind(), snap.GetManifest(), snap.GetRemotes()
	if job.Sealing, err = j.LocalStorage.Local(); err != nil { // of what is fetched
		return nil, err
	}
	if job.GetRepair() {
		job.WantedCopies = snap.GetManifest().GetWantedCopies()
	}
	if kind == requorumv1.OperationKind_OPERATION_KIND_CHECK {
		job.Targets = keepers(snap, rec.GetOperation().GetNodes())
	}
	rec.State = &journalv1.OperationRecord_Snapshot{Snapshot: job}
	return j.Engine.Start(rec, begin)
}

// keepers returns the nodes that are to hold a snapshot which not every node holds; none if every node is to.
func keepers(snap *requorumv1.Snapshot, nodes []string) []string {
	if snap.GetManifest().GetWantedCopies() == 0 {
		return nil
	}
	var kept []string
	for _, c := range snap.GetCopies() {
		if slices.Contains(nodes, c.GetNode()) {
			kept = append(kept, c.GetNode())
		}
	}
	return kept
}

// newRecord returns the record of an operation on every enrolled node of a cluster.
func (j *Jobs) newRecord(kind requorumv1.OperationKind, cluster, name, requestID, by string) (*journalv1.OperationRecord, error) {
	if _, err := j.Catalog.Cluster(cluster); err != nil {
		return nil, err
	}
	nodes, err := j.Catalog.NodeNames(cluster)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, &InvalidError{fmt.Sprintf("cluster %s has no node; enrol its nodes first (requorum token create --cluster %s)", cluster, cluster)}
	}
	return &journalv1.OperationRecord{Operation: &requorumv1.Operation{
		Kind: kind, Cluster: cluster, Snapshot: name, Nodes: nodes, RequestId: requestID, RequestedBy: by,
	}}, nil
}

func (j *Jobs) knownNode(cluster, node string, nodes []string) error {
	for _, n := range nodes {
		if n == node {
			return nil
		}
	}
	return &catalog.NotFoundError{Message: fmt.Sprintf("cluster %s has no node %q; it has %s", cluster, node, strings.Join(nodes, ", "))}
}

// chosenName returns the name that a snapshot gets: the one asked for, or a new one.
func chosenName(name, prefix, cluster string) (string, error) {
	if name == catalog.Latest {
		return "", &InvalidError{"\"latest\" stands for the newest snapshot and cannot be the name of one"}
	}
	if name == "" {
		name = NewName(prefix, cluster)
	}
	return name, names.Check("snapshot", name)
}

// addEntry adds the snapshot that an operation makes to the catalog, in the transaction that accepts it.
func addEntry(kind requorumv1.SnapshotKind) func(store.Tx, *journalv1.OperationRecord) error {
	return func(tx store.Tx, rec *journalv1.OperationRecord) error {
		op, job := rec.GetOperation(), rec.GetSnapshot()
		return catalog.Add(tx, &requorumv1.Snapshot{
			Name: op.GetSnapshot(), Cluster: op.GetCluster(), OperationId: op.GetId(), Kind: kind,
			Schedule: job.GetSchedule(), Expires: job.GetExpires(),
			State: requorumv1.SnapshotState_SNAPSHOT_STATE_CREATING, Created: timestamppb.New(time.Now()),
		})
	}
}

// forgetIdentity forgets what opens encrypted copies.
func (j *Jobs) forgetIdentity(_ store.Tx, rec *journalv1.OperationRecord) error {
	j.Identities.Forget(rec.GetOperation().GetId())
	return nil
}

// ended notes in the catalog that a snapshot could not be made. Of one that was refused there is nothing.
func (j *Jobs) ended(tx store.Tx, rec *journalv1.OperationRecord) error {
	op := rec.GetOperation()
	j.Identities.Forget(op.GetId())
	switch op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_SUCCEEDED:
		return nil
	case requorumv1.OperationState_OPERATION_STATE_REFUSED:
		return catalog.Remove(tx, op.GetCluster(), op.GetSnapshot())
	}
	err := catalog.Update(tx, op.GetCluster(), op.GetSnapshot(), func(s *requorumv1.Snapshot) {
		s.State, s.Error = requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED, op.GetFailure().GetMessage()
	})
	if err != nil {
		return err
	}
	return catalog.ForgetFailed(tx, op.GetCluster())
}

// StateName returns a state as people read it.
func StateName(s requorumv1.SnapshotState) string {
	return strings.TrimPrefix(s.String(), "SNAPSHOT_STATE_")
}
