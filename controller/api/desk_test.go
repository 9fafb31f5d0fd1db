package api

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
	"github.com/requorum/requorum/internal/grpcserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a server over gRPC in a bubble of synctest, with the node a of cluster prod, which holds the
// snapshot s of 10 bytes. Who calls is told by the metadata, since the certificates are another test's.
type desk struct {
	*testing.T
	*Server
	conn *grpc.ClientConn
}

func atDesk(t *testing.T, plan operation.Plan, test func(*desk)) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	synctest.Test(t, func(t *testing.T) {
		records, quiet := catalog.New(db), hclog.NewNullLogger()
		builders := map[requorumv1.OperationKind]operation.Builder{
			requorumv1.OperationKind_OPERATION_KIND_SAVE: func(*operation.Run) operation.Job { return operation.Job{Plan: plan} },
		}
		d := &desk{T: t, Server: &Server{Catalog: records, Log: quiet, Dispatcher: dispatch.New(1, "self", records, dispatch.Options{}, quiet)}}
		d.Engine = operation.NewEngine(db, d.Dispatcher, 1, builders, quiet)
		d.fill()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 2)
		listen, server := bufconn.Listen(64<<10), grpc.NewServer(grpc.WaitForHandlers(true))
		requorumv1.RegisterSnapshotServiceServer(server, snapshots{Server: d.Server})
		requorumv1.RegisterOperationServiceServer(server, operations{Server: d.Server})
		agentv1.RegisterSessionServiceServer(server, nodeCalls{sessions{Server: d.Server}})
		go func() { ended <- d.Engine.Run(ctx) }()
		go func() { ended <- grpcserver.Serve(server, listen) }()
		d.conn, err = grpc.NewClient("passthrough:desk", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listen.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		test(d)
		cancel()
		err := errors.Join(d.conn.Close())
		server.Stop()
		if err := errors.Join(err, <-ended, <-ended); err != nil {
			t.Error(err)
		}
	})
}

func (d *desk) fill() {
	d.Helper()
	snap := &requorumv1.Snapshot{
		Name: "s", Cluster: "prod", State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Created: timestamppb.Now(),
		Manifest: &requorumv1.Manifest{Name: "s", Size: 10}, Copies: []*requorumv1.Copy{{Node: "a", State: requorumv1.CopyState_COPY_STATE_GOOD}},
	}
	err := d.Catalog.Write(func(tx store.Tx) error {
		return errors.Join(
			catalog.UpdateCluster(tx, "prod", func(*journalv1.ClusterRecord) {}), catalog.Put(tx, snap),
			store.Save(tx, store.Nodes, "prod/a", &journalv1.NodeRecord{Cluster: "prod", Name: "a"}),
			store.Save(tx, store.Nodes, "prod/b", &journalv1.NodeRecord{Cluster: "prod", Name: "b"}),
		)
	})
	if err != nil {
		d.Fatal(err)
	}
}

// nodeCalls are the handlers of sessions, for callers that the metadata names.
type nodeCalls struct{ sessions }

func nodeOf(ctx context.Context) dispatch.Key {
	md, _ := metadata.FromIncomingContext(ctx)
	return dispatch.Key{Cluster: "prod", Node: md.Get("node")[0]}
}

func (s nodeCalls) OpenSession(req *agentv1.OpenSessionRequest, stream agentv1.SessionService_OpenSessionServer) error {
	return s.Dispatcher.OpenSession(nodeOf(stream.Context()), req, stream)
}

func (s nodeCalls) Heartbeat(ctx context.Context, req *agentv1.HeartbeatRequest) (*agentv1.HeartbeatResponse, error) {
	return &agentv1.HeartbeatResponse{}, s.Dispatcher.Heartbeat(nodeOf(ctx), req)
}

func (s nodeCalls) ReportTask(stream agentv1.SessionService_ReportTaskServer) error {
	return s.Dispatcher.ReportTask(nodeOf(stream.Context()), stream)
}

func (s nodeCalls) PushCopy(stream agentv1.SessionService_PushCopyServer) error {
	return s.relays.push(nodeOf(stream.Context()), stream)
}

// agent is a node's agent with a session.
type agent struct {
	*desk
	client  agentv1.SessionServiceClient
	ctx     context.Context
	hangUp  context.CancelFunc
	session string
	stream  agentv1.SessionService_OpenSessionClient
	reports agentv1.SessionService_ReportTaskClient
}

func (d *desk) connect(node string) *agent {
	d.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "node", node))
	d.Cleanup(cancel)
	a := &agent{desk: d, client: agentv1.NewSessionServiceClient(d.conn), ctx: ctx, hangUp: cancel}
	var err error
	if a.stream, err = a.client.OpenSession(ctx, &agentv1.OpenSessionRequest{}); err != nil {
		d.Fatal(err)
	}
	first, err := a.stream.Recv()
	if err != nil {
		d.Fatal(err)
	}
	a.session = first.GetOpened().GetSessionId()
	if a.reports, err = a.client.ReportTask(ctx); err != nil {
		d.Fatal(err)
	}
	go a.beat()
	return a
}

func (a *agent) beat() {
	for a.ctx.Err() == nil {
		if _, err := a.client.Heartbeat(a.ctx, &agentv1.HeartbeatRequest{SessionId: a.session}); err != nil {
			return
		}
		select {
		case <-time.After(2 * time.Second):
		case <-a.ctx.Done():
		}
	}
}

// next returns the next message that has tasks in it, or tells to stop some.
func (a *agent) next() *agentv1.OpenSessionResponse {
	a.Helper()
	m, err := a.stream.Recv()
	if err != nil {
		a.Fatal(err)
	}
	return m
}

func (a *agent) report(r *agentv1.TaskReport) {
	a.Helper()
	if err := a.reports.Send(&agentv1.ReportTaskRequest{SessionId: a.session, Report: r}); err != nil {
		a.Error(err)
	}
}
