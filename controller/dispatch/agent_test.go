package dispatch_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/internal/grpcserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var options = dispatch.Options{Heartbeat: 2 * time.Second, Offline: 30 * time.Second, Stall: 2 * time.Minute}

// bench is a dispatcher that serves agents over gRPC, in a bubble of synctest.
type bench struct {
	*testing.T
	*dispatch.Dispatcher
	records *records
	server  *grpc.Server
	listen  *bufconn.Listener
}

// inBench runs a test with a dispatcher of epoch 5.
func inBench(t *testing.T, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, records: &records{generation: 3}, listen: bufconn.Listen(64 << 10), server: grpc.NewServer(grpc.WaitForHandlers(true))}
		b.Dispatcher = dispatch.New(5, "controller-1", b.records, options, hclog.NewNullLogger())
		agentv1.RegisterSessionServiceServer(b.server, service{d: b.Dispatcher})
		served := make(chan error, 1)
		go func() { served <- grpcserver.Serve(b.server, b.listen) }()
		test(b)
		b.server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// records are what the dispatcher reads and notes.
type records struct {
	mu         sync.Mutex
	generation uint64
	adopt      bool
	seen       map[string]string // transfer address by node
	keys       map[string][]string
	markers    map[string]string // by remote
	err        error
	reading    func() // called before the generation is read, may be nil
}

func (r *records) Generation(string, string) (uint64, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	generation := r.generation
	if r.reading != nil {
		r.reading()
	}
	return generation, r.adopt, r.err
}

func (r *records) Seen(_, node, address string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = make(map[string]string)
	}
	r.seen[node] = address
	return r.err
}

func (r *records) Keys(_, node string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[node], r.err
}

func (r *records) RemoteMarker(remote string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.markers[remote], r.err
}

func (r *records) MarkRemote(remote, marker string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.markers[remote] == "" {
		r.markers = map[string]string{remote: marker}
	}
	return r.markers[remote], r.err
}

func (r *records) setKeys(node string, keys ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == nil {
		r.keys = make(map[string][]string)
	}
	r.keys[node] = keys
}

// service is what package api does, with the caller's name in the metadata instead of a certificate.
type service struct {
	agentv1.UnimplementedSessionServiceServer
	d *dispatch.Dispatcher
}

func key(node string) dispatch.Key { return dispatch.Key{Cluster: "prod", Node: node} }

func callerOf(ctx context.Context) dispatch.Key {
	md, _ := metadata.FromIncomingContext(ctx)
	return key(md.Get("node")[0])
}

func (s service) OpenSession(req *agentv1.OpenSessionRequest, stream agentv1.SessionService_OpenSessionServer) error {
	return s.d.OpenSession(callerOf(stream.Context()), req, stream)
}

func (s service) Heartbeat(ctx context.Context, req *agentv1.HeartbeatRequest) (*agentv1.HeartbeatResponse, error) {
	return &agentv1.HeartbeatResponse{}, s.d.Heartbeat(callerOf(ctx), req)
}

func (s service) ReportTask(stream agentv1.SessionService_ReportTaskServer) error {
	return s.d.ReportTask(callerOf(stream.Context()), stream)
}

// agent is a fake agent with one session.
type agent struct {
	b       *bench
	client  agentv1.SessionServiceClient
	ctx     context.Context
	opened  *agentv1.SessionOpened
	reports agentv1.SessionService_ReportTaskClient
	inbox   chan *agentv1.OpenSessionResponse // closed when the session has ended
	ended   error                             // why, once inbox is closed
	hangUp  func()
}

// connect opens a session for a node that sends heartbeats until the session ends.
func (b *bench) connect(node string) *agent {
	b.Helper()
	a, err := b.open(node, &agentv1.OpenSessionRequest{AgentVersion: "v1", TransferAddress: node + ":1", Epoch: 4, ControllerId: "older"})
	if err != nil {
		b.Fatalf("%s: %v", node, err)
	}
	go a.beat()
	return a
}

// open opens a session that sends no heartbeat.
func (b *bench) open(node string, req *agentv1.OpenSessionRequest) (*agent, error) {
	conn, err := grpc.NewClient("passthrough:bench", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return b.listen.DialContext(ctx) }))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "node", node))
	a := &agent{b: b, client: agentv1.NewSessionServiceClient(conn), ctx: ctx, inbox: make(chan *agentv1.OpenSessionResponse, 64)}
	a.hangUp = sync.OnceFunc(func() { cancel(); conn.Close() })
	b.Cleanup(a.hangUp)
	stream, err := a.client.OpenSession(ctx, req)
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		a.hangUp()
		return nil, err
	}
	a.opened = first.GetOpened()
	a.inbox <- first
	if a.reports, err = a.client.ReportTask(ctx); err != nil {
		b.Fatal(err)
	}
	go func() {
		defer close(a.inbox)
		for {
			m, err := stream.Recv()
			if err != nil {
				a.ended = err
				return
			}
			select {
			case a.inbox <- m:
			case <-ctx.Done():
				a.ended = ctx.Err()
				return
			}
		}
	}()
	synctest.Wait()
	return a, nil
}

func (a *agent) beat() {
	for {
		if _, err := a.client.Heartbeat(a.ctx, &agentv1.HeartbeatRequest{SessionId: a.opened.GetSessionId(), VaultFreeBytes: 7, Generation: 3}); err != nil {
			return
		}
		select {
		case <-time.After(a.opened.GetHeartbeatInterval().AsDuration()):
		case <-a.ctx.Done():
			return
		}
	}
}

// task returns the next task that comes.
func (a *agent) task() *agentv1.Task {
	a.b.Helper()
	m := a.next(func(m *agentv1.OpenSessionResponse) bool { return len(m.GetTasks()) > 0 })
	return m.GetTasks()[0]
}

// cancelled returns the ID of the next task that is not wanted any more.
func (a *agent) cancelled() string {
	a.b.Helper()
	return a.next(func(m *agentv1.OpenSessionResponse) bool { return len(m.GetCancelTaskIds()) > 0 }).GetCancelTaskIds()[0]
}

func (a *agent) next(wanted func(*agentv1.OpenSessionResponse) bool) *agentv1.OpenSessionResponse {
	a.b.Helper()
	for m := range a.inbox {
		if wanted(m) {
			return m
		}
	}
	a.b.Fatalf("the session has ended: %v", a.ended)
	return nil
}

// idle tells whether nothing came.
func (a *agent) idle() bool {
	synctest.Wait()
	return len(a.inbox) == 0
}

// gone waits for the end of the session and returns why it ended.
func (a *agent) gone() error {
	for open := true; open; { // what still comes is of no interest
		_, open = <-a.inbox
	}
	return a.ended
}

func (a *agent) report(r *agentv1.TaskReport) {
	a.b.Helper()
	if err := a.reports.Send(&agentv1.ReportTaskRequest{SessionId: a.opened.GetSessionId(), Report: r}); err != nil {
		a.b.Errorf("report: %v", err)
	}
	synctest.Wait()
}

func (a *agent) tick(id string, ticks uint64) {
	a.b.Helper()
	a.report(&agentv1.TaskReport{TaskId: id, State: agentv1.TaskState_TASK_STATE_RUNNING, Ticks: ticks})
}

func (a *agent) done(id string) {
	a.b.Helper()
	a.report(&agentv1.TaskReport{TaskId: id, State: agentv1.TaskState_TASK_STATE_DONE, Result: &agentv1.TaskResult{
		Result: &agentv1.TaskResult_Copy{Copy: &agentv1.CopyFacts{Md5: "m"}},
	}})
}

// asked is a task that somebody waits for.
type asked struct {
	*bench
	result  *agentv1.TaskResult
	err     error
	reports int
	over    chan struct{}
	giveUp  context.CancelCauseFunc
}

var errChanged = errors.New("changed my mind")

// ask gives a node a task with that ID.
func (b *bench) ask(node, id string) *asked {
	b.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	a := &asked{bench: b, over: make(chan struct{}), giveUp: cancel}
	task := &agentv1.Task{Id: id, Spec: &agentv1.Task_SaveCopy{SaveCopy: &agentv1.SaveCopy{Name: "s"}}}
	go func() {
		defer close(a.over)
		a.result, a.err = b.Do(ctx, "prod", node, task, func(*agentv1.TaskReport) { a.reports++ })
	}()
	b.Cleanup(func() { cancel(nil); <-a.over })
	synctest.Wait()
	return a
}

// waiting tells whether the task is still waited for.
func (a *asked) waiting() bool {
	synctest.Wait()
	select {
	case <-a.over:
		return false
	default:
		return true
	}
}

func (a *asked) succeeds() {
	a.Helper()
	<-a.over
	if a.err != nil || a.result.GetCopy().GetMd5() != "m" {
		a.Errorf("got %v, %v", a.result, a.err)
	}
}
