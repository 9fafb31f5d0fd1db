package access

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/internal/pki"
)

// call is a call under way.
type call struct {
	access *Access
	ctx    context.Context // ends with the right to make the call
	end    func()          // forgets the call
	method string
	id     pki.Identity
	cert   *x509.Certificate // nil for a call that anyone may make
}

// check refuses a call whose certificate is not good any more.
func (c *call) check() error {
	if c.cert == nil {
		return nil
	}
	err := c.access.check(c.ctx, c.id, c.cert)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrRevoked), errors.Is(err, ErrExpired), errors.Is(err, ErrNodeUnknown):
		return c.access.refuse(c.ctx, c.method, c.id, codes.Unauthenticated, err.Error())
	}
	c.access.log.Error("a certificate could not be checked", "method", c.method, "identity", c.id.String(), "error", err)
	return status.Error(codes.Unavailable, "the controller cannot read its store; its log says why")
}

// cutOff returns what the caller is told if the call was ended because its certificate was revoked, whatever
// its handler made of that.
func (c *call) cutOff() error {
	if c.cert == nil || !errors.Is(context.Cause(c.ctx), ErrRevoked) {
		return nil
	}
	if err := c.check(); err != nil {
		return err // says more
	}
	return c.access.refuse(c.ctx, c.method, c.id, codes.Unauthenticated, context.Cause(c.ctx).Error())
}

// calls are those under way, by what is revoked to end them.
type calls struct {
	mu   sync.Mutex
	open map[string]map[*context.CancelCauseFunc]struct{}
}

// certificateOf names what is revoked: the key of a node, the one certificate of an operator.
func certificateOf(id pki.Identity, cert *x509.Certificate) string {
	if id.Kind == pki.Node {
		return nodeKey(pki.CertificateKey(cert))
	}
	return operatorSerial(serialOf(cert))
}

func nodeKey(fingerprint string) string   { return "key/" + fingerprint }
func operatorSerial(serial string) string { return "serial/" + serial }

// begin notes a call. The context that it returns ends with end, or with what the call was revoked for.
func (c *calls) begin(ctx context.Context, by string) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = make(map[string]map[*context.CancelCauseFunc]struct{})
	}
	if c.open[by] == nil {
		c.open[by] = make(map[*context.CancelCauseFunc]struct{})
	}
	c.open[by][&cancel] = struct{}{}
	return ctx, func() {
		cancel(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.open[by], &cancel)
		if len(c.open[by]) == 0 {
			delete(c.open, by)
		}
	}
}

// revoke ends every call that was made by it.
func (c *calls) revoke(by string, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cancel := range c.open[by] {
		(*cancel)(cause)
	}
}
