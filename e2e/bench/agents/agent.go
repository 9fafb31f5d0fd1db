package agents

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/pki"
)

// As in the agent's own session.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = 8 * time.Second
	healthy      = 10 * time.Second
	leastAnswer  = 5 * time.Second
	fixedWindow  = 1 << 20
)

var keepAlive = grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true})

// simulated is one agent.
type simulated struct {
	controller string
	name       string
	creds      *pki.Credentials
	there      *atomic.Int64 // agents with a session whose first heartbeat was answered
	lost       *atomic.Int64 // sessions that have ended

	epoch        uint64
	controllerID string
	beats        int64
}

// keepSession opens one session after the other until ctx ends, with full-jitter backoff between them.
func (a *simulated) keepSession(ctx context.Context) {
	pause := &backoff.ExponentialBackOff{InitialInterval: firstRetry / 2, MaxInterval: longestRetry / 2, Multiplier: 2, RandomizationFactor: 1}
	for ctx.Err() == nil {
		began := time.Now()
		err := a.session(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		a.lost.Add(1)
		if time.Since(began) > healthy {
			pause.Reset()
		}
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// session is one session, from dialling to whatever ends it.
func (a *simulated) session(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := grpc.NewClient(a.controller, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(a.creds, pki.ControllerIdentity()))), keepAlive,
		grpc.WithInitialWindowSize(fixedWindow), grpc.WithInitialConnWindowSize(fixedWindow))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	client := agentv1.NewSessionServiceClient(conn)
	stream, err := client.OpenSession(ctx, &agentv1.OpenSessionRequest{
		AgentVersion: "bench", TransferAddress: "192.0.2.1:7080", Runtime: "process", Epoch: a.epoch, ControllerId: a.controllerID, Member: a.member(),
	})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	opened := first.GetOpened()
	a.epoch, a.controllerID = opened.GetEpoch(), opened.GetControllerId()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ended(stream) })
	group.Go(func() error { return a.heartbeats(ctx, client, opened) })
	group.Go(func() error { return a.reports(ctx, client) })
	return group.Wait()
}

// ended waits for the end of the session. No tasks come.
func ended(stream agentv1.SessionService_OpenSessionClient) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

// reports keeps open the stream on which tasks would be reported.
func (a *simulated) reports(ctx context.Context, client agentv1.SessionServiceClient) error {
	stream, err := client.ReportTask(ctx)
	if err != nil {
		return err
	}
	if err := stream.RecvMsg(new(agentv1.ReportTaskResponse)); err != nil {
		return err
	}
	return errors.New("the controller takes no more reports")
}

func (a *simulated) heartbeats(ctx context.Context, client agentv1.SessionServiceClient, opened *agentv1.SessionOpened) error {
	interval := opened.GetHeartbeatInterval().AsDuration()
	if interval <= 0 {
		return errors.New("the controller did not begin the session")
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for first := true; ; first = false {
		if err := a.beat(ctx, client, opened.GetSessionId(), max(3*interval, leastAnswer)); err != nil {
			return err
		}
		if first {
			a.there.Add(1)
			defer a.there.Add(-1)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func (a *simulated) beat(ctx context.Context, client agentv1.SessionServiceClient, session string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := client.Heartbeat(ctx, &agentv1.HeartbeatRequest{
		SessionId: session, Member: a.member(), VaultFreeBytes: 40 << 30, DataFreeBytes: 40<<30 - uint64(a.beats),
	})
	return err
}

// member makes up a member of five, which has written since it was last told of.
func (a *simulated) member() *requorumv1.Member {
	a.beats++
	m := &requorumv1.Member{
		Id: "8e9e05c52164694d", Name: a.name, ClusterId: "cdf818194e3a8c32", Serving: true, Leader: "8e9e05c52164694d",
		PeerUrls: []string{"https://192.0.2.1:2380"}, ClientUrls: []string{"https://192.0.2.1:2379", "https://127.0.0.1:2379"},
		Revision: 1_000_000 + 100*a.beats, RaftAppliedIndex: uint64(2_000_000 + 100*a.beats), RaftTerm: 7, Version: "3.6.5",
		DbSize: 1 << 30, DbSizeInUse: 1<<30 - 4096*a.beats, DataDir: "/var/lib/etcd", QuotaBytes: 8 << 30,
	}
	for i := range nodesPerCluster {
		m.Members = append(m.Members, &requorumv1.ListedMember{
			Id: fmt.Sprintf("8e9e05c52164694%x", i), Name: nodeName(i),
			PeerUrls: []string{"https://192.0.2.1:2380"}, ClientUrls: []string{"https://192.0.2.1:2379"},
		})
	}
	return m
}
