package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/requorum/requorum/internal/durable"
)

// BundleFile is the file in which SaveCredentials keeps key, certificate and CA together: one rename
// replaces all three, so that no crash can leave a key beside a certificate that it does not fit.
const BundleFile = "credentials.pem"

// Credentials are a certificate with its key and the CA to trust. They can be replaced while TLS
// configurations made of them are in use: the next handshake uses the new ones.
type Credentials struct {
	certFile, keyFile, caFile string // empty if not from files

	replacing sync.Mutex // held while files and material change together
	mu        sync.RWMutex
	now       *material
	changed   chan struct{}
}

// material never changes once it is made.
type material struct {
	cert     tls.Certificate // the leaf and the CA that signed it
	identity Identity
	cas      []*x509.Certificate
	roots    *x509.CertPool
}

// NewCredentials makes credentials that are in memory only. It checks that the key fits the
// certificate, that the CA signed it and that it carries an identity; it may have expired.
func NewCredentials(certPEM, keyPEM, caPEM []byte) (*Credentials, error) {
	m, err := newMaterial(certPEM, keyPEM, caPEM)
	if err != nil {
		return nil, err
	}
	return &Credentials{now: m, changed: make(chan struct{})}, nil
}

// LoadCredentials reads credentials from PEM files, which may be one and the same. The error is
// fs.ErrNotExist if one is missing.
func LoadCredentials(certFile, keyFile, caFile string) (*Credentials, error) {
	c := &Credentials{certFile: certFile, keyFile: keyFile, caFile: caFile, changed: make(chan struct{})}
	m, err := c.read()
	if err != nil {
		return nil, err
	}
	c.now = m
	return c, nil
}

// LoadBundle reads what SaveCredentials wrote to dir. The error is fs.ErrNotExist if nothing was.
func LoadBundle(dir string) (*Credentials, error) {
	path := filepath.Join(dir, BundleFile)
	return LoadCredentials(path, path, path)
}

// SaveCredentials writes credentials to BundleFile in dir, which it makes if needed, after checking
// that they fit each other. A crash leaves either the old or the new ones.
func SaveCredentials(dir string, certPEM, keyPEM, caPEM []byte) error {
	if _, err := newMaterial(certPEM, keyPEM, caPEM); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	return saveBundle(filepath.Join(dir, BundleFile), certPEM, keyPEM, caPEM)
}

func saveBundle(path string, parts ...[]byte) error {
	var text []byte
	for _, part := range parts {
		text = append(append(text, bytes.TrimSpace(part)...), '\n')
	}
	if err := durable.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	return nil
}

// Replace puts new credentials of the same identity in place of the old ones. Those that came from a
// bundle are saved to it first; others are replaced in memory only.
func (c *Credentials) Replace(certPEM, keyPEM, caPEM []byte) error {
	m, err := newMaterial(certPEM, keyPEM, caPEM)
	if err != nil {
		return fmt.Errorf("replace credentials: %w", err)
	}
	c.replacing.Lock()
	defer c.replacing.Unlock()
	if err := c.sameIdentity(m); err != nil {
		return err
	}
	if c.certFile != "" && c.certFile == c.keyFile && c.certFile == c.caFile {
		if err := saveBundle(c.certFile, certPEM, keyPEM, caPEM); err != nil {
			return err
		}
	}
	return c.swap(m)
}

// Reload reads the files again. When they do not fit each other, or another identity is in them, the
// credentials stay as they are.
func (c *Credentials) Reload() error {
	if c.certFile == "" {
		return errors.New("reload credentials: they did not come from files")
	}
	c.replacing.Lock()
	defer c.replacing.Unlock()
	m, err := c.read()
	if err != nil {
		return err
	}
	return c.swap(m)
}

func (c *Credentials) swap(m *material) error {
	if err := c.sameIdentity(m); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = m
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

func (c *Credentials) sameIdentity(m *material) error {
	if old := c.Identity(); m.identity != old {
		return fmt.Errorf("replace credentials of %s: the new ones are of %s", old, m.identity)
	}
	return nil
}

func (c *Credentials) current() *material {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.now
}

// Changed returns a channel that is closed when the credentials are next replaced. Connections that
// are open then still carry the old certificate; whoever holds one should dial again.
func (c *Credentials) Changed() <-chan struct{} {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.changed
}

// Identity returns whose credentials these are.
func (c *Credentials) Identity() Identity { return c.current().identity }

// Certificate returns the certificate.
func (c *Credentials) Certificate() *x509.Certificate { return c.current().cert.Leaf }

// NotAfter returns when the certificate expires.
func (c *Credentials) NotAfter() time.Time { return c.Certificate().NotAfter }

// RenewAfter returns when two thirds of the certificate's life are over, counted from its issue.
func (c *Credentials) RenewAfter() time.Time {
	leaf := c.Certificate()
	issued := leaf.NotBefore.Add(Backdate)
	if !issued.Before(leaf.NotAfter) {
		issued = leaf.NotBefore
	}
	return issued.Add(leaf.NotAfter.Sub(issued) * 2 / 3)
}

// Trusts tells whether the CA certificate with that SHA-256, in lower-case hexadecimal, is trusted.
func (c *Credentials) Trusts(caFingerprint string) bool {
	for _, ca := range c.current().cas {
		if fingerprint(ca.Raw) == caFingerprint {
			return true
		}
	}
	return false
}

func (c *Credentials) read() (*material, error) {
	var texts [3][]byte
	for i, path := range []string{c.certFile, c.keyFile, c.caFile} {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("load credentials: %w", err)
		}
		texts[i] = text
	}
	m, err := newMaterial(texts[0], texts[1], texts[2])
	if err != nil {
		return nil, fmt.Errorf("load credentials %s: %w", c.certFile, err)
	}
	return m, nil
}

func newMaterial(certPEM, keyPEM, caPEM []byte) (*material, error) {
	certs, err := parseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	cas, err := parseAuthorities(caPEM)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	leaf := certs[0]
	if !sameKey(key, leaf.PublicKey) {
		return nil, errors.New("the key does not fit the certificate")
	}
	id, err := FromCertificate(leaf)
	if err != nil {
		return nil, err
	}
	issuer := issuerOf(leaf, cas)
	if issuer == nil {
		return nil, fmt.Errorf("the certificate of %s is not signed by the CA beside it", id)
	}
	roots := x509.NewCertPool()
	for _, ca := range cas {
		roots.AddCert(ca)
	}
	chain := tls.Certificate{Certificate: [][]byte{leaf.Raw, issuer.Raw}, PrivateKey: key, Leaf: leaf}
	return &material{cert: chain, identity: id, cas: cas, roots: roots}, nil
}

// parseAuthorities leaves out certificates that are not a CA's, as a bundle holds one.
func parseAuthorities(text []byte) ([]*x509.Certificate, error) {
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, err
	}
	var cas []*x509.Certificate
	for _, cert := range certs {
		if cert.IsCA {
			cas = append(cas, cert)
		}
	}
	if len(cas) == 0 {
		return nil, errors.New("none of the certificates is a CA's")
	}
	return cas, nil
}

func issuerOf(leaf *x509.Certificate, cas []*x509.Certificate) *x509.Certificate {
	for _, ca := range cas {
		if leaf.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}
