package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

type sessions struct {
	agentv1.UnimplementedSessionServiceServer
	*Server
}

func (s sessions) OpenSession(req *agentv1.OpenSessionRequest, stream agentv1.SessionService_OpenSessionServer) error {
	key, err := callingNode(stream.Context())
	if err != nil {
		return toStatus(err)
	}
	return toStatus(s.Dispatcher.OpenSession(key, req, stream))
}

func (s sessions) Heartbeat(ctx context.Context, req *agentv1.HeartbeatRequest) (*agentv1.HeartbeatResponse, error) {
	key, err := callingNode(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &agentv1.HeartbeatResponse{}, toStatus(s.Dispatcher.Heartbeat(key, req))
}

func (s sessions) ReportTask(stream agentv1.SessionService_ReportTaskServer) error {
	key, err := callingNode(stream.Context())
	if err != nil {
		return toStatus(err)
	}
	return toStatus(s.Dispatcher.ReportTask(key, stream))
}

func (s sessions) PushCopy(stream agentv1.SessionService_PushCopyServer) error {
	key, err := callingNode(stream.Context())
	if err != nil {
		return toStatus(err)
	}
	return toStatus(s.relays.push(key, stream))
}

// RenewRemote hands out what a task of the node was given, as it would be given now.
func (s sessions) RenewRemote(ctx context.Context, req *agentv1.RenewRemoteRequest) (*agentv1.RenewRemoteResponse, error) {
	key, err := callingNode(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	if !s.Dispatcher.Uses(key, req.GetRemote()) {
		return nil, status.Errorf(codes.NotFound, "node %s has no task that uses remote %q", key.Node, req.GetRemote())
	}
	r, err := s.Remotes.Get(req.GetRemote())
	if err != nil {
		return nil, toStatus(err)
	}
	access, err := r.Access(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &agentv1.RenewRemoteResponse{Remote: access}, nil
}
