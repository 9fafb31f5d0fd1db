package cli

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/grpcserver"
	"github.com/requorum/requorum/internal/pki"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is now in every test.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(-d)) }

const (
	opID      = "01JB2M3N4P5Q6R7S8T9V0W1X2Y"
	requestID = "01JREQ00000000000000000000"
)

// fake is a controller that answers what a test tells it to, over the same TLS as the real one.
type fake struct {
	requorumv1.UnimplementedClusterServiceServer
	requorumv1.UnimplementedSnapshotServiceServer
	requorumv1.UnimplementedRestoreServiceServer
	requorumv1.UnimplementedOperationServiceServer
	requorumv1.UnimplementedAccessServiceServer
	requorumv1.UnimplementedRemoteServiceServer
	requorumv1.UnimplementedScheduleServiceServer
	requorumv1.UnimplementedAuditServiceServer

	authority *pki.Authority
	address   string
	config    string // client configuration file

	clusters  []*requorumv1.Cluster
	snapshots []*requorumv1.Snapshot
	op        *requorumv1.Operation // what every operation is
	plan      *requorumv1.RestorePlan
	refuse    error // what changing calls answer
	watch     func(grpc.ServerStreamingServer[requorumv1.WatchOperationResponse]) error
	export    func(grpc.ServerStreamingServer[requorumv1.ExportSnapshotResponse]) error

	listRemote func() // called before what a remote holds is listed
	mu         sync.Mutex
	requests   []proto.Message
	changed    func(req proto.Message) error // what a changing call does; nil for nothing
	failures   int                           // so many changing calls answer Unavailable first
	remotes    []*requorumv1.Remote
	held       map[string]*requorumv1.Manifest // what every remote holds besides
	unseen     []error                         // why the next looks into a remote fail, one each
	refusals   []error                         // what the next changing calls answer, one each; then as refuse says
}

func newFake(t *testing.T) *fake {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.LoadOrCreateAuthority(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{authority: authority, clusters: []*requorumv1.Cluster{prod()}, snapshots: snapshots(), plan: goodPlan(), remotes: remotes()}
	f.op = succeeded(requorumv1.OperationKind_OPERATION_KIND_SAVE)
	f.listen(t)
	f.config = filepath.Join(dir, "requorum.yaml")
	f.admit(t, dir)
	return f
}

func (f *fake) listen(t *testing.T) {
	t.Helper()
	creds := f.credentials(t, pki.ControllerIdentity())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(pki.ServerTLS(creds))))
	requorumv1.RegisterClusterServiceServer(server, f)
	requorumv1.RegisterSnapshotServiceServer(server, f)
	requorumv1.RegisterRestoreServiceServer(server, f)
	requorumv1.RegisterOperationServiceServer(server, f)
	requorumv1.RegisterAccessServiceServer(server, f)
	requorumv1.RegisterRemoteServiceServer(server, f)
	requorumv1.RegisterScheduleServiceServer(server, f)
	requorumv1.RegisterAuditServiceServer(server, f)
	f.address = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- grpcserver.Serve(server, listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// issue makes a key and a certificate, PEM.
func (f *fake) issue(t *testing.T, id pki.Identity) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if certPEM, err = f.authority.Issue(key.Public(), id, time.Hour, []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	if keyPEM, err = pki.KeyPEM(key); err != nil {
		t.Fatal(err)
	}
	return certPEM, keyPEM
}

func (f *fake) credentials(t *testing.T, id pki.Identity) *pki.Credentials {
	t.Helper()
	certPEM, keyPEM := f.issue(t, id)
	creds, err := pki.NewCredentials(certPEM, keyPEM, f.authority.CAPEM())
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

// admit writes an operator's configuration to dir.
func (f *fake) admit(t *testing.T, dir string) {
	t.Helper()
	certPEM, keyPEM := f.issue(t, pki.OperatorIdentity(requorumv1.Role_ROLE_ADMIN, "alice"))
	for name, content := range map[string][]byte{
		"ca.crt": f.authority.CAPEM(), "client.crt": certPEM, "client.key": keyPEM,
		"requorum.yaml": []byte("controller: " + f.address + "\nca: ca.crt\ncert: client.crt\nkey: client.key\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// ran is what a command did.
type ran struct {
	out, err string
	code     int
}

// surroundings are a test's program and what it writes.
type surroundings struct {
	*program
	out, err bytes.Buffer
}

func inTest() *surroundings {
	s := &surroundings{}
	s.program = &program{
		version: "v1.2.3", in: strings.NewReader(""), out: &s.out, err: &s.err,
		now:      func() time.Time { return noon },
		newID:    func() string { return requestID },
		asks:     func() bool { return false },
		forget:   func() error { return nil },
		terminal: func() (live.Terminal, bool) { return live.Terminal{}, false },
		notices:  func() (live.Terminal, bool) { return live.Terminal{}, false },
		pace:     live.Pace{Tick: 5 * time.Millisecond, Quiet: 10 * time.Second, Lost: 5 * time.Second, Retry: 5 * time.Millisecond},
		patience: time.Second, stall: 5 * time.Second, slow: time.Minute,
		settings: settings{format: output.Table},
	}
	return s
}

// onTerminal makes the program believe that a person sits before 80 columns and types what is in answer.
func (s *surroundings) onTerminal(answer string) *surroundings {
	s.in = strings.NewReader(answer)
	s.asks = func() bool { return true }
	s.terminal = func() (live.Terminal, bool) {
		return live.Terminal{Size: func() (int, int) { return 80, 24 }}, true
	}
	s.notices = s.terminal
	return s
}

func (s *surroundings) command(ctx context.Context, f *fake, args ...string) ran {
	if f != nil {
		args = append([]string{"--config", f.config}, args...)
	}
	code := s.run(ctx, args)
	return ran{s.out.String(), s.err.String(), code}
}

func (f *fake) command(t *testing.T, args ...string) ran {
	t.Helper()
	return inTest().command(t.Context(), f, args...)
}

// golden compares what a command did with a golden file.
func golden(t *testing.T, f *fake, name, shown string, r ran) {
	t.Helper()
	text := fmt.Sprintf("$ requorum %s\n%s--- stderr\n%s--- exit %d\n", shown, r.out, r.err, r.code)
	if f != nil {
		text = strings.NewReplacer(f.address, "CONTROLLER", filepath.Dir(f.config), "DIR").Replace(text)
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", path, text, want)
	}
}

func (f *fake) take(req proto.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, proto.Clone(req))
}

// got returns the requests of changing calls.
func (f *fake) got() []proto.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

func (f *fake) accept(req proto.Message) error {
	f.take(req)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failures > 0 {
		f.failures--
		return status.Error(codes.Unavailable, "the controller is starting")
	}
	if len(f.refusals) > 0 {
		next := f.refusals[0]
		f.refusals = f.refusals[1:]
		return next
	}
	if f.changed != nil {
		return f.changed(req)
	}
	return f.refuse
}

func (f *fake) ListClusters(context.Context, *requorumv1.ListClustersRequest) (*requorumv1.ListClustersResponse, error) {
	return &requorumv1.ListClustersResponse{Clusters: f.clusters}, nil
}

func (f *fake) GetCluster(_ context.Context, req *requorumv1.GetClusterRequest) (*requorumv1.GetClusterResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clusters {
		if c.GetName() == req.GetCluster() {
			return &requorumv1.GetClusterResponse{Cluster: c}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "there is no cluster %s", req.GetCluster())
}

func (f *fake) RemoveNode(_ context.Context, req *requorumv1.RemoveNodeRequest) (*requorumv1.RemoveNodeResponse, error) {
	return &requorumv1.RemoveNodeResponse{}, f.accept(req)
}

func (f *fake) ListSnapshots(_ context.Context, req *requorumv1.ListSnapshotsRequest) (*requorumv1.ListSnapshotsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &requorumv1.ListSnapshotsResponse{Snapshots: f.snapshots}, nil
}

func (f *fake) GetSnapshot(_ context.Context, req *requorumv1.GetSnapshotRequest) (*requorumv1.GetSnapshotResponse, error) {
	for _, s := range f.snapshots {
		if s.GetName() == req.GetName() || req.GetName() == "latest" {
			return &requorumv1.GetSnapshotResponse{Snapshot: s}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "cluster %s has no snapshot %s", req.GetCluster(), req.GetName())
}

func (f *fake) SaveSnapshot(_ context.Context, req *requorumv1.SaveSnapshotRequest) (*requorumv1.SaveSnapshotResponse, error) {
	return &requorumv1.SaveSnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) CheckSnapshot(_ context.Context, req *requorumv1.CheckSnapshotRequest) (*requorumv1.CheckSnapshotResponse, error) {
	return &requorumv1.CheckSnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) VerifySnapshot(_ context.Context, req *requorumv1.VerifySnapshotRequest) (*requorumv1.VerifySnapshotResponse, error) {
	return &requorumv1.VerifySnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) RehearseRestore(_ context.Context, req *requorumv1.RehearseRestoreRequest) (*requorumv1.RehearseRestoreResponse, error) {
	return &requorumv1.RehearseRestoreResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) DistributeSnapshot(_ context.Context, req *requorumv1.DistributeSnapshotRequest) (*requorumv1.DistributeSnapshotResponse, error) {
	return &requorumv1.DistributeSnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) DeleteSnapshot(_ context.Context, req *requorumv1.DeleteSnapshotRequest) (*requorumv1.DeleteSnapshotResponse, error) {
	return &requorumv1.DeleteSnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) ImportSnapshot(_ context.Context, req *requorumv1.ImportSnapshotRequest) (*requorumv1.ImportSnapshotResponse, error) {
	return &requorumv1.ImportSnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) UploadSnapshot(_ context.Context, req *requorumv1.UploadSnapshotRequest) (*requorumv1.UploadSnapshotResponse, error) {
	return &requorumv1.UploadSnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) ExportSnapshot(_ *requorumv1.ExportSnapshotRequest, stream grpc.ServerStreamingServer[requorumv1.ExportSnapshotResponse]) error {
	return f.export(stream)
}

func (f *fake) PlanRestore(context.Context, *requorumv1.PlanRestoreRequest) (*requorumv1.PlanRestoreResponse, error) {
	return &requorumv1.PlanRestoreResponse{Plan: f.plan}, nil
}

func (f *fake) StartRestore(_ context.Context, req *requorumv1.StartRestoreRequest) (*requorumv1.StartRestoreResponse, error) {
	return &requorumv1.StartRestoreResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) ListEntries(_ context.Context, req *requorumv1.ListEntriesRequest) (*requorumv1.ListEntriesResponse, error) {
	f.take(req)
	if req.GetPageToken() == "" { // two pages
		return &requorumv1.ListEntriesResponse{Entries: audited()[:2], NextPageToken: audited()[1].GetId()}, nil
	}
	return &requorumv1.ListEntriesResponse{Entries: audited()[2:]}, nil
}

func (f *fake) ListOperations(context.Context, *requorumv1.ListOperationsRequest) (*requorumv1.ListOperationsResponse, error) {
	return &requorumv1.ListOperationsResponse{Operations: []*requorumv1.Operation{f.op}}, nil
}

func (f *fake) GetOperation(_ context.Context, req *requorumv1.GetOperationRequest) (*requorumv1.GetOperationResponse, error) {
	if req.GetId() != f.op.GetId() {
		return nil, status.Errorf(codes.NotFound, "there is no operation %s", req.GetId())
	}
	return &requorumv1.GetOperationResponse{Operation: f.op}, nil
}

func (f *fake) WatchOperation(req *requorumv1.WatchOperationRequest, stream grpc.ServerStreamingServer[requorumv1.WatchOperationResponse]) error {
	if req.GetId() != f.op.GetId() {
		return status.Errorf(codes.NotFound, "there is no operation %s", req.GetId())
	}
	if f.watch != nil {
		return f.watch(stream)
	}
	return stream.Send(whole(f.op))
}

func (f *fake) CancelOperation(_ context.Context, req *requorumv1.CancelOperationRequest) (*requorumv1.CancelOperationResponse, error) {
	op := proto.CloneOf(f.op)
	op.State, op.Phase, op.CancelRequested = requorumv1.OperationState_OPERATION_STATE_REVERTING, requorumv1.Phase_PHASE_REVERTING, true
	return &requorumv1.CancelOperationResponse{Operation: op}, f.accept(req)
}

func (f *fake) CreateToken(_ context.Context, req *requorumv1.CreateTokenRequest) (*requorumv1.CreateTokenResponse, error) {
	return &requorumv1.CreateTokenResponse{Token: "requorum-token-1", Expires: timestamppb.New(noon.Add(time.Hour))}, f.accept(req)
}

func (f *fake) IssueOperatorCertificate(_ context.Context, req *requorumv1.IssueOperatorCertificateRequest) (*requorumv1.IssueOperatorCertificateResponse, error) {
	f.take(req)
	if f.refuse != nil {
		return nil, f.refuse
	}
	public, err := pki.PublicKeyFromCSR(req.GetCsr())
	if err != nil {
		return nil, err
	}
	cert, err := f.authority.Issue(public, pki.OperatorIdentity(req.GetRole(), req.GetName()), time.Hour, nil)
	return &requorumv1.IssueOperatorCertificateResponse{Certificate: cert, Ca: f.authority.CAPEM()}, err
}

func (f *fake) ListOperatorCertificates(context.Context, *requorumv1.ListOperatorCertificatesRequest) (*requorumv1.ListOperatorCertificatesResponse, error) {
	return &requorumv1.ListOperatorCertificatesResponse{Certificates: []*requorumv1.OperatorCertificate{
		{Serial: "1a", Name: "alice", Role: requorumv1.Role_ROLE_ADMIN, Issued: before(time.Hour), Expires: timestamppb.New(noon.Add(time.Hour)), IssuedBy: "the controller"},
		{Serial: "2b", Name: "bob", Role: requorumv1.Role_ROLE_VIEWER, Issued: before(2 * time.Hour), Expires: timestamppb.New(noon.Add(time.Hour)), Revoked: before(time.Minute), RevokedBy: "alice"},
	}}, f.refuse
}

func (f *fake) RevokeOperatorCertificate(_ context.Context, req *requorumv1.RevokeOperatorCertificateRequest) (*requorumv1.RevokeOperatorCertificateResponse, error) {
	f.take(req)
	return &requorumv1.RevokeOperatorCertificateResponse{Certificate: &requorumv1.OperatorCertificate{Serial: req.GetSerial(), Name: "bob"}}, f.refuse
}

func whole(op *requorumv1.Operation) *requorumv1.WatchOperationResponse {
	return &requorumv1.WatchOperationResponse{Event: &requorumv1.WatchOperationResponse_Operation{Operation: op}}
}

func prod() *requorumv1.Cluster {
	node := func(name, id string, connected bool) *requorumv1.Node {
		return &requorumv1.Node{
			Name: name, Connected: connected, LastSeen: before(3 * time.Second), AgentVersion: "v1.2.3", Runtime: "process", Generation: 2,
			DataFreeBytes: 31 << 30, VaultFreeBytes: 40 << 30,
			Member: &requorumv1.Member{Id: id, Name: name, Serving: true, Leader: "8e9e05c52164694d", Revision: 4813208, Version: "3.6.5", DbSize: 1288490189},
		}
	}
	down := node("etcd-3", "", false)
	down.LastSeen = before(7 * time.Minute)
	down.Member = &requorumv1.Member{Name: "etcd-3", Error: "connection refused"}
	return &requorumv1.Cluster{
		Name: "prod", Generation: 2, LatestSnapshot: "pre-1.31", LatestSnapshotTime: before(41 * time.Minute),
		Nodes:    []*requorumv1.Node{node("etcd-1", "8e9e05c52164694d", true), node("etcd-2", "91bc3c398fb3c146", true), down},
		Problems: []string{"etcd-3: no word of the agent for 7m"},
	}
}

// content is the file of the snapshot pre-1.31.
var content = bytes.Repeat([]byte("etcd snapshot "), 20000)

func manifest() *requorumv1.Manifest {
	md, sha := md5.Sum(content), sha256.Sum256(content)
	return &requorumv1.Manifest{
		FormatVersion: 1, Name: "pre-1.31", Cluster: "prod", Node: "etcd-3", Created: before(41 * time.Minute),
		Size: int64(len(content)), Md5: hex.EncodeToString(md[:]), Sha256: hex.EncodeToString(sha[:]), HasTrailer: true,
		Revision: 4812004, CompactRevision: 4800000, Keys: 120345, HashKv: 123456789, EtcdVersion: "3.6.5", StorageVersion: "3.6",
		ClusterId: "cdf818194e3a8c32", Members: []*requorumv1.ListedMember{{Name: "etcd-1"}, {Name: "etcd-2"}, {Name: "etcd-3"}},
		AuthEnabled: true, Labels: map[string]string{"ticket": "4711", "by": "alice"},
	}
}

func snapshots() []*requorumv1.Snapshot {
	m := manifest()
	copied := func(node string) *requorumv1.Copy {
		return &requorumv1.Copy{Node: node, State: requorumv1.CopyState_COPY_STATE_GOOD, Size: m.GetSize(), Md5: m.GetMd5(), Sha256: m.GetSha256(), Checked: before(40 * time.Minute), Path: "/var/lib/requorum/vault/pre-1.31.db"}
	}
	missing := &requorumv1.Copy{Node: "etcd-3", State: requorumv1.CopyState_COPY_STATE_MISSING, Checked: before(40 * time.Minute), Detail: "no such file"}
	return []*requorumv1.Snapshot{
		{
			Name: "pre-1.31", Cluster: "prod", State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND, Created: before(41 * time.Minute), Manifest: m, Copies: []*requorumv1.Copy{copied("etcd-1"), copied("etcd-2"), missing}, OperationId: opID,
			Verified: &requorumv1.Verification{Time: before(5 * time.Minute), Node: "etcd-2", OperationId: opID, Took: durationpb.New(12300 * time.Millisecond)},
			Remotes:  []*requorumv1.RemoteCopy{{Remote: "off-site", State: requorumv1.CopyState_COPY_STATE_GOOD, Checked: before(40 * time.Minute), Object: storedObject()}},
		},
		{Name: "broken", Cluster: "prod", State: requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED, Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_POST_RESTORE, Created: before(50 * time.Hour), Error: "etcd-2: disk full"},
	}
}

func storedObject() *requorumv1.StoredObject {
	return &requorumv1.StoredObject{Key: "etcd/prod/pre-1.31-5f1c09aa.db.zst.age", Size: 200 << 20, Sha256: strings.Repeat("ab", 32), ZstdLevel: 3, Recipients: []string{"age1abc"}}
}

func (f *fake) ListRemotes(context.Context, *requorumv1.ListRemotesRequest) (*requorumv1.ListRemotesResponse, error) {
	return &requorumv1.ListRemotesResponse{Remotes: f.remotes}, nil
}

func remotes() []*requorumv1.Remote {
	return []*requorumv1.Remote{
		{Name: "off-site", Kind: "s3", Where: "bucket backups at s3.example.org", Folder: "etcd", ZstdLevel: 3, Recipients: []string{"age1abc"}},
		{Name: "nfs", Kind: "dir", Where: "directory /mnt/backups"},
	}
}

func (f *fake) ListRemoteSnapshots(_ context.Context, req *requorumv1.ListRemoteSnapshotsRequest) (*requorumv1.ListRemoteSnapshotsResponse, error) {
	if f.listRemote != nil {
		f.listRemote()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.unseen) > 0 {
		why := f.unseen[0]
		f.unseen = f.unseen[1:]
		return nil, why
	}
	m := manifest()
	m.Stored = storedObject()
	return &requorumv1.ListRemoteSnapshotsResponse{
		Manifests: append(slices.Collect(maps.Values(f.held)), m), Orphans: []string{"etcd/prod/half.db.zst"}, Problems: []string{"etcd/prod/x.json: decode manifest: its digest does not fit"},
	}, nil
}

func succeeded(kind requorumv1.OperationKind) *requorumv1.Operation {
	task := func(step, node string) *requorumv1.TaskProgress {
		return &requorumv1.TaskProgress{Step: step, Node: node, State: requorumv1.StepState_STEP_STATE_DONE, DoneBytes: 1 << 30, TotalBytes: 1 << 30}
	}
	return &requorumv1.Operation{
		Id: opID, Kind: kind, Cluster: "prod", Snapshot: "pre-1.31",
		State: requorumv1.OperationState_OPERATION_STATE_SUCCEEDED, Phase: requorumv1.Phase_PHASE_FINISHED,
		RequestedBy: "alice", RequestId: requestID, Created: before(30 * time.Second), Ended: before(18 * time.Second),
		Nodes: []string{"etcd-1", "etcd-2", "etcd-3"},
		Steps: []*requorumv1.Step{
			{Name: "check", State: requorumv1.StepState_STEP_STATE_DONE, Attempt: 1, Started: before(30 * time.Second), Ended: before(29 * time.Second)},
			{
				Name: "distribute", State: requorumv1.StepState_STEP_STATE_DONE, Attempt: 1, Started: before(29 * time.Second), Ended: before(18 * time.Second),
				Tasks: []*requorumv1.TaskProgress{task("distribute", "etcd-1"), task("distribute", "etcd-2")},
			},
		},
		Warnings: []string{"etcd-3 was not reached and holds no copy"},
	}
}

func rehearsed() *requorumv1.Operation {
	op := succeeded(requorumv1.OperationKind_OPERATION_KIND_REHEARSE)
	op.Warnings, op.EstimatedUnavailability = nil, durationpb.New(3500*time.Millisecond)
	step := func(name string, began, ended time.Duration) *requorumv1.Step {
		return &requorumv1.Step{Name: name, State: requorumv1.StepState_STEP_STATE_DONE, Attempt: 1, Started: before(began), Ended: before(ended)}
	}
	op.Steps = []*requorumv1.Step{
		step("preflight", 30*time.Second, 29*time.Second), step("distribute", 29*time.Second, 29*time.Second), step("agree", 29*time.Second, 28*time.Second),
		step("stage", 28*time.Second, 19*time.Second), step("unstage", 19*time.Second, 18*time.Second),
	}
	return op
}

func restored() *requorumv1.Operation {
	op := succeeded(requorumv1.OperationKind_OPERATION_KIND_RESTORE)
	op.Warnings = nil
	op.Unavailability = durationpb.New(2750 * time.Millisecond)
	op.SafetySnapshot = "safety-prod-20260304T115930Z"
	for _, node := range op.GetNodes() {
		op.Quarantines = append(op.Quarantines, &requorumv1.Quarantine{Node: node, Paths: []string{"/var/lib/etcd.quarantine-" + opID}, Expires: timestamppb.New(noon.Add(72 * time.Hour))})
	}
	return op
}

func failed(state requorumv1.OperationState, attention string) *requorumv1.Operation {
	op := succeeded(requorumv1.OperationKind_OPERATION_KIND_RESTORE)
	op.State, op.Attention, op.Warnings = state, attention, nil
	if attention != "" {
		op.Ended = nil
	}
	op.Failure = &requorumv1.Failure{Step: "stage", Node: "etcd-2", Message: "3.1 GiB free on /var/lib/etcd, 4.6 GiB needed", Advice: "free space there, then run it again"}
	return op
}

func goodPlan() *requorumv1.RestorePlan {
	passed := func(name, message string) *requorumv1.Check {
		return &requorumv1.Check{Name: name, State: requorumv1.CheckState_CHECK_STATE_PASSED, Message: message}
	}
	plan := &requorumv1.RestorePlan{
		Spec:     &requorumv1.RestoreSpec{Cluster: "prod", Snapshot: "pre-1.31", Quarantine: durationpb.New(72 * time.Hour), BumpRevision: 1e9},
		Snapshot: snapshots()[0],
		Checks: []*requorumv1.Check{
			passed("nodes", "3 of 3 nodes connected"), passed("version", "etcd 3.6.5, same minor as saved"),
			passed("copies", "copies agree on all nodes"),
			passed("space", "4.6 GiB needed, 31 GiB free on the fullest"),
			{Name: "age", State: requorumv1.CheckState_CHECK_STATE_WARNING, Message: "1 204 revisions newer than the snapshot will be gone", Advice: "they are kept in a safety snapshot"},
		},
		EstimatedDowntime: durationpb.New(4 * time.Second), Revision: 1004812004,
	}
	for _, node := range []string{"etcd-1", "etcd-2", "etcd-3"} {
		plan.Nodes = append(plan.Nodes, &requorumv1.NodePlan{
			Node: node, Member: node, DataDir: "/var/lib/etcd", Stops: []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"},
			QuarantinePaths: []string{"/var/lib/etcd.quarantine-01J"}, NeededBytes: 4939212390, FreeBytes: 31 << 30,
		})
	}
	plan.Nodes[1].FreeBytes = 20 << 30
	return plan
}

func refusedPlan() *requorumv1.RestorePlan {
	plan := goodPlan()
	plan.Refused = true
	plan.Checks = append(plan.Checks[:3:3], &requorumv1.Check{
		Name: "space", Node: "etcd-2", State: requorumv1.CheckState_CHECK_STATE_FAILED,
		Message: "3.1 GiB free on /var/lib/etcd, 4.6 GiB needed", Advice: "free space there, or keep fewer local snapshots, then run it again",
	})
	return plan
}
