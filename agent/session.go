package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/journal"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/pki"
	"github.com/requorum/requorum/internal/version"
)

const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = 8 * time.Second
	healthy      = 10 * time.Second // a session that lasted so long resets the backoff
	openTimeout  = 20 * time.Second // for the controller's first message
	leastAnswer  = 5 * time.Second  // the least that the answer to a heartbeat may take
	observeEvery = 2 * time.Second

	inspectTimeout = 10 * time.Second // for the runtime to say whether a new node has data
)

// errRenewed ends a session whose connection shows an old certificate.
var errRenewed = errors.New("the node's certificate was renewed")

// keepSession opens one session after the other, with full-jitter backoff between them.
func (a *agent) keepSession(ctx context.Context) error {
	// The interval is the middle of what may come: anything from nothing to twice as much.
	pause := &backoff.ExponentialBackOff{InitialInterval: firstRetry / 2, MaxInterval: longestRetry / 2, Multiplier: 2, RandomizationFactor: 1}
	for {
		began := time.Now()
		err := a.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop
		}
		if time.Since(began) > healthy || errors.Is(err, errRenewed) {
			pause.Reset()
		}
		a.log.Warn("session ended", "controller", a.cfg.Controller, "reason", err)
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// session is one session with the controller, from dialling to whatever ends it.
func (a *agent) session(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, renewed, err := a.dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	client := agentv1.NewSessionServiceClient(conn)
	group, ctx := errgroup.WithContext(ctx)
	stream, first, err := a.open(ctx, cancel, client)
	if err != nil {
		return err
	}
	a.setConn(conn)
	defer a.setConn(nil)
	opened := first.GetOpened()
	a.log.Info("session opened", "controller", a.cfg.Controller, "epoch", opened.GetEpoch(), "generation", opened.GetGeneration())
	a.knowOnly(first) // what has changed without a session is told now
	a.runner.Resume(first.GetTasks())
	group.Go(func() error { return a.receive(stream, first) }) //nolint:contextcheck // tasks outlive a session
	group.Go(func() error { return a.heartbeat(ctx, client, opened) })
	group.Go(func() error { return a.report(ctx, client, opened.GetSessionId()) })
	group.Go(func() error { return until(ctx, renewed, errRenewed) })
	return group.Wait()
}

// dialController returns a connection to the controller, and a channel that is closed when it shows an old certificate.
func (a *agent) dialController() (conn clientConn, renewed <-chan struct{}, err error) {
	renewed = a.creds.Changed()
	conn, err = grpc.NewClient(a.cfg.Controller, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(a.creds, pki.ControllerIdentity()))), keepAlive,
		grpc.WithInitialWindowSize(fixedWindow), grpc.WithInitialConnWindowSize(fixedWindow))
	return conn, renewed, err
}

// until waits for an event and returns what it means, or the cause of ctx's end.
func until(ctx context.Context, event <-chan struct{}, means error) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-event:
		return means
	}
}

func (a *agent) setConn(conn clientConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn = conn
}

// open introduces the agent and obeys, or refuses, the controller that answers. It ends the session by
// cancel if there is no answer.
func (a *agent) open(ctx context.Context, cancel context.CancelCauseFunc, client agentv1.SessionServiceClient) (agentv1.SessionService_OpenSessionClient, *agentv1.OpenSessionResponse, error) {
	late := time.AfterFunc(openTimeout, func() { cancel(errors.New("the controller does not answer")) })
	defer late.Stop()
	hello, err := a.introduction(ctx)
	if err != nil {
		return nil, nil, err
	}
	stream, err := client.OpenSession(ctx, hello)
	if err != nil {
		return nil, nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, errors.Join(err, context.Cause(ctx))
	}
	if opened := first.GetOpened(); opened.GetSessionId() == "" || opened.GetHeartbeatInterval().AsDuration() <= 0 {
		return nil, nil, errors.New("the controller did not begin the session")
	}
	if err := a.obey(ctx, first.GetOpened()); err != nil {
		return nil, nil, err
	}
	return stream, first, nil
}

func (a *agent) introduction(ctx context.Context) (*agentv1.OpenSessionRequest, error) {
	state, err := a.journal.State()
	if err != nil {
		return nil, err
	}
	address, err := a.cfg.advertised(ctx, a.listening)
	if err != nil {
		return nil, err
	}
	return &agentv1.OpenSessionRequest{
		AgentVersion: version.String(), TransferAddress: address, Runtime: a.runtime.Name(), Generation: state.GetGeneration(),
		Epoch: state.GetEpoch(), ControllerId: state.GetControllerId(), Fenced: state.GetFenced(), Member: a.lastSeen().GetMember(),
		Readers: a.node.Grants.Readers(),
	}, nil
}

// obey stores the controller's epoch, refuses one that is presumed dead, and fences a node whose data
// is older than the cluster's generation.
func (a *agent) obey(ctx context.Context, opened *agentv1.SessionOpened) error {
	restored, err := a.journal.Restored()
	if err != nil {
		return err
	}
	adopts := opened.GetAdoptGeneration() || restored == nil && a.replaced(ctx, opened) // it has no old data
	goesOn := restored != nil && restored.ClusterGeneration == opened.GetGeneration()
	fenced, judged := false, false
	err = a.journal.Update(func(s *journalv1.AgentRecord) error {
		same := opened.GetEpoch() == s.GetEpoch() && opened.GetControllerId() == s.GetControllerId()
		if opened.GetEpoch() <= s.GetEpoch() && !same {
			return fmt.Errorf("the controller has epoch %d; this node obeys epoch %d of another one", opened.GetEpoch(), s.GetEpoch())
		}
		s.Epoch, s.ControllerId = opened.GetEpoch(), opened.GetControllerId()
		judged = opened.GetGeneration() > s.GetGeneration() && (adopts || !goesOn)
		switch {
		case judged && adopts:
			s.Generation, s.Fenced = opened.GetGeneration(), false
		case judged:
			fenced, s.Fenced = !s.GetFenced(), true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.forget(restored, judged, opened); err != nil {
		return err
	}
	if fenced {
		a.log.Error("this node missed a restore: etcd is stopped and stays stopped until the node takes part in a restore",
			"cluster_generation", opened.GetGeneration())
	}
	a.node.SetClusterGeneration(opened.GetGeneration())
	a.wakeFence()
	return nil
}

// forget removes the note of a restore that has ended without this node: it would switch the fence off.
// That it is older than the cluster tells so too, after a crash in between.
func (a *agent) forget(restored *journal.Restored, judged bool, opened *agentv1.SessionOpened) error {
	if restored == nil || !judged && restored.ClusterGeneration >= opened.GetGeneration() {
		return nil
	}
	return a.journal.SetRestored(nil)
}

// replaced tells whether this is a new machine under the name of one that the cluster knew: the agent has
// never obeyed a controller, and etcd neither runs nor has data. Without the former, a file system that is
// not mounted yet would hide old data and end the fence for good. Where it cannot be told, it is not one.
func (a *agent) replaced(ctx context.Context, opened *agentv1.SessionOpened) bool {
	state, err := a.journal.State()
	if err != nil || state.GetEpoch() != 0 || state.GetFenced() || opened.GetGeneration() <= state.GetGeneration() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	m, err := a.runtime.Inspect(ctx)
	empty := false
	if err == nil && !m.Running {
		empty, err = datadir.Empty(m)
	}
	if err != nil {
		a.log.Warn("it cannot be told whether this node has data; it is taken to have some", "error", err)
	}
	return empty && err == nil
}

// knowOnly notes the keys that a new session begins with.
func (a *agent) knowOnly(first *agentv1.OpenSessionResponse) {
	keys := make(map[string][]string)
	for _, n := range first.GetNeighbours() {
		keys[n.GetNode()] = n.GetKeys()
	}
	a.node.Grants.KnowOnly(keys)
}

// know notes the keys of neighbours, before the tasks that let them read are begun.
func (a *agent) know(m *agentv1.OpenSessionResponse) {
	for _, n := range m.GetNeighbours() {
		a.node.Grants.Know(n.GetNode(), n.GetKeys()...)
	}
}

// receive hands tasks to the runner until the stream ends.
func (a *agent) receive(stream agentv1.SessionService_OpenSessionClient, m *agentv1.OpenSessionResponse) error {
	for {
		a.know(m)
		for _, id := range m.GetCancelTaskIds() {
			a.runner.Cancel(id)
		}
		for _, t := range m.GetTasks() {
			if err := a.runner.Deliver(t); err != nil {
				return err
			}
		}
		var err error
		if m, err = stream.Recv(); err != nil {
			return err
		}
	}
}

// heartbeat shows the controller that the agent lives. It never waits for the member, which may be slow
// to answer just when a session must not be lost.
func (a *agent) heartbeat(ctx context.Context, client agentv1.SessionServiceClient, opened *agentv1.SessionOpened) error {
	interval := opened.GetHeartbeatInterval().AsDuration()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		beat := proto.CloneOf(a.lastSeen())
		beat.SessionId = opened.GetSessionId()
		state, err := a.journal.State()
		if err != nil {
			return err
		}
		beat.Generation, beat.Fenced = state.GetGeneration(), state.GetFenced()
		if err := beatOnce(ctx, client, beat, interval); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// beatOnce waits for the answer for as long as the controller waits for a heartbeat.
func beatOnce(ctx context.Context, client agentv1.SessionServiceClient, beat *agentv1.HeartbeatRequest, interval time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(3*interval, leastAnswer))
	defer cancel()
	_, err := client.Heartbeat(ctx, beat)
	return err
}

// observe looks at the member from time to time.
func (a *agent) observe(ctx context.Context) error {
	ticker := time.NewTicker(observeEvery)
	defer ticker.Stop()
	for {
		seen := a.look(ctx)
		a.mu.Lock()
		a.seen = seen
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look sees what there is to see. What cannot be seen is left out and told in the member's error.
func (a *agent) look(ctx context.Context) *agentv1.HeartbeatRequest {
	m, conf, err := a.node.Describe(ctx)
	seen := &agentv1.HeartbeatRequest{Member: m}
	if err != nil {
		return seen
	}
	vaultFree, vaultErr := a.node.Vault.FreeBytes()
	dataFree, dataErr := durable.FreeBytes(conf.DataDir)
	if err := errors.Join(vaultErr, dataErr); err != nil {
		m.Error = err.Error()
	}
	seen.VaultFreeBytes, seen.DataFreeBytes = vaultFree, dataFree
	return seen
}

func (a *agent) lastSeen() *agentv1.HeartbeatRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		return &agentv1.HeartbeatRequest{}
	}
	return a.seen
}

// report sends what tasks report until the session ends.
func (a *agent) report(ctx context.Context, client agentv1.SessionServiceClient, session string) error {
	group, ctx := errgroup.WithContext(ctx)
	stream, err := client.ReportTask(ctx)
	if err != nil {
		return err
	}
	group.Go(func() error { return ended(stream) })
	group.Go(func() error { return a.send(ctx, stream, session) })
	return group.Wait()
}

// ended returns why the controller ended a stream of reports.
func ended(stream agentv1.SessionService_ReportTaskClient) error {
	if err := stream.RecvMsg(new(agentv1.ReportTaskResponse)); err != nil {
		return err
	}
	return errors.New("the controller takes no more reports")
}

func (a *agent) send(ctx context.Context, stream agentv1.SessionService_ReportTaskClient, session string) error {
	for {
		reports, err := a.runner.Next(ctx)
		if err != nil {
			return err
		}
		for _, r := range reports {
			err := stream.Send(&agentv1.ReportTaskRequest{SessionId: session, Report: r})
			if errors.Is(err, io.EOF) {
				return nil // ended tells why
			}
			if err != nil {
				return err
			}
		}
	}
}
