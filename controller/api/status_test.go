package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/schedule"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/internal/names"
)

func TestErrorsTellClientsWhatToActOn(t *testing.T) {
	for _, c := range []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{&snapshot.InvalidError{Message: "m"}, codes.InvalidArgument, "INVALID"},
		{&schedule.InvalidError{Message: "m"}, codes.InvalidArgument, "INVALID"},
		{&schedule.NotFoundError{Name: "n"}, codes.NotFound, "NOT_FOUND"},
		{names.Check("snapshot", ".x"), codes.InvalidArgument, "INVALID"},
		{&catalog.NotFoundError{Message: "m"}, codes.NotFound, "NOT_FOUND"},
		{&operation.NotFoundError{ID: "x"}, codes.NotFound, "NOT_FOUND"},
		{&catalog.ExistsError{Cluster: "c", Name: "n"}, codes.AlreadyExists, "EXISTS"},
		{&operation.BusyError{Cluster: "c", Running: "x"}, codes.FailedPrecondition, "BUSY"},
		{&operation.RequestReusedError{RequestID: "r"}, codes.AlreadyExists, "REQUEST_ID_REUSED"},
		{&operation.PastPivotError{ID: "x"}, codes.FailedPrecondition, "PAST_PIVOT"},
		{operation.ErrNotDriving, codes.Unavailable, "STARTING_OR_STOPPING"},
		{failure.On("etcd-1", "disk full", "free space"), codes.FailedPrecondition, "NODE_FAILED"},
		{&failure.Error{Node: "etcd-1", Message: "gone", Cause: dispatch.ErrRemoved}, codes.FailedPrecondition, "NODE_FAILED"},
		{access.ErrTokenUnknown, codes.Unauthenticated, "TOKEN_UNKNOWN"},
		{access.ErrTokenExpired, codes.Unauthenticated, "TOKEN_EXPIRED"},
		{access.ErrTokenNode, codes.PermissionDenied, "TOKEN_FOR_ANOTHER_NODE"},
		{access.ErrTokenUsed, codes.PermissionDenied, "TOKEN_USED"},
		{access.ErrNodeEnrolled, codes.AlreadyExists, "NODE_ENROLLED"},
		{access.ErrNodeUnknown, codes.NotFound, "NOT_FOUND"},
		{access.ErrRevoked, codes.Unauthenticated, "REVOKED"},
		{access.ErrExpired, codes.Unauthenticated, "CERTIFICATE_EXPIRED"},
		{access.ErrInvalid, codes.InvalidArgument, "INVALID"},
		{access.ErrRequestReused, codes.AlreadyExists, "REQUEST_ID_REUSED"},
		{errors.New("write the journal: disk full"), codes.Internal, "INTERNAL"},
	} {
		for _, err := range []error{c.err, fmt.Errorf("wrapped: %w", c.err)} {
			got, _ := status.FromError(toStatus(err))
			if got.Code() != c.code || infoOf(t, got).GetReason() != c.reason {
				t.Errorf("%v: %v %v, want %v %s", err, got.Code(), got.Details(), c.code, c.reason)
			}
		}
	}
}

func infoOf(t *testing.T, s *status.Status) *errdetails.ErrorInfo {
	t.Helper()
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == "requorum" {
			return info
		}
	}
	t.Errorf("%v carries no ErrorInfo", s)
	return nil
}

func TestFailureOfANodeCarriesNodeAndAdvice(t *testing.T) {
	s, _ := status.FromError(toStatus(failure.On("etcd-1", "disk full", "free space")))
	info := infoOf(t, s)
	if s.Message() != "disk full" || info.GetMetadata()["node"] != "etcd-1" || info.GetMetadata()["advice"] != "free space" {
		t.Errorf("%v, %v", s.Message(), info)
	}
}

func TestStatusAndContextErrorsStayWhatTheyAre(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{nil, codes.OK},
		{status.Error(codes.DataLoss, "x"), codes.DataLoss},
		{fmt.Errorf("reports: %w", status.Error(codes.FailedPrecondition, "x")), codes.FailedPrecondition},
		{context.Canceled, codes.Canceled},
		{fmt.Errorf("watch: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
	} {
		if got := status.Code(toStatus(c.err)); got != c.code {
			t.Errorf("%v: %v, want %v", c.err, got, c.code)
		}
	}
}
