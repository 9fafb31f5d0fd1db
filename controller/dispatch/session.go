package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// session is one connection of an agent. Messages queue up in outbox, which wake announces.
type session struct {
	id        string
	cancel    context.CancelCauseFunc
	heartbeat *time.Timer
	outbox    []*agentv1.OpenSessionResponse // guarded by Dispatcher.mu
	told      map[string]bool                // nodes whose keys the agent was told; guarded by Dispatcher.mu
	wake      chan struct{}
}

// send queues a message. The caller holds Dispatcher.mu.
func (s *session) send(m *agentv1.OpenSessionResponse) {
	s.outbox = append(s.outbox, m)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Info is what a node last told of itself.
type Info struct {
	Connected       bool
	Seen            time.Time
	AgentVersion    string
	TransferAddress string
	Runtime         string
	Generation      uint64
	Fenced          bool
	Member          *requorumv1.Member
	VaultFreeBytes  uint64
	DataFreeBytes   uint64
	Obeys           uint64 // epoch of another controller that the node obeys and this one is fenced by; 0 if there is none
}

// Away says why a node has no session, and what to do: advice, unless the node obeys another controller.
func (i Info) Away(advice string) (message, todo string) {
	if i.Obeys == 0 {
		return "its agent is not connected", advice
	}
	return fmt.Sprintf("it obeys another controller, of epoch %d: this controller is fenced and does nothing there", i.Obeys),
		fmt.Sprintf("use the other controller; if there is none any more, start this one once with --epoch-at-least %d", i.Obeys+1)
}

// OpenSession serves the session of the node that key names, until it ends.
func (d *Dispatcher) OpenSession(key Key, req *agentv1.OpenSessionRequest, stream grpc.ServerStreamingServer[agentv1.OpenSessionResponse]) error {
	if err := d.fenced(key, req); err != nil {
		return err
	}
	generation, adopt, err := d.records.Generation(key.Cluster, key.Node)
	if err != nil {
		return err
	}
	if err := d.records.Seen(key.Cluster, key.Node, req.GetTransferAddress()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	s := &session{id: ulid.Make().String(), cancel: cancel, told: make(map[string]bool), wake: make(chan struct{}, 1)}
	s.heartbeat = time.AfterFunc(3*d.opts.Heartbeat, func() { cancel(errors.New("no heartbeat")) })
	defer s.heartbeat.Stop()
	opened := &agentv1.SessionOpened{
		SessionId: s.id, HeartbeatInterval: durationpb.New(d.opts.Heartbeat),
		Epoch: d.epoch, ControllerId: d.controllerID, Generation: generation, AdoptGeneration: adopt,
	}
	n := d.open(key, s, req, opened)
	if err := d.stillOf(key, generation); err != nil {
		cancel(err)
	}
	d.log.Info("session opened", "cluster", key.Cluster, "node", key.Node, "agent", req.GetAgentVersion(), "generation", req.GetGeneration())
	err = d.pump(ctx, key.Cluster, s, stream)
	d.close(n, s)
	d.log.Info("session ended", "cluster", key.Cluster, "node", key.Node, "reason", err)
	return status.Error(codes.Unavailable, err.Error())
}

// stillOf fails if the cluster was restored while the session opened. Reconnect ends sessions that it
// sees; this one may have come too late for that, and would not learn that its node is fenced.
func (d *Dispatcher) stillOf(key Key, generation uint64) error {
	now, _, err := d.records.Generation(key.Cluster, key.Node)
	if err == nil && now != generation {
		err = errGeneration
	}
	return err
}

// errGeneration is why a session ends whose node has to learn the cluster's generation.
var errGeneration = errors.New("the cluster's generation has changed")

// fenced refuses an agent that obeys a newer controller than this one.
func (d *Dispatcher) fenced(key Key, req *agentv1.OpenSessionRequest) error {
	if req.GetEpoch() < d.epoch || req.GetEpoch() == d.epoch && req.GetControllerId() == d.controllerID {
		return nil
	}
	d.log.Error("this controller is fenced: a node obeys another one. If this is the only controller, start it once with --epoch-at-least",
		"cluster", key.Cluster, "node", key.Node, "epoch", d.epoch, "node_epoch", req.GetEpoch(), "epoch_at_least", req.GetEpoch()+1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.node(key).info.Obeys = req.GetEpoch()
	return status.Errorf(codes.FailedPrecondition, "controller of epoch %d is fenced by epoch %d", d.epoch, req.GetEpoch())
}

// open makes s the node's session, ends an older one and queues everything that is wanted of the node.
func (d *Dispatcher) open(key Key, s *session, req *agentv1.OpenSessionRequest, opened *agentv1.SessionOpened) *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.node(key)
	n.end(errors.New("replaced by a newer session of the node"))
	n.session, n.seen = s, time.Now()
	n.info.AgentVersion, n.info.TransferAddress, n.info.Runtime = req.GetAgentVersion(), req.GetTransferAddress(), req.GetRuntime()
	n.info.Generation, n.info.Fenced, n.info.Member, n.info.Obeys = req.GetGeneration(), req.GetFenced(), req.GetMember(), 0
	first := &agentv1.OpenSessionResponse{Opened: opened, Neighbours: neighbours(req.GetReaders())}
	for _, p := range n.tasks {
		first.Tasks = append(first.Tasks, p.task)
	}
	s.send(first)
	n.signal()
	return n
}

// pump sends what is queued until the session ends, and returns why it ended.
func (d *Dispatcher) pump(ctx context.Context, cluster string, s *session, stream grpc.ServerStreamingServer[agentv1.OpenSessionResponse]) error {
	for ctx.Err() == nil {
		outbox := d.take(s)
		for _, m := range outbox {
			m, err := d.withKeys(cluster, s, m)
			if err != nil {
				return err
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
	return context.Cause(ctx)
}

// take returns what is queued.
func (d *Dispatcher) take(s *session) []*agentv1.OpenSessionResponse {
	d.mu.Lock()
	defer d.mu.Unlock()
	outbox := s.outbox
	s.outbox = nil
	return outbox
}

func (d *Dispatcher) close(n *node, s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n.session == s {
		n.end(nil)
	}
}

// Heartbeat notes a sign of life.
func (d *Dispatcher) Heartbeat(key Key, req *agentv1.HeartbeatRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.current(key, req.GetSessionId())
	if err != nil {
		return err
	}
	n.seen = time.Now()
	n.session.heartbeat.Reset(3 * d.opts.Heartbeat)
	n.info.Member, n.info.Generation, n.info.Fenced = req.GetMember(), req.GetGeneration(), req.GetFenced()
	n.info.VaultFreeBytes, n.info.DataFreeBytes = req.GetVaultFreeBytes(), req.GetDataFreeBytes()
	return nil
}

// current returns the node if id is its session. The caller holds mu.
func (d *Dispatcher) current(key Key, id string) (*node, error) {
	n := d.nodes[key]
	if n == nil || n.session == nil || n.session.id != id {
		return nil, status.Error(codes.FailedPrecondition, "this session has ended; open another one")
	}
	return n, nil
}

// ReportTask takes a node's reports until the stream or the session ends.
func (d *Dispatcher) ReportTask(key Key, stream grpc.ClientStreamingServer[agentv1.ReportTaskRequest, agentv1.ReportTaskResponse]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&agentv1.ReportTaskResponse{})
		}
		if err != nil {
			return fmt.Errorf("task reports of %s: %w", key.Node, err)
		}
		if err := d.report(key, req); err != nil {
			return err
		}
	}
}

// report hands a report to whoever waits for it. Only the newest one counts.
func (d *Dispatcher) report(key Key, req *agentv1.ReportTaskRequest) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.current(key, req.GetSessionId())
	if err != nil {
		return err
	}
	n.seen = time.Now()
	p := n.tasks[req.GetReport().GetTaskId()]
	if p == nil {
		return nil // nobody waits for it any more
	}
	select {
	case <-p.reports: // a report that was not looked at yet; if it ended the task, so does the new one
	default:
	}
	p.reports <- req.GetReport()
	return nil
}

// Info returns what a node last told of itself.
func (d *Dispatcher) Info(key Key) Info {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[key]
	if n == nil {
		return Info{}
	}
	info := n.info
	info.Connected, info.Seen = n.session != nil, n.seen
	return info
}
