package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/transfer"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	"github.com/requorum/requorum/internal/grpcserver"
	"github.com/requorum/requorum/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const soon = 20 * time.Second // for what comes at once, on a slow machine

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within returns what comes from a channel soon.
func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	var v T
	select {
	case v = <-c:
	case <-time.After(soon):
		t.Fatalf("%s did not come", what)
	}
	return v
}

// controller is a fake one. Each session that an agent opens appears in sessions.
type controller struct {
	agentv1.UnimplementedSessionServiceServer
	address  string
	ca       *pki.Authority
	ttl      time.Duration // of the certificates it issues
	sessions chan *session
	beats    chan *agentv1.HeartbeatRequest
	reports  chan *agentv1.TaskReport
	tries    chan time.Time

	mu     sync.Mutex
	opened *agentv1.SessionOpened
	tasks  []*agentv1.Task // wanted when a session opens
	refuse error
}

type session struct {
	hello *agentv1.OpenSessionRequest
	out   chan *agentv1.OpenSessionResponse // closed to end the session
}

func startController(t *testing.T) *controller {
	t.Helper()
	ca, err := pki.LoadOrCreateAuthority(t.TempDir())
	must(t, err)
	c := &controller{
		ca: ca, ttl: time.Hour, sessions: make(chan *session, 100), beats: make(chan *agentv1.HeartbeatRequest, 1000),
		reports: make(chan *agentv1.TaskReport, 1000), tries: make(chan time.Time, 1000),
		opened: &agentv1.SessionOpened{SessionId: "s", HeartbeatInterval: durationpb.New(20 * time.Millisecond), Epoch: 3, ControllerId: "a"},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c.address = l.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(pki.ServerTLS(c.credentials(t, pki.ControllerIdentity())))))
	agentv1.RegisterSessionServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- grpcserver.Serve(server, l) }()
	t.Cleanup(func() { server.Stop(); must(t, <-served) })
	return c
}

func (c *controller) credentials(t *testing.T, id pki.Identity) *pki.Credentials {
	t.Helper()
	cert, key := c.issue(t, id)
	creds, err := pki.NewCredentials(cert, key, c.ca.CAPEM())
	must(t, err)
	return creds
}

func (c *controller) issue(t *testing.T, id pki.Identity) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := pki.NewKey()
	must(t, err)
	certPEM, err = c.ca.Issue(key.Public(), id, c.ttl, nil)
	must(t, err)
	keyPEM, err = pki.KeyPEM(key)
	must(t, err)
	return certPEM, keyPEM
}

func (c *controller) set(change func(*controller)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *controller) OpenSession(hello *agentv1.OpenSessionRequest, stream grpc.ServerStreamingServer[agentv1.OpenSessionResponse]) error {
	c.tries <- time.Now()
	c.mu.Lock()
	first, refuse := &agentv1.OpenSessionResponse{Opened: c.opened, Tasks: c.tasks}, c.refuse
	c.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	s := &session{hello: hello, out: make(chan *agentv1.OpenSessionResponse)}
	c.sessions <- s
	for {
		select {
		case m, more := <-s.out:
			if !more {
				return status.Error(codes.Unavailable, "the session was ended")
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (c *controller) Heartbeat(_ context.Context, beat *agentv1.HeartbeatRequest) (*agentv1.HeartbeatResponse, error) {
	select {
	case c.beats <- beat:
	default:
	}
	return &agentv1.HeartbeatResponse{}, nil
}

func (c *controller) ReportTask(stream grpc.ClientStreamingServer[agentv1.ReportTaskRequest, agentv1.ReportTaskResponse]) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		c.reports <- r.GetReport()
	}
}

// await returns the first report of a task in a state.
func (c *controller) await(t *testing.T, id string, state agentv1.TaskState) *agentv1.TaskReport {
	t.Helper()
	for {
		if r := within(t, c.reports, "report of "+id); r.GetTaskId() == id && r.GetState() == state {
			return r
		}
	}
}

// fakeRuntime has a member that does not serve.
type fakeRuntime struct {
	conf    runtime.Member
	inspect func(context.Context) error
	stops   chan struct{}
	stopped func() error
	hangs   bool // Stop, until it is given up
}

func (r *fakeRuntime) Name() string { return "fake" }

func (r *fakeRuntime) Inspect(ctx context.Context) (runtime.Member, error) {
	if r.inspect != nil {
		if err := r.inspect(ctx); err != nil {
			return runtime.Member{}, err
		}
	}
	return r.conf, nil
}

func (r *fakeRuntime) Stop(ctx context.Context) error {
	r.stops <- struct{}{}
	if r.hangs {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if r.stopped != nil {
		return r.stopped()
	}
	return nil
}

func (r *fakeRuntime) Start(context.Context) error { return nil }

// testAgent is an agent with a fake runtime, that has its credentials.
type testAgent struct {
	*agent
	runtime *fakeRuntime
	end     context.CancelFunc
	ended   chan error
}

func newAgent(t *testing.T, c *controller) *testAgent {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Controller, cfg.Node, cfg.DataDir, cfg.Transfer.Listen = c.address, "etcd-1", t.TempDir(), "127.0.0.1:0"
	cfg.Runtime.Exec = &Exec{}
	must(t, cfg.complete())
	j, err := journal.Open(filepath.Join(cfg.DataDir, "agent.db"))
	must(t, err)
	t.Cleanup(func() { must(t, j.Close()) })
	rt := &fakeRuntime{stops: make(chan struct{}, 100), conf: runtime.Member{Name: "m1", DataDir: filepath.Join(cfg.DataDir, "etcd")}}
	certPEM, keyPEM := c.issue(t, pki.NodeIdentity("prod", "etcd-1"))
	dir := filepath.Join(cfg.DataDir, "credentials")
	must(t, pki.SaveCredentials(dir, certPEM, keyPEM, c.ca.CAPEM()))
	creds, err := pki.LoadBundle(dir)
	must(t, err)
	a, err := assemble(cfg, j, rt, creds, hclog.NewNullLogger())
	must(t, err)
	return &testAgent{agent: a, runtime: rt, ended: make(chan error, 1)}
}

// start runs the agent until the test ends.
func (a *testAgent) start(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	a.end = cancel
	go func() { a.ended <- a.serve(ctx); close(a.ended) }()
	t.Cleanup(func() { cancel(); within(t, a.ended, "the agent's end") })
}

// stop ends the agent, which must be prompt.
func (a *testAgent) stop(t *testing.T) {
	t.Helper()
	a.end()
	if err := within(t, a.ended, "the agent's end"); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func (c *controller) task(id string, spec *agentv1.Task) *agentv1.Task {
	spec.Id, spec.Epoch, spec.ControllerId = id, 3, "a"
	return spec
}

func (c *controller) serving(id string) *agentv1.Task {
	return c.task(id, &agentv1.Task{Spec: &agentv1.Task_ServeCopy{ServeCopy: &agentv1.ServeCopy{Name: "s1", Readers: []string{"etcd-2"}}}})
}

func TestSessionIntroducesTheAgent(t *testing.T) {
	c := startController(t)
	a := newAgent(t, c)
	a.start(t)
	hello := within(t, c.sessions, "session").hello
	if hello.GetRuntime() != "fake" || hello.GetTransferAddress() != a.listening.String() || hello.GetEpoch() != 0 {
		t.Errorf("%v", hello)
	}
	if beat := within(t, c.beats, "heartbeat"); beat.GetSessionId() != "s" {
		t.Errorf("%v", beat)
	}
	state, err := a.journal.State()
	must(t, err)
	if state.GetEpoch() != 3 || state.GetControllerId() != "a" {
		t.Errorf("obeys %v", state)
	}
}

func TestTasksAndTheirCancellation(t *testing.T) {
	c := startController(t)
	a := newAgent(t, c)
	a.start(t)
	s := within(t, c.sessions, "session")
	reader := transfer.Peer{Cluster: "prod", Node: "etcd-2", Key: "key"}
	known := []*agentv1.Neighbour{{Node: "etcd-2", Keys: []string{"key"}}}
	s.out <- &agentv1.OpenSessionResponse{Neighbours: known, Tasks: []*agentv1.Task{
		c.serving("serve"), c.task("list", &agentv1.Task{Spec: &agentv1.Task_ListCopies{ListCopies: &agentv1.ListCopies{}}}),
	}}
	c.await(t, "list", agentv1.TaskState_TASK_STATE_DONE)
	mayRead := func() bool { return a.node.Grants.MayRead(t.Context(), reader, "s1") == nil }
	eventually(t, mayRead)
	s.out <- &agentv1.OpenSessionResponse{Neighbours: []*agentv1.Neighbour{{Node: "etcd-2"}}}
	eventually(t, func() bool { return !mayRead() }) // the node was removed
	s.out <- &agentv1.OpenSessionResponse{Neighbours: known}
	eventually(t, mayRead)
	s.out <- &agentv1.OpenSessionResponse{CancelTaskIds: []string{"serve"}}
	eventually(t, func() bool { return !mayRead() })
}

// eventually waits for what nothing tells of.
func eventually(t *testing.T, is func() bool) {
	t.Helper()
	ticker, late := time.NewTicker(time.Millisecond), time.After(soon)
	defer ticker.Stop()
	for !is() {
		select {
		case <-ticker.C:
		case <-late:
			t.Fatal("it never came to that")
		}
	}
}

func TestTaskIsDoneOnceOverABrokenSession(t *testing.T) {
	c := startController(t)
	a := newAgent(t, c)
	stop := c.task("stop", &agentv1.Task{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{}}})
	c.set(func(c *controller) { c.tasks = []*agentv1.Task{stop} })
	a.start(t)
	s := within(t, c.sessions, "session")
	c.await(t, "stop", agentv1.TaskState_TASK_STATE_DONE)
	close(s.out)
	within(t, c.sessions, "session")
	c.await(t, "stop", agentv1.TaskState_TASK_STATE_DONE)
	if n := len(a.runtime.stops); n != 1 {
		t.Errorf("stopped %d times", n)
	}
}

func TestHeartbeatsGoOnWhileTheMemberHangs(t *testing.T) {
	c := startController(t)
	a := newAgent(t, c)
	a.runtime.inspect = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	a.start(t)
	for range 5 {
		within(t, c.beats, "heartbeat")
	}
	a.stop(t)
}

func TestControllerOfALowerEpochIsRefused(t *testing.T) {
	for name, stale := range map[string]*agentv1.SessionOpened{
		"lower epoch":            {Epoch: 2, ControllerId: "a"},
		"other one of the epoch": {Epoch: 3, ControllerId: "b"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startController(t)
			a := newAgent(t, c)
			must(t, a.obey(t.Context(), &agentv1.SessionOpened{Epoch: 3, ControllerId: "a"}))
			stale.SessionId, stale.HeartbeatInterval = "s", durationpb.New(time.Second)
			c.set(func(c *controller) {
				c.opened = stale
				c.tasks = []*agentv1.Task{c.task("stop", &agentv1.Task{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{}}})}
			})
			a.start(t)
			within(t, c.sessions, "session")
			within(t, c.sessions, "second try") // it has turned away from the first
			if len(a.runtime.stops) != 0 {
				t.Error("it does what a controller wants that is presumed dead")
			}
			state, err := a.journal.State()
			must(t, err)
			if state.GetEpoch() != 3 || state.GetControllerId() != "a" {
				t.Errorf("obeys %v", state)
			}
		})
	}
}

func TestBackoffDoesNotSpin(t *testing.T) {
	c := startController(t)
	c.refuse = status.Error(codes.FailedPrecondition, "fenced")
	a := newAgent(t, c)
	a.start(t)
	first := within(t, c.tries, "try")
	var last time.Time
	for range 5 {
		last = within(t, c.tries, "try")
	}
	if last.Sub(first) < 20*time.Millisecond {
		t.Errorf("six tries in %v", last.Sub(first))
	}
	a.stop(t)
}

func TestSilentSessionIsNotBegun(t *testing.T) {
	c := startController(t)
	c.opened = &agentv1.SessionOpened{SessionId: "s", Epoch: 3, ControllerId: "a"} // without an interval
	a := newAgent(t, c)
	a.start(t)
	within(t, c.sessions, "session")
	within(t, c.sessions, "second try")
}

func TestRenewedCertificateIsShownAtOnce(t *testing.T) {
	c := startController(t)
	a := newAgent(t, c)
	a.start(t)
	within(t, c.sessions, "session")
	certPEM, keyPEM := c.issue(t, pki.NodeIdentity("prod", "etcd-1"))
	must(t, a.creds.Replace(certPEM, keyPEM, c.ca.CAPEM()))
	within(t, c.sessions, "session with the new certificate")
}

func TestStopsPromptly(t *testing.T) {
	t.Run("while a task runs", func(t *testing.T) {
		c := startController(t)
		a := newAgent(t, c)
		c.tasks = []*agentv1.Task{c.serving("serve")}
		a.start(t)
		c.await(t, "serve", agentv1.TaskState_TASK_STATE_RUNNING)
		a.stop(t)
	})
	t.Run("while the controller is away", func(t *testing.T) {
		c := startController(t)
		a := newAgent(t, c)
		a.cfg.Controller = "127.0.0.1:1"
		a.start(t)
		a.stop(t)
	})
	t.Run("after a fault of its own, while a task runs", func(t *testing.T) {
		c := startController(t)
		c.ttl = 3 * time.Second // it is not renewed
		a := newAgent(t, c)
		c.tasks = []*agentv1.Task{c.serving("serve")}
		a.start(t)
		c.await(t, "serve", agentv1.TaskState_TASK_STATE_RUNNING)
		if err := within(t, a.ended, "the agent's end"); !errors.Is(err, enroll.ErrExpired) {
			t.Error(err)
		}
	})
}

func TestRunEndsWhileItEnrols(t *testing.T) {
	c := startController(t)
	token, err := pki.NewToken("prod", c.ca.Fingerprint())
	must(t, err)
	cfg := DefaultConfig()
	cfg.Controller, cfg.Node, cfg.DataDir, cfg.Token = "127.0.0.1:1", "etcd-1", t.TempDir(), token.String()
	cfg.Runtime.Exec = execOf(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, hclog.NewNullLogger()) }()
	cancel(errors.New("terminated")) // as signal.NotifyContext does
	if err := within(t, ended, "the end"); err != nil {
		t.Errorf("asked to stop, it says: %v", err)
	}
}

func execOf(t *testing.T) *Exec {
	t.Helper()
	return &Exec{
		Stop: []string{"/bin/true"}, Start: []string{"/bin/true"}, Status: []string{"/bin/false"},
		Member: ExecMember{Name: "m1", DataDir: t.TempDir(), ListenClientURLs: []string{"http://127.0.0.1:1"}, AdvertisePeerURLs: []string{"http://127.0.0.1:2"}, ListenPeerURLs: []string{"http://127.0.0.1:2"}},
	}
}

func TestObeyFencesNodesThatMissedARestore(t *testing.T) {
	const own, older, newer = 2, 1, 3
	for name, c := range map[string]struct {
		generation uint64
		adopt      bool
		fenced     bool // before
		restored   *journal.Restored
		expect     *journalv1.AgentRecord
	}{
		"as the cluster":                    {generation: own, expect: &journalv1.AgentRecord{Generation: own}},
		"ahead of it":                       {generation: older, expect: &journalv1.AgentRecord{Generation: own}},
		"behind it":                         {generation: newer, expect: &journalv1.AgentRecord{Generation: own, Fenced: true}},
		"enrolled anew":                     {generation: newer, adopt: true, expect: &journalv1.AgentRecord{Generation: newer}},
		"enrolled anew, was fenced":         {generation: newer, adopt: true, fenced: true, expect: &journalv1.AgentRecord{Generation: newer}},
		"fenced stays fenced":               {generation: own, fenced: true, expect: &journalv1.AgentRecord{Generation: own, Fenced: true}},
		"in a restore that goes on":         {generation: newer, restored: &journal.Restored{ClusterGeneration: newer}, expect: &journalv1.AgentRecord{Generation: own}},
		"fenced, in a restore that goes on": {generation: newer, fenced: true, restored: &journal.Restored{ClusterGeneration: newer}, expect: &journalv1.AgentRecord{Generation: own, Fenced: true}},
		"left when it was fenced already":   {generation: newer, fenced: true, restored: &journal.Restored{ClusterGeneration: own}, expect: &journalv1.AgentRecord{Generation: own, Fenced: true}},
		"left, then enrolled anew":          {generation: newer, adopt: true, restored: &journal.Restored{ClusterGeneration: own}, expect: &journalv1.AgentRecord{Generation: newer}},
		"finished but for the note":         {generation: own, restored: &journal.Restored{ClusterGeneration: older}, expect: &journalv1.AgentRecord{Generation: own}},
		"left in a restore that was ended":  {generation: newer, restored: &journal.Restored{ClusterGeneration: own}, expect: &journalv1.AgentRecord{Generation: own, Fenced: true}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, startController(t))
			a.hasData(t)
			must(t, a.journal.Update(func(s *journalv1.AgentRecord) error { s.Generation, s.Fenced = own, c.fenced; return nil }))
			must(t, a.journal.SetRestored(c.restored))
			must(t, a.obey(t.Context(), &agentv1.SessionOpened{Epoch: 1, ControllerId: "a", Generation: c.generation, AdoptGeneration: c.adopt}))
			state, err := a.journal.State()
			must(t, err)
			if state.GetGeneration() != c.expect.GetGeneration() || state.GetFenced() != c.expect.GetFenced() {
				t.Errorf("%v, expected %v", state, c.expect)
			}
			noted, err := a.journal.Restored()
			must(t, err)
			if goesOn := c.restored != nil && c.restored.ClusterGeneration == c.generation; (noted != nil) != goesOn {
				t.Errorf("noted %v", noted)
			}
		})
	}
}

// TestARestoreGoesOnOverABrokenSession restores a fenced node: from the swap to the end the fence lets it
// be, also when the session begins anew; once the restore has ended without the node, it does not.
func TestARestoreGoesOnOverABrokenSession(t *testing.T) {
	const cluster = 5
	for name, ends := range map[string]bool{"and finishes": true, "and ends without the node": false} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, startController(t))
			a.hasData(t)
			session := func(generation uint64) {
				must(t, a.obey(t.Context(), &agentv1.SessionOpened{Epoch: 1, ControllerId: "a", Generation: generation}))
			}
			do := func(spec *agentv1.Task) {
				_, err := a.node.Do(t.Context(), spec, nil)
				must(t, err)
			}
			session(cluster)
			a.expectFence(t, true)
			do(&agentv1.Task{Spec: &agentv1.Task_Stage{Stage: &agentv1.Stage{RestoreId: "r1", Learner: true}}})
			a.expectFence(t, true)
			do(&agentv1.Task{Spec: &agentv1.Task_Swap{Swap: &agentv1.Swap{RestoreId: "r1"}}})
			a.expectFence(t, false)
			session(cluster)
			a.expectFence(t, false)
			if ends {
				do(&agentv1.Task{Spec: &agentv1.Task_Finish{Finish: &agentv1.Finish{RestoreId: "r1", Generation: cluster + 1}}})
			}
			session(cluster + 1)
			a.expectFence(t, !ends)
		})
	}
}

// expectFence looks whether the fence stops etcd.
func (a *testAgent) expectFence(t *testing.T, stops bool) {
	t.Helper()
	if stopped, err := a.enforceFence(t.Context(), false); err != nil || stopped != stops {
		t.Errorf("stopped %v, %v", stopped, err)
	}
}

func TestFencedNodesEtcdIsStoppedAndStaysSo(t *testing.T) {
	c := startController(t)
	c.opened.Generation = 1
	a := newAgent(t, c)
	a.hasData(t)
	var tries atomic.Int32
	a.runtime.stopped = func() error {
		if tries.Add(1) == 1 {
			return errors.New("it lingers")
		}
		return nil
	}
	a.start(t)
	within(t, a.runtime.stops, "stop")
	for !within(t, c.beats, "heartbeat").GetFenced() {
	}
	within(t, a.runtime.stops, "second try")
}

// hasData gives the member a data directory.
func (a *testAgent) hasData(t *testing.T) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(a.runtime.conf.DataDir, "member"), 0o700))
}

func TestAReplacedMachineTakesTheGenerationOver(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(t *testing.T, a *testAgent)
		adopts bool
	}{
		"without data":  {func(*testing.T, *testAgent) {}, true},
		"with data":     {func(t *testing.T, a *testAgent) { a.hasData(t) }, false},
		"with old data": {func(t *testing.T, a *testAgent) { must(t, os.Mkdir(a.runtime.conf.DataDir+".quarantine-r1", 0o700)) }, false},
		"while it runs": {func(_ *testing.T, a *testAgent) { a.runtime.conf.Running = true }, false},
		"unknown to us": {func(_ *testing.T, a *testAgent) {
			a.runtime.inspect = func(context.Context) error { return errors.New("no unit file") }
		}, false},
		"not the first session": {func(t *testing.T, a *testAgent) {
			must(t, a.obey(t.Context(), &agentv1.SessionOpened{Epoch: 1, ControllerId: "a"}))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, startController(t))
			c.spoil(t, a)
			for range 2 { // the second session changes nothing
				must(t, a.obey(t.Context(), &agentv1.SessionOpened{Epoch: 1, ControllerId: "a", Generation: 3}))
				state, err := a.journal.State()
				must(t, err)
				if state.GetFenced() == c.adopts || (state.GetGeneration() == 3) != c.adopts {
					t.Errorf("%v", state)
				}
			}
		})
	}
}

func TestFenceGivesUpAStopThatHangs(t *testing.T) {
	a := newAgent(t, startController(t))
	a.runtime.hangs, a.node.StopWait = true, 50*time.Millisecond
	must(t, a.journal.Update(func(s *journalv1.AgentRecord) error { s.Fenced = true; return nil }))
	stopped, err := a.enforceFence(t.Context(), false)
	if stopped || err == nil || !strings.Contains(err.Error(), "did not stop in time") {
		t.Errorf("stopped %v, %v", stopped, err)
	}
}

func TestFenceLeavesRestoredDataAlone(t *testing.T) {
	a := newAgent(t, startController(t))
	must(t, a.journal.Update(func(s *journalv1.AgentRecord) error { s.Fenced = true; return nil }))
	must(t, a.journal.SetRestored(&journal.Restored{RestoreID: "r1"}))
	if _, err := a.enforceFence(t.Context(), false); err != nil || len(a.runtime.stops) != 0 {
		t.Errorf("%d stops, %v", len(a.runtime.stops), err)
	}
	must(t, a.journal.SetRestored(nil))
	stopped, err := a.enforceFence(t.Context(), false)
	if err != nil || !stopped || len(a.runtime.stops) != 1 {
		t.Errorf("%d stops, %v", len(a.runtime.stops), err)
	}
	if _, err := a.enforceFence(t.Context(), true); err != nil || len(a.runtime.stops) != 1 {
		t.Errorf("stopped again although it does not run: %v", err)
	}
	a.runtime.conf.Running = true // a person started it
	if _, err := a.enforceFence(t.Context(), true); err != nil || len(a.runtime.stops) != 2 {
		t.Errorf("%d stops, %v", len(a.runtime.stops), err)
	}
}
