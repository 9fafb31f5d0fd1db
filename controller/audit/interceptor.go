package audit

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/pki"
)

// Calls notes the calls of a gRPC server in a log.
type Calls struct {
	Log *Log
	// Audited tells which methods are noted.
	Audited func(method string) bool
	// Admit refuses a call before it is noted; may be nil. It keeps strangers from filling the log.
	Admit func(ctx context.Context, method string) error
	// Cluster tells which cluster an operation is about, empty if that is not known; may be nil.
	Cluster func(operationID string) string
}

// Unary notes a call before it is done, and its outcome before it is acknowledged.
func (c *Calls) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !c.Audited(info.FullMethod) {
		return handler(ctx, req)
	}
	called, err := c.called(ctx, info.FullMethod, req)
	if err != nil {
		return nil, err
	}
	resp, err := handler(ctx, req)
	if unwritten := c.answered(called, resp, err); unwritten != nil {
		return nil, unwritten
	}
	return resp, err
}

// Stream does the same for streams: the first message is the request.
func (c *Calls) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !c.Audited(info.FullMethod) {
		return handler(srv, stream)
	}
	noted := &notedStream{ServerStream: stream, calls: c, method: info.FullMethod}
	err := handler(srv, noted)
	if noted.called == nil {
		return err
	}
	if unwritten := c.answered(noted.called, nil, err); unwritten != nil {
		return unwritten
	}
	return err
}

type notedStream struct {
	grpc.ServerStream
	calls  *Calls
	method string
	called *requorumv1.AuditEntry
}

func (s *notedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil || s.called != nil {
		return err
	}
	called, err := s.calls.called(s.Context(), s.method, m)
	s.called = called
	return err
}

// called notes that a call is about to be done. The error is a status.
func (c *Calls) called(ctx context.Context, method string, req any) (*requorumv1.AuditEntry, error) {
	if c.Admit != nil {
		if err := c.Admit(ctx, method); err != nil {
			return nil, err
		}
	}
	e := whose(ctx, method)
	e.Event = requorumv1.AuditEvent_AUDIT_EVENT_CALLED
	c.about(e, req)
	if err := setRequest(e, req); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if err := c.Log.add(e); err != nil {
		c.Log.log.Error("a call is refused because it cannot be noted in the audit log", "method", method, "by", e.GetBy(), "error", err)
		return nil, status.Error(codes.Unavailable, "nothing was done, because the controller cannot write its audit log; its own log says why")
	}
	return e, nil
}

// answered notes how a call ended. Where that fails, the error is what the caller is told instead.
func (c *Calls) answered(called *requorumv1.AuditEntry, resp any, failed error) error {
	e := &requorumv1.AuditEntry{
		Event: requorumv1.AuditEvent_AUDIT_EVENT_ANSWERED, Call: called.GetId(), Method: called.GetMethod(), By: called.GetBy(),
		Certificate: called.GetCertificate(), Peer: called.GetPeer(), Cluster: called.GetCluster(), OperationId: called.GetOperationId(),
	}
	told := status.Convert(failed)
	e.Code, e.Message = told.Code().String(), told.Message()
	if failed == nil {
		setAnswer(e, resp)
	}
	err := c.Log.add(e)
	if err == nil {
		return nil
	}
	c.Log.log.Error("how a call ended cannot be noted in the audit log", "method", e.GetMethod(), "by", e.GetBy(), "code", e.GetCode(),
		"operation", e.GetOperationId(), "error", err)
	if failed != nil {
		return failed
	}
	return status.Error(codes.Unavailable, "the call was done, and the controller cannot write its audit log; its own log says why. See what it did before you make it again")
}

// Denied notes that somebody may not make a call.
func (c *Calls) Denied(ctx context.Context, method string, code codes.Code, reason string) {
	if !c.Audited(method) {
		return
	}
	e := whose(ctx, method)
	e.Event, e.Code, e.Message = requorumv1.AuditEvent_AUDIT_EVENT_DENIED, code.String(), reason
	if err := c.Log.add(e); err != nil {
		c.Log.log.Error("a call that was refused cannot be noted in the audit log", "method", method, "by", e.GetBy(), "error", err)
	}
}

// whose returns an entry that says who makes a call, and from where.
func whose(ctx context.Context, method string) *requorumv1.AuditEntry {
	e := &requorumv1.AuditEntry{Method: strings.TrimPrefix(method, "/"), By: nobody}
	if p, ok := peer.FromContext(ctx); ok {
		e.Peer = p.Addr.String()
	}
	id, cert, err := pki.FromContext(ctx)
	if err != nil {
		return e
	}
	e.By, e.Certificate = id.String(), cert.SerialNumber.Text(16)
	e.Cluster = id.Cluster
	return e
}

// about notes what a request says of its cluster and operation.
func (c *Calls) about(e *requorumv1.AuditEntry, req any) {
	if r, ok := req.(interface{ GetCluster() string }); ok {
		e.Cluster = r.GetCluster()
	}
	if r, ok := req.(interface {
		GetSpec() *requorumv1.RestoreSpec
	}); ok {
		e.Cluster = r.GetSpec().GetCluster()
	}
	if r, ok := req.(*requorumv1.CancelOperationRequest); ok {
		e.OperationId = r.GetId()
		if c.Cluster != nil {
			e.Cluster = c.Cluster(r.GetId())
		}
	}
}

// setAnswer notes the operation that a call has begun, or the certificate that it has issued.
func setAnswer(e *requorumv1.AuditEntry, resp any) {
	switch r := resp.(type) {
	case interface {
		GetOperation() *requorumv1.Operation
	}:
		e.OperationId = r.GetOperation().GetId()
		e.Cluster = r.GetOperation().GetCluster()
	case interface{ GetCertificate() []byte }:
		setIssued(e, r.GetCertificate())
	}
}

func setIssued(e *requorumv1.AuditEntry, certPEM []byte) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return
	}
	id, err := pki.FromCertificate(cert)
	if err != nil {
		return
	}
	e.Issued, e.IssuedCertificate = id.String(), cert.SerialNumber.Text(16)
	if id.Cluster != "" {
		e.Cluster = id.Cluster
	}
}

// Ended notes the end of an operation, in the transaction that journals it. Flush brings it to the file.
func (l *Log) Ended(tx store.Tx, op *requorumv1.Operation) error {
	return l.put(tx, &requorumv1.AuditEntry{
		Event: requorumv1.AuditEvent_AUDIT_EVENT_ENDED, By: op.GetRequestedBy(), Cluster: op.GetCluster(), OperationId: op.GetId(),
		OperationKind: op.GetKind(), OperationState: op.GetState(), Snapshot: op.GetSnapshot(), Message: op.GetFailure().GetMessage(),
	})
}
