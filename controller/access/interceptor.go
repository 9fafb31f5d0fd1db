package access

import (
	"context"
	"crypto/x509"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/internal/pki"
)

// UnaryInterceptor lets a call through only if its caller may make it.
func (a *Access) UnaryInterceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if _, err := a.authorise(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// StreamInterceptor does the same for streams. On a node's stream every message is checked anew, so
// that a stream does not outlive the right to it.
func (a *Access) StreamInterceptor(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	cert, err := a.authorise(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if cert != nil {
		stream = &nodeStream{ServerStream: stream, access: a, cert: cert, method: info.FullMethod}
	}
	return handler(srv, stream)
}

// authorise returns the certificate of a caller that is a node.
func (a *Access) authorise(ctx context.Context, method string) (*x509.Certificate, error) {
	allowed := permissions[method]
	id, cert, err := pki.FromContext(ctx)
	switch {
	case allowed == anyone:
		return nil, nil
	case errors.Is(err, pki.ErrNoCertificate):
		return nil, a.refuse(ctx, method, id, codes.Unauthenticated, "this call needs a client certificate; an admin can issue one")
	case err != nil:
		return nil, a.refuse(ctx, method, id, codes.Unauthenticated, err.Error())
	case a.options.Now().After(cert.NotAfter):
		return nil, a.refuse(ctx, method, id, codes.Unauthenticated, "the certificate of "+id.String()+" has expired; connect again with a new one")
	case callerOf(id)&allowed == 0:
		return nil, a.refuse(ctx, method, id, codes.PermissionDenied, id.String()+" may not call "+method+"; it is for "+allowed.String())
	case id.Kind != pki.Node:
		return nil, nil
	}
	return cert, a.checkCaller(ctx, method, id, cert)
}

func (a *Access) checkCaller(ctx context.Context, method string, id pki.Identity, cert *x509.Certificate) error {
	err := a.CheckNode(ctx, cert)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrRevoked), errors.Is(err, ErrExpired), errors.Is(err, ErrNodeUnknown):
		return a.refuse(ctx, method, id, codes.Unauthenticated, err.Error())
	}
	a.log.Error("node's certificate could not be checked", "method", method, "identity", id.String(), "error", err)
	return status.Error(codes.Unavailable, "the controller cannot read its store; its log says why")
}

// refuse logs a call that is refused and returns what the caller is told.
func (a *Access) refuse(ctx context.Context, method string, id pki.Identity, code codes.Code, reason string) error {
	from := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	a.log.Warn("call refused", "method", method, "identity", id.String(), "peer", from, "code", code.String(), "reason", reason)
	return status.Error(code, reason)
}

// nodeStream is a node's stream that ends with the node's right to it.
type nodeStream struct {
	grpc.ServerStream
	access *Access
	cert   *x509.Certificate
	method string
}

func (s *nodeStream) SendMsg(m any) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *nodeStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.check()
}

func (s *nodeStream) check() error {
	id, _, err := pki.FromContext(s.Context())
	if err != nil {
		return err
	}
	return s.access.checkCaller(s.Context(), s.method, id, s.cert)
}
