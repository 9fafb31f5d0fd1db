package access

import (
	"context"
	"fmt"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/pki"
)

// IssueOperator signs a certificate for an operator and returns it with the CA's. A ttl of 0 stands for
// the default. There is no record of it and no way to revoke it: its life is its limit. The error is
// ErrInvalid for a name, role, ttl or request that is not acceptable.
func (a *Access) IssueOperator(ctx context.Context, csr []byte, name string, role requorumv1.Role, ttl time.Duration) (certPEM, caPEM []byte, err error) {
	fail := func(err error) ([]byte, []byte, error) {
		return nil, nil, fmt.Errorf("issue operator certificate: %w: %w", ErrInvalid, err)
	}
	id := pki.OperatorIdentity(role, name)
	if err := id.Check(); err != nil {
		return fail(err)
	}
	if ttl < 0 {
		return fail(fmt.Errorf("a certificate that lives for %s is of no use", ttl))
	}
	if ttl == 0 {
		ttl = a.options.OperatorTTL
	}
	pub, err := pki.PublicKeyFromCSR(csr)
	if err != nil {
		return fail(err)
	}
	if certPEM, err = a.authority.Issue(pub, id, ttl, nil); err != nil {
		return nil, nil, err
	}
	a.log.Info("operator certificate issued", "operator", id.String(), "ttl", ttl, "by", caller(ctx))
	return certPEM, a.authority.CAPEM(), nil
}
