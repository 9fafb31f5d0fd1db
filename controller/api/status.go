package api

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/schedule"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/internal/names"
)

// domain names requorum in google.rpc.ErrorInfo.
const domain = "requorum"

// Status turns an error of the pieces below into what a client sees.
func Status(err error) error { return toStatus(err) }

// toStatus turns an error of the pieces below into what a client sees. An error that is a status
// already, or of the context, stays what it is.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	code, reason := classify(err)
	return withDetails(status.New(code, err.Error()), reason, err)
}

// classify returns the code of an error and the reason that a program can act on.
func classify(err error) (codes.Code, string) {
	var (
		invalid  *snapshot.InvalidError
		badName  *names.Error
		notFound *catalog.NotFoundError
		noOp     *operation.NotFoundError
		noRemote *remote.UnknownError
		exists   *catalog.ExistsError
		busy     *operation.BusyError
		reused   *operation.RequestReusedError
		pivot    *operation.PastPivotError
		failed   *failure.Error
		noPlan   *schedule.NotFoundError
		badPlan  *schedule.InvalidError
	)
	switch {
	case errors.As(err, &invalid), errors.As(err, &badName), errors.As(err, &badPlan):
		return codes.InvalidArgument, "INVALID"
	case errors.As(err, &notFound), errors.As(err, &noOp), errors.As(err, &noRemote), errors.As(err, &noPlan):
		return codes.NotFound, "NOT_FOUND"
	case errors.As(err, &exists):
		return codes.AlreadyExists, "EXISTS"
	case errors.As(err, &busy):
		return codes.FailedPrecondition, "BUSY"
	case errors.As(err, &reused):
		return codes.AlreadyExists, "REQUEST_ID_REUSED"
	case errors.As(err, &pivot):
		return codes.FailedPrecondition, "PAST_PIVOT"
	case errors.As(err, &failed):
		return codes.FailedPrecondition, "NODE_FAILED"
	}
	if errors.Is(err, operation.ErrNotDriving) {
		return codes.Unavailable, "STARTING_OR_STOPPING"
	}
	for _, a := range accessCodes {
		if errors.Is(err, a.err) {
			return a.code, a.reason
		}
	}
	return codes.Internal, "INTERNAL"
}

var accessCodes = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{access.ErrTokenUnknown, codes.Unauthenticated, "TOKEN_UNKNOWN"},
	{access.ErrTokenExpired, codes.Unauthenticated, "TOKEN_EXPIRED"},
	{access.ErrTokenNode, codes.PermissionDenied, "TOKEN_FOR_ANOTHER_NODE"},
	{access.ErrTokenUsed, codes.PermissionDenied, "TOKEN_USED"},
	{access.ErrRequestReused, codes.AlreadyExists, "REQUEST_ID_REUSED"},
	{access.ErrNodeEnrolled, codes.AlreadyExists, "NODE_ENROLLED"},
	{access.ErrNodeUnknown, codes.NotFound, "NOT_FOUND"},
	{access.ErrRevoked, codes.Unauthenticated, "REVOKED"},
	{access.ErrExpired, codes.Unauthenticated, "CERTIFICATE_EXPIRED"},
	{access.ErrTooMany, codes.ResourceExhausted, "TOO_MANY_ATTEMPTS"},
	{access.ErrInvalid, codes.InvalidArgument, "INVALID"},
}

// withDetails adds the machine-readable reason, the node and the advice.
func withDetails(s *status.Status, reason string, err error) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: map[string]string{}}
	var failed *failure.Error
	if errors.As(err, &failed) {
		s = status.New(s.Code(), failed.Message)
		info.Metadata["node"], info.Metadata["advice"] = failed.Node, failed.Advice
	}
	var busy *operation.BusyError
	if errors.As(err, &busy) {
		info.Metadata["operation"] = busy.Running
	}
	detailed, detailErr := s.WithDetails(protoadapt.MessageV1Of(info))
	if detailErr != nil {
		return s.Err()
	}
	return detailed.Err()
}
