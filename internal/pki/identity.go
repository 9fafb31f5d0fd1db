package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/names"
)

const scheme = "requorum"

// Kind says what holds a certificate.
type Kind int

// The kinds. The zero Kind is nobody.
const (
	Controller Kind = iota + 1
	Node
	Operator
)

// String returns the kind as it stands in an identity's URI.
func (k Kind) String() string {
	switch k {
	case Controller:
		return "controller"
	case Node:
		return "node"
	case Operator:
		return "operator"
	}
	return "nobody"
}

// Identity says who holds a certificate. Identities are comparable; make them with ControllerIdentity,
// NodeIdentity and OperatorIdentity so that fields which do not belong to the kind are unset.
type Identity struct {
	Kind     Kind
	Cluster  string          // of a node
	Node     string          // of a node: its name
	Operator string          // of an operator: the name
	Role     requorumv1.Role // of an operator
}

// ControllerIdentity is the controller.
func ControllerIdentity() Identity { return Identity{Kind: Controller} }

// NodeIdentity is a node of a cluster.
func NodeIdentity(cluster, node string) Identity {
	return Identity{Kind: Node, Cluster: cluster, Node: node}
}

// OperatorIdentity is a person or program that operates clusters.
func OperatorIdentity(role requorumv1.Role, name string) Identity {
	return Identity{Kind: Operator, Operator: name, Role: role}
}

// URI returns the identity as a certificate carries it: requorum://controller,
// requorum://node/<cluster>/<node> or requorum://operator/<role>/<name>.
func (id Identity) URI() *url.URL {
	u := &url.URL{Scheme: scheme, Host: id.Kind.String()}
	switch id.Kind {
	case Node:
		u.Path = "/" + id.Cluster + "/" + id.Node
	case Operator:
		u.Path = "/" + RoleName(id.Role) + "/" + id.Operator
	}
	return u
}

// String names the identity for people.
func (id Identity) String() string {
	switch id.Kind {
	case Controller:
		return "the controller"
	case Node:
		return fmt.Sprintf("node %s of cluster %s", id.Node, id.Cluster)
	case Operator:
		return fmt.Sprintf("operator %s (%s)", id.Operator, RoleName(id.Role))
	}
	return "nobody"
}

// Check returns an error unless the identity can stand in a certificate.
func (id Identity) Check() error {
	switch id.Kind {
	case Controller:
		return nil
	case Node:
		if err := names.Check("cluster", id.Cluster); err != nil {
			return err
		}
		return names.Check("node", id.Node)
	case Operator:
		if RoleName(id.Role) == "" {
			return fmt.Errorf("role %d is unknown; use viewer, operator or admin", id.Role)
		}
		return names.Check("operator", id.Operator)
	}
	return errors.New("the identity is of no kind")
}

// ErrNoIdentity is in the error of FromCertificate for a certificate that was not made by requorum.
var ErrNoIdentity = errors.New("the certificate carries no requorum identity")

// ErrNoCertificate is returned by FromContext for a caller that showed no certificate.
var ErrNoCertificate = errors.New("the caller showed no certificate")

// FromCertificate returns the identity that a certificate carries. Whether the certificate can be
// trusted is for the caller to know.
func FromCertificate(cert *x509.Certificate) (Identity, error) {
	var found []Identity
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		id, err := parse(u)
		if err != nil {
			return Identity{}, fmt.Errorf("%w: %q: %w", ErrNoIdentity, u, err)
		}
		found = append(found, id)
	}
	if len(found) != 1 {
		return Identity{}, fmt.Errorf("%w: %d URIs of scheme %s, not one", ErrNoIdentity, len(found), scheme)
	}
	return found[0], nil
}

// FromContext returns the identity and the certificate of the peer of a gRPC call. Only a certificate
// that the TLS handshake verified counts; without one the error is ErrNoCertificate.
func FromContext(ctx context.Context) (Identity, *x509.Certificate, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, nil, ErrNoCertificate
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return Identity{}, nil, ErrNoCertificate
	}
	leaf := info.State.VerifiedChains[0][0]
	id, err := FromCertificate(leaf)
	return id, leaf, err
}

func parse(u *url.URL) (Identity, error) {
	var id Identity
	parts := strings.Split(u.Path, "/")
	switch {
	case u.Host == "controller":
		id = ControllerIdentity()
	case u.Host == "node" && len(parts) == 3:
		id = NodeIdentity(parts[1], parts[2])
	case u.Host == "operator" && len(parts) == 3:
		id = OperatorIdentity(roleOf(parts[1]), parts[2])
	}
	if err := id.Check(); err != nil {
		return Identity{}, err
	}
	if id.URI().String() != u.String() { // a port, a query, an escape: nothing that we wrote
		return Identity{}, errors.New("not the way the identity is written")
	}
	return id, nil
}

var roleNames = map[requorumv1.Role]string{
	requorumv1.Role_ROLE_VIEWER:   "viewer",
	requorumv1.Role_ROLE_OPERATOR: "operator",
	requorumv1.Role_ROLE_ADMIN:    "admin",
}

func roleOf(name string) requorumv1.Role {
	for role, n := range roleNames {
		if n == name {
			return role
		}
	}
	return requorumv1.Role_ROLE_UNSPECIFIED
}

// RoleName returns the name of a role as RoleOf takes it; empty for one that is not set.
func RoleName(role requorumv1.Role) string { return roleNames[role] }

// RoleOf returns the role that a name stands for, or an error that lists the names.
func RoleOf(name string) (requorumv1.Role, error) {
	if role := roleOf(name); role != requorumv1.Role_ROLE_UNSPECIFIED {
		return role, nil
	}
	return requorumv1.Role_ROLE_UNSPECIFIED, fmt.Errorf("role %q is unknown; use viewer, operator or admin", name)
}
