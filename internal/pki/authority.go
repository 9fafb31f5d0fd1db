package pki

import (
	"crypto"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/internal/durable"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	// Backdate is how far before its issue a certificate becomes valid, for nodes whose clock is late: a clock that is
	// set to local time where UTC was meant is wrong by hours, and must not keep a node from the controller.
	Backdate = 24 * time.Hour
)

// Authority is the CA that signs every certificate.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// LoadOrCreateAuthority loads ca.crt and ca.key from dir and makes them, and dir, where there are none.
// A certificate without its key is an error: a new CA would lock every node and operator out. Only one
// process may call it for a dir at a time.
func LoadOrCreateAuthority(dir string) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	_, err := os.Stat(certFile)
	switch {
	case err == nil:
		return LoadAuthority(certFile, keyFile)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("look for the CA: %w", err)
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the CA: %w", err)
	}
	key, err := loadOrCreateKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("key of the CA: %w", err)
	}
	der, err := selfSign(key)
	if err != nil {
		return nil, fmt.Errorf("make the CA: %w", err)
	}
	if err := durable.WriteFile(certFile, certificatePEM(der), 0o644); err != nil {
		return nil, fmt.Errorf("write the CA: %w", err)
	}
	return LoadAuthority(certFile, keyFile)
}

// loadOrCreateKey writes the key before its certificate exists; one that is found was left by a crash
// in between and nothing was signed with it yet.
func loadOrCreateKey(path string) (crypto.Signer, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		return ParseKey(text)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	if text, err = KeyPEM(key); err != nil {
		return nil, err
	}
	return key, durable.WriteFile(path, text, 0o600)
}

func selfSign(key crypto.Signer) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "requorum CA " + KeyFingerprint(key.Public())[:8]},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// LoadAuthority loads a CA that was made elsewhere. The first certificate of certFile is the CA; it may
// itself be signed by another.
func LoadAuthority(certFile, keyFile string) (*Authority, error) {
	certs, err := readCertificates(certFile)
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("load key of the CA: %w; %s is of no use without it: put it back from a backup", err, certFile)
	}
	key, err := ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("load key of the CA %s: %w", keyFile, err)
	}
	a := &Authority{cert: certs[0], key: key}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("load CA %s: %w", certFile, err)
	}
	return a, nil
}

func (a *Authority) check() error {
	switch {
	case !a.cert.IsCA || !a.cert.BasicConstraintsValid:
		return errors.New("the first certificate is not a CA's")
	case a.cert.KeyUsage != 0 && a.cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("its key usage does not allow it to sign certificates")
	case !sameKey(a.key, a.cert.PublicKey):
		return errors.New("the key does not fit the certificate")
	case time.Now().After(a.cert.NotAfter):
		return fmt.Errorf("it expired on %s; make a new one and enrol the nodes again", a.cert.NotAfter.Format(time.DateOnly))
	}
	return checkKey(a.cert.PublicKey)
}

// Issue signs a certificate for pub that says id. It is good for ttl but not longer than the CA. hosts
// are the DNS names and IP addresses at which a server is reached; requorum itself does not look at
// them, other clients do. The certificates of nodes and of the controller serve both ends of a link,
// those of operators only the client's.
func (a *Authority) Issue(pub crypto.PublicKey, id Identity, ttl time.Duration, hosts []string) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("issue certificate for %s: %w", id, err) }
	if err := errors.Join(id.Check(), checkKey(pub)); err != nil {
		return fail(err)
	}
	if ttl <= 0 {
		return fail(fmt.Errorf("a life of %s is too short", ttl))
	}
	template, err := a.template(id, ttl)
	if err != nil {
		return fail(err)
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
	if err != nil {
		return fail(err)
	}
	return certificatePEM(der), nil
}

func (a *Authority) template(id Identity, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	notAfter := now.Add(ttl)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.Kind != Operator {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "requorum " + id.Kind.String()},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		URIs:                  []*url.URL{id.URI()},
	}, nil
}

// CAPEM returns the CA's certificate, PEM.
func (a *Authority) CAPEM() []byte { return certificatePEM(a.cert.Raw) }

// Fingerprint returns the SHA-256 of the CA's certificate, DER, in lower-case hexadecimal.
func (a *Authority) Fingerprint() string { return fingerprint(a.cert.Raw) }

// Derive returns 32 secret bytes that depend on the CA's key and label only, so that whatever needs a
// secret that outlives the process does not have to store one.
func (a *Authority) Derive(label string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("derive %s: %w", label, err)
	}
	return hkdf.Key(sha256.New, der, nil, "requorum "+label, sha256.Size)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

// parseCertificates returns the certificates of a PEM text, at least one.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it, or not PEM")
	}
	return certs, nil
}
