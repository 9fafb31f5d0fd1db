package access

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/internal/pki"
)

const noCertificate = "this call needs a client certificate; an admin can issue one"

// UnaryInterceptor lets a call through only if its caller may make it, and ends it when that is over.
func (a *Access) UnaryInterceptor(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c, err := a.begin(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer c.end()
	resp, err := handler(c.ctx, req) //nolint:contextcheck // made from ctx
	if cut := c.cutOff(); cut != nil {
		return nil, cut
	}
	return resp, err
}

// StreamInterceptor does the same for streams. Every message is checked anew, so that a stream does not
// outlive the right to it.
func (a *Access) StreamInterceptor(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c, err := a.begin(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer c.end()
	err = handler(srv, &checkedStream{ServerStream: stream, call: c})
	if cut := c.cutOff(); cut != nil {
		return cut
	}
	return err
}

// begin lets a call in, or says why not. The call is known before it is checked, so that a certificate
// that is revoked in between ends it.
func (a *Access) begin(ctx context.Context, method string) (*call, error) {
	allowed := permissions[method]
	id, cert, err := pki.FromContext(ctx)
	switch {
	case allowed == anyone:
		return &call{ctx: ctx, end: func() {}}, nil
	case errors.Is(err, pki.ErrNoCertificate):
		return nil, a.refuse(ctx, method, id, codes.Unauthenticated, noCertificate)
	case err != nil:
		return nil, a.refuse(ctx, method, id, codes.Unauthenticated, err.Error())
	case callerOf(id)&allowed == 0:
		return nil, a.refuse(ctx, method, id, codes.PermissionDenied, id.String()+" may not call "+method+"; it is for "+allowed.String())
	}
	c := &call{access: a, method: method, id: id, cert: cert}
	c.ctx, c.end = a.calls.begin(ctx, certificateOf(id, cert))
	if err := c.check(); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// check tells whether the certificate of a call that began is still good.
func (a *Access) check(ctx context.Context, id pki.Identity, cert *x509.Certificate) error {
	if a.options.Now().After(cert.NotAfter) {
		return fmt.Errorf("%w: that of %s; connect again with a new one", ErrExpired, id)
	}
	if id.Kind == pki.Node {
		return a.CheckNode(ctx, cert)
	}
	return a.CheckOperator(cert)
}

// refuse logs and notes a call that is refused and returns what the caller is told.
func (a *Access) refuse(ctx context.Context, method string, id pki.Identity, code codes.Code, reason string) error {
	logged := a.refused(ctx, "call refused", "method", method, "identity", id.String(), "code", code.String(), "reason", reason)
	if logged && id.Kind != 0 {
		a.options.Denied(ctx, method, code, reason)
	}
	return status.Error(code, reason)
}

// checkedStream is a stream that ends with its caller's right to it.
type checkedStream struct {
	grpc.ServerStream
	call *call
}

func (s *checkedStream) Context() context.Context { return s.call.ctx }

func (s *checkedStream) SendMsg(m any) error {
	if err := s.call.check(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.call.check()
}
