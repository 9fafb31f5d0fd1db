package api

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

const defaultLimit = 100

type operations struct {
	requorumv1.UnimplementedOperationServiceServer
	*Server
}

func (s operations) ListOperations(_ context.Context, req *requorumv1.ListOperationsRequest) (*requorumv1.ListOperationsResponse, error) {
	limit := int(req.GetLimit())
	if limit <= 0 {
		limit = defaultLimit
	}
	ops, err := s.Engine.List(req.GetCluster(), limit)
	return &requorumv1.ListOperationsResponse{Operations: ops}, toStatus(err)
}

func (s operations) GetOperation(_ context.Context, req *requorumv1.GetOperationRequest) (*requorumv1.GetOperationResponse, error) {
	op, err := s.Engine.Get(req.GetId())
	return &requorumv1.GetOperationResponse{Operation: op}, toStatus(err)
}

// errNeedsAttention ends the wait for an operation that needs a person.
var errNeedsAttention = errors.New("the operation needs attention")

func (s operations) WaitOperation(ctx context.Context, req *requorumv1.WaitOperationRequest) (*requorumv1.WaitOperationResponse, error) {
	var last *requorumv1.Operation
	err := s.Engine.Watch(ctx, req.GetId(), func(op *requorumv1.Operation) error {
		last = op
		if req.GetOrNeedsAttention() && op.GetAttention() != "" {
			return errNeedsAttention
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNeedsAttention) {
		return nil, toStatus(err)
	}
	return &requorumv1.WaitOperationResponse{Operation: last}, nil
}

func (s operations) WatchOperation(req *requorumv1.WatchOperationRequest, stream requorumv1.OperationService_WatchOperationServer) error {
	var before *requorumv1.Operation
	return toStatus(s.Engine.Watch(stream.Context(), req.GetId(), func(op *requorumv1.Operation) error {
		defer func() { before = op }()
		if before == nil || !proto.Equal(withoutTasks(before), withoutTasks(op)) {
			return stream.Send(&requorumv1.WatchOperationResponse{Event: &requorumv1.WatchOperationResponse_Operation{Operation: op}})
		}
		for _, t := range changedTasks(before, op) {
			if err := stream.Send(&requorumv1.WatchOperationResponse{Event: &requorumv1.WatchOperationResponse_Progress{Progress: t}}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// withoutTasks returns the operation less what changes with every bit of progress.
func withoutTasks(op *requorumv1.Operation) *requorumv1.Operation {
	op = proto.CloneOf(op)
	for _, step := range op.GetSteps() {
		step.Tasks = nil
	}
	return op
}

func changedTasks(before, after *requorumv1.Operation) []*requorumv1.TaskProgress {
	var changed []*requorumv1.TaskProgress
	for i, step := range after.GetSteps() {
		for _, t := range step.GetTasks() {
			same := func(old *requorumv1.TaskProgress) bool { return proto.Equal(old, t) }
			if !slices.ContainsFunc(before.GetSteps()[i].GetTasks(), same) {
				changed = append(changed, t)
			}
		}
	}
	return changed
}

func (s operations) CancelOperation(_ context.Context, req *requorumv1.CancelOperationRequest) (*requorumv1.CancelOperationResponse, error) {
	op, err := s.Engine.Cancel(req.GetId())
	return &requorumv1.CancelOperationResponse{Operation: op}, toStatus(err)
}
