package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrPinned is in the error of a handshake with PinnedTLS when the peer is not of the CA pinned.
var ErrPinned = errors.New("the server does not belong to the CA that the join token names; check the controller's address, or make a new token")

// PeerError says that a peer is not who was expected.
type PeerError struct {
	Got, Want Identity
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("the server is %s, not %s; check the address", e.Got, e.Want)
}

// ServerTLS is for the controller: a client may come without a certificate, as it must to enrol, but
// one that it shows has to be of the CA. Whatever needs a certificate is refused by the interceptor.
func ServerTLS(c *Credentials) *tls.Config { return serverTLS(c, tls.VerifyClientCertIfGiven) }

// MutualTLS is for servers whose every client has a certificate of the CA, as an agent's neighbours do.
func MutualTLS(c *Credentials) *tls.Config { return serverTLS(c, tls.RequireAndVerifyClientCert) }

// serverTLS reads the credentials anew for each handshake. Tickets are off, since a resumed session
// would keep an identity that was verified long ago.
func serverTLS(c *Credentials, auth tls.ClientAuthType) *tls.Config {
	present := func() *tls.Config {
		m := c.current()
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			Certificates:           []tls.Certificate{m.cert},
			ClientAuth:             auth,
			ClientCAs:              m.roots,
			NextProtos:             []string{"h2"},
			SessionTicketsDisabled: true,
		}
	}
	config := present()
	config.Certificates = nil
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.current().cert, nil }
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return present(), nil }
	return config
}

// ClientTLS is for a client that expects exactly the server expect: the server's certificate must be
// of the CA and carry that identity. The host name is not compared. A handshake that finds somebody
// else fails with a *PeerError.
func ClientTLS(c *Credentials, expect Identity) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.current().cert, nil
		},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it all, without comparing host names
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyServer(state, c.current().roots, expect)
		},
	}
}

// PinnedTLS is for a node that has nothing yet but the SHA-256 of the CA's certificate, lower-case
// hexadecimal: the server must be the controller and show a chain to that CA. Other servers fail the
// handshake with ErrPinned or a *PeerError.
func PinnedTLS(caFingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it all
		VerifyConnection: func(state tls.ConnectionState) error {
			for _, cert := range state.PeerCertificates {
				if fingerprint(cert.Raw) == caFingerprint && cert.IsCA {
					roots := x509.NewCertPool()
					roots.AddCert(cert)
					return verifyServer(state, roots, ControllerIdentity())
				}
			}
			return ErrPinned
		},
	}
}

func verifyServer(state tls.ConnectionState, roots *x509.CertPool, expect Identity) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	leaf := state.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	got, err := FromCertificate(leaf)
	if err != nil {
		return err
	}
	if got != expect {
		return &PeerError{Got: got, Want: expect}
	}
	return nil
}
