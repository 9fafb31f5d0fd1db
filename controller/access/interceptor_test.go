package access_test

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/grpcserver"
	"github.com/requorum/requorum/internal/pki"
)

// callers of a real server, from the one who has nothing to the one who may do everything.
var callers = []string{"stranger", "controller", "node", "viewer", "operator", "admin"}

// mayCall says, for every method of every service, who gets past the interceptors.
var mayCall = map[string]string{
	"requorum.v1.ClusterService/ListClusters":                       "viewer operator admin",
	"requorum.v1.ClusterService/GetCluster":                         "viewer operator admin",
	"requorum.v1.ClusterService/RemoveNode":                         "admin",
	"requorum.v1.SnapshotService/SaveSnapshot":                      "operator admin",
	"requorum.v1.SnapshotService/ListSnapshots":                     "viewer operator admin",
	"requorum.v1.SnapshotService/GetSnapshot":                       "viewer operator admin",
	"requorum.v1.SnapshotService/CheckSnapshot":                     "operator admin",
	"requorum.v1.SnapshotService/DistributeSnapshot":                "operator admin",
	"requorum.v1.SnapshotService/DeleteSnapshot":                    "admin",
	"requorum.v1.SnapshotService/ImportSnapshot":                    "operator admin",
	"requorum.v1.SnapshotService/UploadSnapshot":                    "operator admin",
	"requorum.v1.RemoteService/ListRemotes":                         "viewer operator admin",
	"requorum.v1.RemoteService/ListRemoteSnapshots":                 "viewer operator admin",
	"requorum.v1.SnapshotService/ExportSnapshot":                    "operator admin",
	"requorum.v1.SnapshotService/RepairSnapshot":                    "operator admin",
	"requorum.v1.SnapshotService/PlanPrune":                         "viewer operator admin",
	"requorum.v1.SnapshotService/PlanRebuild":                       "viewer operator admin",
	"requorum.v1.SnapshotService/ListOrphans":                       "viewer operator admin",
	"requorum.v1.SnapshotService/RebuildCatalog":                    "operator admin",
	"requorum.v1.ScheduleService/ApplySchedule":                     "admin",
	"requorum.v1.ScheduleService/DeleteSchedule":                    "admin",
	"requorum.v1.ScheduleService/ListSchedules":                     "viewer operator admin",
	"requorum.v1.ScheduleService/GetSchedule":                       "viewer operator admin",
	"requorum.v1.ScheduleService/ListScheduleRuns":                  "viewer operator admin",
	"requorum.v1.ScheduleService/PauseSchedule":                     "operator admin",
	"requorum.v1.ScheduleService/ResumeSchedule":                    "operator admin",
	"requorum.v1.ScheduleService/TriggerSchedule":                   "operator admin",
	"requorum.v1.OperationService/ListOperations":                   "viewer operator admin",
	"requorum.v1.OperationService/GetOperation":                     "viewer operator admin",
	"requorum.v1.OperationService/WatchOperation":                   "viewer operator admin",
	"requorum.v1.OperationService/WaitOperation":                    "viewer operator admin",
	"requorum.v1.OperationService/CancelOperation":                  "operator admin",
	"requorum.v1.RestoreService/PlanRestore":                        "viewer operator admin",
	"requorum.v1.RestoreService/StartRestore":                       "operator admin",
	"requorum.v1.RestoreService/RehearseRestore":                    "operator admin",
	"requorum.v1.SnapshotService/VerifySnapshot":                    "operator admin",
	"requorum.v1.AccessService/CreateToken":                         "admin",
	"requorum.v1.AccessService/IssueOperatorCertificate":            "admin",
	"requorum.v1.AccessService/ListOperatorCertificates":            "admin",
	"requorum.v1.AccessService/RevokeOperatorCertificate":           "admin",
	"requorum.v1.AuditService/ListEntries":                          "admin",
	"requorum.agent.v1.EnrollService/Enroll":                        "stranger controller node viewer operator admin",
	"requorum.agent.v1.EnrollService/Renew":                         "node",
	"requorum.agent.v1.SessionService/OpenSession":                  "node",
	"requorum.agent.v1.SessionService/Heartbeat":                    "node",
	"requorum.agent.v1.SessionService/ReportTask":                   "node",
	"requorum.agent.v1.SessionService/PushCopy":                     "node",
	"requorum.agent.v1.SessionService/RenewRemote":                  "node",
	"requorum.agent.v1.TransferService/Fetch":                       "",
	"grpc.health.v1.Health/Check":                                   "stranger controller node viewer operator admin",
	"grpc.health.v1.Health/List":                                    "stranger controller node viewer operator admin",
	"grpc.health.v1.Health/Watch":                                   "stranger controller node viewer operator admin",
	"grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      "viewer operator admin",
	"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "viewer operator admin",
}

func TestEveryMethodOfEveryServiceIsInTheTable(t *testing.T) {
	found := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "requorum.") {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				found++
				name := string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				if _, ok := mayCall[name]; !ok {
					t.Errorf("nobody has said who may call %s", name)
				}
			}
		}
		return true
	})
	if found < 20 {
		t.Fatalf("only %d methods found", found)
	}
}

func TestWhoMayCallWhat(t *testing.T) {
	s := startServer(t)
	conns := map[string]*grpc.ClientConn{}
	for _, caller := range callers {
		conns[caller] = s.dial(s.credentials(caller))
	}
	for method, allowed := range mayCall {
		for _, caller := range callers {
			got, want := call(t, conns[caller], method), "let through"
			switch {
			case slices.Contains(strings.Fields(allowed), caller):
			case caller == "stranger":
				want = codes.Unauthenticated.String()
			default:
				want = codes.PermissionDenied.String()
			}
			if verdict(got) != want {
				t.Errorf("%s calls %s: %s, want %s", caller, method, got, want)
			}
		}
	}
}

// verdict tells a call that reached its handler, most of which have nothing to say to an empty message,
// from one that did not.
func verdict(code codes.Code) string {
	if code == codes.OK || code == codes.Unimplemented || code == codes.InvalidArgument {
		return "let through"
	}
	return code.String()
}

func TestMethodThatIsNotInTheTableIsRefused(t *testing.T) {
	s := startServer(t)
	conn := s.dial(s.credentials("admin"))
	if got := call(t, conn, "requorum.test.Forgotten/Call"); got != codes.PermissionDenied {
		t.Errorf("%s", got)
	}
}

func TestPlainTextIsNobody(t *testing.T) {
	s := startServer(t)
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got := call(t, conn, "requorum.v1.ClusterService/ListClusters"); got != codes.Unavailable {
		t.Errorf("%s", got)
	}
}

func TestRefusedCallsAreLogged(t *testing.T) {
	s := startServer(t)
	conn := s.dial(s.credentials("viewer"))
	call(t, conn, "requorum.v1.ClusterService/RemoveNode")
	s.stop()
	for _, want := range []string{"call refused", "operator viewer-1 (viewer)", "/requorum.v1.ClusterService/RemoveNode", "127.0.0.1:"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("%q is not in the log: %s", want, s.log.String())
		}
	}
}

func TestCertificateThatExpiresWhileConnected(t *testing.T) {
	s := startServer(t)
	for _, caller := range []string{"admin", "node"} {
		conn := s.dial(s.credentials(caller))
		method := map[string]string{"admin": "requorum.v1.ClusterService/ListClusters", "node": "requorum.agent.v1.SessionService/Heartbeat"}[caller]
		if got := verdict(call(t, conn, method)); got != "let through" {
			t.Fatalf("%s before: %s", caller, got)
		}
		s.advance(2000 * 24 * time.Hour)
		if got := call(t, conn, method); got != codes.Unauthenticated {
			t.Errorf("%s after: %s", caller, got)
		}
		s.advance(-2000 * 24 * time.Hour)
	}
}

func TestRemovedNodeIsCutOffInMidStream(t *testing.T) {
	s := startServer(t)
	conn := s.dial(s.credentials("node"))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := agentv1.NewSessionServiceClient(conn).ReportTask(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&agentv1.ReportTaskRequest{}); err != nil {
		t.Fatal(err)
	}
	<-s.received
	if err := s.RemoveNode(context.Background(), "prod", "etcd-1"); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&agentv1.ReportTaskRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&agentv1.ReportTaskResponse{}); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "requorum token create") {
		t.Errorf("stream: %v", err)
	}
	if got := call(t, conn, "requorum.agent.v1.SessionService/Heartbeat"); got != codes.Unauthenticated {
		t.Errorf("call: %s", got)
	}
}

func TestFirstCallWithARenewedCertificateCutsOffTheOldOne(t *testing.T) {
	s := startServer(t)
	const heartbeat = "requorum.agent.v1.SessionService/Heartbeat"
	creds := s.credentials("node")
	old := s.dial(creds)
	if got := call(t, old, heartbeat); got != codes.OK {
		t.Fatal(got)
	}
	key := newKey(t)
	certPEM, caPEM, err := s.Renew(context.Background(), creds.Identity(), creds.Certificate(), csr(t, key))
	if err != nil {
		t.Fatal(err)
	}
	if got := call(t, old, heartbeat); got != codes.OK {
		t.Fatalf("the old one before the new one is used: %s", got)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := creds.Replace(certPEM, keyPEM, caPEM); err != nil {
		t.Fatal(err)
	}
	if got := call(t, s.dial(creds), heartbeat); got != codes.OK {
		t.Fatalf("the new one: %s", got)
	}
	if got := call(t, old, heartbeat); got != codes.Unauthenticated {
		t.Errorf("the old one: %s", got)
	}
}

// server is a controller's gRPC server with every service.
type server struct {
	*world
	address  string
	received chan struct{} // a value for every report that the session service got
	stop     func()
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{world: newWorld(t), received: make(chan struct{}, 100)}
	options := append(s.ServerOptions(s.issue(pki.ControllerIdentity())),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }))
	g := grpc.NewServer(options...)
	requorumv1.RegisterClusterServiceServer(g, requorumv1.UnimplementedClusterServiceServer{})
	requorumv1.RegisterSnapshotServiceServer(g, requorumv1.UnimplementedSnapshotServiceServer{})
	requorumv1.RegisterRestoreServiceServer(g, requorumv1.UnimplementedRestoreServiceServer{})
	requorumv1.RegisterOperationServiceServer(g, operations{})
	requorumv1.RegisterAccessServiceServer(g, requorumv1.UnimplementedAccessServiceServer{})
	agentv1.RegisterEnrollServiceServer(g, agentv1.UnimplementedEnrollServiceServer{})
	agentv1.RegisterTransferServiceServer(g, agentv1.UnimplementedTransferServiceServer{})
	agentv1.RegisterSessionServiceServer(g, &sessions{received: s.received})
	healthv1.RegisterHealthServer(g, health.NewServer())
	reflection.Register(g)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- grpcserver.Serve(g, listener) }()
	s.stop = sync.OnceFunc(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// sessions takes reports for as long as it may.
type sessions struct {
	agentv1.UnimplementedSessionServiceServer
	received chan struct{}
}

func (s *sessions) ReportTask(stream grpc.ClientStreamingServer[agentv1.ReportTaskRequest, agentv1.ReportTaskResponse]) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return stream.SendAndClose(&agentv1.ReportTaskResponse{})
		} else if err != nil {
			return err
		}
		s.received <- struct{}{}
	}
}

// operations are watched for as long as somebody may.
type operations struct {
	requorumv1.UnimplementedOperationServiceServer
}

func (operations) WatchOperation(_ *requorumv1.WatchOperationRequest, stream grpc.ServerStreamingServer[requorumv1.WatchOperationResponse]) error {
	if err := stream.Send(&requorumv1.WatchOperationResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (operations) WaitOperation(ctx context.Context, req *requorumv1.WaitOperationRequest) (*requorumv1.WaitOperationResponse, error) {
	if req.GetId() == "" {
		return nil, status.Error(codes.InvalidArgument, "no ID")
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *sessions) Heartbeat(context.Context, *agentv1.HeartbeatRequest) (*agentv1.HeartbeatResponse, error) {
	return &agentv1.HeartbeatResponse{}, nil
}

// credentials returns what a caller has; nil for the stranger. The node is etcd-1, enrolled anew.
func (s *server) credentials(caller string) *pki.Credentials {
	s.t.Helper()
	switch caller {
	case "stranger":
		return nil
	case "controller":
		return s.issue(pki.ControllerIdentity())
	case "node":
		key := newKey(s.t)
		return s.pair(key, s.mustEnrol(s.token("etcd-1"), "etcd-1", key).Raw)
	}
	role, err := pki.RoleOf(caller)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.issue(pki.OperatorIdentity(role, caller+"-1"))
}

func (s *server) issue(id pki.Identity) *pki.Credentials {
	s.t.Helper()
	key := newKey(s.t)
	certPEM, err := s.ca.Issue(key.Public(), id, 1000*24*time.Hour, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.pair(key, parse(s.t, certPEM).Raw)
}

func (s *server) pair(key crypto.Signer, der []byte) *pki.Credentials {
	s.t.Helper()
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		s.t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	creds, err := pki.NewCredentials(certPEM, keyPEM, s.ca.CAPEM())
	if err != nil {
		s.t.Fatal(err)
	}
	return creds
}

func (s *server) dial(creds *pki.Credentials) *grpc.ClientConn {
	s.t.Helper()
	config := pki.PinnedTLS(s.ca.Fingerprint())
	if creds != nil {
		config = pki.ClientTLS(creds, pki.ControllerIdentity())
	}
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call makes a call with an empty message, whatever the kind of method, and returns the code that the
// server answers with; OK for a method that answers with a message.
func call(t *testing.T, conn *grpc.ClientConn, method string) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+method)
	if err != nil {
		return status.Code(err)
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return status.Code(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	err = stream.RecvMsg(&emptypb.Empty{})
	if errors.Is(err, io.EOF) {
		return codes.OK
	}
	return status.Code(err)
}
