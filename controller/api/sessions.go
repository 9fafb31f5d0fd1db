package api

import (
	"context"

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
