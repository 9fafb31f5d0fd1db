package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

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
	observeEvery = 2 * time.Second
)

// keepSession opens one session after the other, with full-jitter backoff between them.
func (a *agent) keepSession(ctx context.Context) error {
	pause := &backoff.ExponentialBackOff{InitialInterval: firstRetry, MaxInterval: longestRetry, Multiplier: 2, RandomizationFactor: 1}
	for {
		began := time.Now()
		err := a.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop
		}
		if time.Since(began) > healthy {
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
func (a *agent) session(ctx context.Context) error {
	conn, err := grpc.NewClient(a.cfg.Controller, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(a.creds, pki.ControllerIdentity()))), keepAlive)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := agentv1.NewSessionServiceClient(conn)
	group, ctx := errgroup.WithContext(ctx)
	stream, opened, err := a.open(ctx, client)
	if err != nil {
		return err
	}
	a.setConn(conn)
	defer a.setConn(nil)
	a.log.Info("session opened", "controller", a.cfg.Controller, "epoch", opened.GetOpened().GetEpoch(), "generation", opened.GetOpened().GetGeneration())
	a.runner.MarkAll()
	group.Go(func() error { return a.receive(stream, opened) })
	group.Go(func() error { return a.heartbeat(ctx, client, opened.GetOpened()) })
	group.Go(func() error { return a.report(ctx, client, opened.GetOpened().GetSessionId()) })
	return group.Wait()
}

func (a *agent) setConn(conn *grpc.ClientConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn = conn
}

// open introduces the agent and obeys, or refuses, the controller that answers.
func (a *agent) open(ctx context.Context, client agentv1.SessionServiceClient) (agentv1.SessionService_OpenSessionClient, *agentv1.OpenSessionResponse, error) {
	state, err := a.journal.State()
	if err != nil {
		return nil, nil, err
	}
	stream, err := client.OpenSession(ctx, &agentv1.OpenSessionRequest{
		AgentVersion: version.String(), TransferAddress: a.cfg.Transfer.Advertise, Runtime: a.runtime.Name(), Generation: state.GetGeneration(),
		Epoch: state.GetEpoch(), ControllerId: state.GetControllerId(), Fenced: state.GetFenced(), Member: a.lastSeen().GetMember(),
	})
	if err != nil {
		return nil, nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	if first.GetOpened() == nil {
		return nil, nil, errors.New("the controller did not begin the session")
	}
	if err := a.obey(ctx, first.GetOpened()); err != nil {
		return nil, nil, err
	}
	return stream, first, nil
}

// obey stores the controller's epoch, refuses one that is presumed dead, and fences a node whose data
// is older than the cluster's generation.
func (a *agent) obey(ctx context.Context, opened *agentv1.SessionOpened) error {
	state, err := a.journal.State()
	if err != nil {
		return err
	}
	same := opened.GetEpoch() == state.GetEpoch() && opened.GetControllerId() == state.GetControllerId()
	if opened.GetEpoch() <= state.GetEpoch() && !same {
		return fmt.Errorf("the controller has epoch %d; this node obeys epoch %d of another one", opened.GetEpoch(), state.GetEpoch())
	}
	missed := opened.GetGeneration() > state.GetGeneration()
	fence := missed && !opened.GetAdoptGeneration()
	err = a.journal.Update(func(s *journalv1.AgentRecord) {
		s.Epoch, s.ControllerId = opened.GetEpoch(), opened.GetControllerId()
		if missed && opened.GetAdoptGeneration() {
			s.Generation = opened.GetGeneration()
		}
		s.Fenced = s.GetFenced() || fence
	})
	if err != nil || !fence {
		return err
	}
	a.log.Error("this node missed a restore: etcd is stopped and stays stopped until the node takes part in a restore",
		"generation", state.GetGeneration(), "cluster_generation", opened.GetGeneration())
	return a.runtime.Stop(ctx)
}

// receive hands tasks to the runner until the stream ends.
func (a *agent) receive(stream agentv1.SessionService_OpenSessionClient, m *agentv1.OpenSessionResponse) error {
	for {
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
	ticker := time.NewTicker(opened.GetHeartbeatInterval().AsDuration())
	defer ticker.Stop()
	for {
		beat := proto.CloneOf(a.lastSeen())
		beat.SessionId = opened.GetSessionId()
		state, err := a.journal.State()
		if err != nil {
			return err
		}
		beat.Generation, beat.Fenced = state.GetGeneration(), state.GetFenced()
		if _, err := client.Heartbeat(ctx, beat); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
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
	stream, err := client.ReportTask(ctx)
	if err != nil {
		return err
	}
	for {
		reports, err := a.runner.Next(ctx)
		if err != nil {
			return err
		}
		for _, r := range reports {
			if err := stream.Send(&agentv1.ReportTaskRequest{SessionId: session, Report: r}); err != nil {
				_, cause := stream.CloseAndRecv() // says why the controller ended the stream
				return errors.Join(err, cause)
			}
		}
	}
}
